"""Engines that estimators share, so that many small fits compile a few programs."""

import dataclasses
import functools

from dist_fm.config import Config, DataConfig, RunConfig, TrainConfig
from dist_fm.data.schema import Field, Label, Schema
from dist_fm.parallel.mesh import make_mesh, start_devices
from dist_fm.tables.unique import quarter_octave
from dist_fm.training.step import Engine

KEPT = 32  # engines in memory, with their compiled steps; the one that was used longest ago goes first
LABELS = {"bce": Label("y", "binary"), "mse": Label("y", "value")}

Shape = tuple[tuple[int, bool, str | None], ...]  # of fields: slots, whether they are pooled, role


def shared_engine(config: Config, schema: Schema) -> Engine:
    """An engine for ``config``, on its devices, and ``schema``, compiled or to be compiled.

    What is compiled depends on the shape of ``schema``, not on its vocabularies, and neither on seed nor on epochs. The
    number of table rows, which bounds the first factors, is rounded up to quarters of an octave.
    """
    shape = tuple((field.slots, field.is_pooled, field.role) for field in schema.fields)
    train = config.train
    compiled = TrainConfig(loss=train.loss, bf16=train.bf16)
    if config.tables.dtype == "bfloat16":
        compiled = dataclasses.replace(compiled, seed=train.seed)  # by which rows are rounded
    about = dataclasses.replace(config, data=DataConfig(), run=RunConfig(devices=config.run.devices), train=compiled)
    return _engine(about, shape, quarter_octave(schema.num_rows), schema.has_values).lent(config, schema)


@functools.lru_cache(KEPT)
def _engine(config: Config, shape: Shape, rows: int, has_values: bool) -> Engine:
    fields = tuple(
        Field(f"field {number}", "categorical", rows, 0, slots, role, transform={} if is_pooled else {"pool": "none"})
        for number, (slots, is_pooled, role) in enumerate(shape)
    )
    schema = Schema("X", fields, LABELS[config.train.loss], has_values=has_values)
    return Engine(config, schema, make_mesh(start_devices(config.run.devices)))

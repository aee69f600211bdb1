"""The benchmarks' work as our engine takes it: a schema, an engine by flags, and distinct host batches read ahead."""

import argparse
import collections
import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import shapes

from dist_fm.config import FlagValue, build_config
from dist_fm.data.pipeline import Batch, Groups
from dist_fm.data.records import READ_AHEAD, HostBatch
from dist_fm.data.schema import EMPTY, Field, Label, Schema
from dist_fm.errors import UserError
from dist_fm.models import get_model
from dist_fm.parallel.mesh import make_mesh, start_devices
from dist_fm.training.step import Engine

TORCHFM_L2 = 1e-6


def make_schema(shape: str, stride: int = 1) -> Schema:
    """Single-valued categorical fields of the shape's sizes; the two of ``movielens`` are user and item."""
    sizes = shapes.field_sizes(shape, stride)
    roles = ("user", "item") if shape == "movielens" else (None,) * len(sizes)
    fields = tuple(
        Field(f"f{number}", "categorical", rows, int(offset), role=role)
        for number, (rows, offset, role) in enumerate(zip(sizes, shapes.offsets(sizes), roles, strict=True))
    )
    return Schema(shape, fields, Label("label", "binary"))


def make_engine(options: argparse.Namespace, schema: Schema) -> Engine:
    """The engine that ``options`` describe, on the devices they ask for; starts JAX."""
    sections: dict[str, dict[str, Any]] = {
        "model": {"name": options.model, **(_plain(options.model) if options.network == "plain" else {})},
        "tables": {"update": options.update},
        "optimizer": {},
        "train": {"batch_size": options.batch},
    }
    if options.network != "plain":
        sections["optimizer"] |= {"l2_embedding": TORCHFM_L2, "l2_network": TORCHFM_L2}
    if options.update == "sparse":
        sections["tables"]["optimizer"] = options.optimizer  # the network's stays Adam
    else:
        sections["optimizer"]["name"] = options.optimizer
    for key in ("placement", "dtype"):
        if getattr(options, key) is not None:
            sections["tables"][key] = getattr(options, key)
    for text in options.set or []:
        name, _, value = text.partition("=")
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = FlagValue(name, value)
    mesh = make_mesh(start_devices(options.devices, options.platform))
    return Engine(build_config(sections, "the benchmark's flags"), schema, mesh)


def _plain(model: str) -> dict[str, Any]:
    """The model's settings that switch BatchNorm and dropout off."""
    keys = [field.name for field in dataclasses.fields(get_model(model).Config)]
    return {key: 0.0 for key in keys if key.endswith("dropout")} | {key: False for key in keys if key == "batch_norm"}


class HostBatches:
    """Distinct host batches by step, as a source of stored data makes them, from ids drawn beforehand."""

    def __init__(self, options: argparse.Namespace, schema: Schema, padded_batch: int):
        batch, self._steps = options.batch, options.steps
        try:
            self._rows = shapes.load_ids(options.ids, options.shape, options.stride, batch, self._steps)
        except (OSError, ValueError) as error:
            raise UserError(str(error)) from error
        self._rows += schema.slot_offsets
        self._labels = shapes.labels(batch * self._steps)
        self.batch_size, self._padded = batch, padded_batch

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> HostBatch:
        part = slice(step * self.batch_size, (step + 1) * self.batch_size)
        batch = {name: np.zeros(self._padded, np.float32) for name in ("labels", "weights", "mask")}
        batch["labels"][: self.batch_size] = self._labels[part]
        batch["weights"][: self.batch_size] = batch["mask"][: self.batch_size] = 1
        batch["rows"] = np.full((self._padded, self._rows.shape[1]), EMPTY, np.int32)
        batch["rows"][: self.batch_size] = self._rows[part]
        return batch


def read_ahead(engine: Engine, source: HostBatches, threads: int) -> Iterator[Batch]:
    """The batches of ``source``, prepared by ``threads`` threads, as `batches` has Grain's do it."""
    groups, waiting = Groups(source, engine.schema.num_slots), collections.deque[Future[list[Batch]]]()
    with ThreadPoolExecutor(threads, "prepare") as pool:
        for number in range(len(groups)):
            waiting.append(pool.submit(lambda number: engine.prepare_all(groups[number]), number))
            if len(waiting) * groups.size > READ_AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

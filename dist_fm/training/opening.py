"""What training, evaluation, prediction and warm starts open: the devices of all hosts, and a run's best weights."""

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from dist_fm.checkpoint import Checkpoints
from dist_fm.config import Config, RunConfig
from dist_fm.data.schema import Schema, SchemaError, read_schema
from dist_fm.errors import UserError, nearest
from dist_fm.parallel.hosts import Hosts, find_hosts, first_decides
from dist_fm.parallel.mesh import make_mesh, start_devices
from dist_fm.run_dir import RunDir
from dist_fm.training.placement import choose_update
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine

SPLITS = ("train", "valid", "test")


def open_mesh(run: RunConfig) -> Mesh:
    """The devices that ``run`` asks for, of this host and of those it names or a launcher started, in one mesh."""
    return make_mesh(start_devices(run.devices, run.platform, hosts_of(run), run.heartbeat_s))


def hosts_of(run: RunConfig) -> Hosts:
    """The hosts that ``run`` names, or a launcher started."""
    return find_hosts(run.hosts, run.host, run.coordinator)


def settle_update(config: Config, run: RunDir, schema: Schema) -> Config:
    """``tables.update = auto`` as dense or sparse: as the run has it, or, for a new one, by the size of the table."""
    if config.tables.update != "auto":
        return config
    stored = lambda: run.config().tables.update if run.config_file.is_file() else choose_update(config, schema)
    return dataclasses.replace(config, tables=dataclasses.replace(config.tables, update=first_decides(stored)))


def open_best(run: RunDir, mesh: Mesh, *, dtype: Any = jnp.float32) -> tuple[Engine, TrainState]:
    """The engine of a run and the weights of its best step (of its last, where none was chosen yet).

    The table lies as ``mesh`` suits, wherever it lay in training.
    """
    schema = run.schema()
    config = settle_update(run.config(), run, schema)
    config = dataclasses.replace(config, tables=dataclasses.replace(config.tables, placement="auto"))
    engine = Engine(config, schema, mesh, dtype=dtype)
    checkpoints = Checkpoints(run.path, read_only=True)
    try:
        if checkpoints.best_step() is None:
            raise UserError(f"{run.path} holds no trained model yet: no evaluation of it has finished")
        result = run.result()
        step = result["best_step"] if result else None
        return engine, checkpoints.restore_best(engine.abstract_state(), step)
    finally:
        checkpoints.close()


def data_of(run: RunDir, given: str = "") -> pathlib.Path:
    """The data set ``given``, or the run's own; raises ``SchemaError`` for one that the run's model does not fit."""
    data = pathlib.Path(given or run.config().data.path)
    schema, trained = read_schema(data), run.schema()
    if schema.fingerprint != trained.fingerprint:
        raise SchemaError(
            f"{data} has schema fingerprint {schema.fingerprint[:12]}, but {run.path} was trained on "
            f"{trained.fingerprint[:12]} ({trained.name!r}): other fields or another vocabulary"
        )
    return data


def check_split(name: str) -> str:
    """``name``, if it is a split's; else raises ``UserError``."""
    if name not in SPLITS:
        raise UserError(f"--split={name}: {nearest(name, SPLITS)}")
    return name

"""A training run from configuration to result.json: open the data, restore or start, train, test the best."""

import dataclasses
import pathlib
from typing import Any

from jax.sharding import Mesh

from dist_fm.checkpoint import Checkpoints
from dist_fm.config import Config
from dist_fm.data.schema import Schema, read_schema
from dist_fm.data.shards import open_split
from dist_fm.data.store import BlockStore
from dist_fm.errors import UserError
from dist_fm.parallel.mesh import describe, make_mesh, start_devices
from dist_fm.run_dir import RunDir
from dist_fm.training.evaluation import evaluate
from dist_fm.training.hooks import make_hooks
from dist_fm.training.loop import Loop, total_steps
from dist_fm.training.placement import choose_update
from dist_fm.training.progress import Progress
from dist_fm.training.resume import check_same_run
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine
from dist_fm.training.warm_start import warm_start

Result = dict[str, Any]


def train(config: Config) -> Result:
    """Trains as ``config`` says and returns what result.json holds; starts, goes on, or reports a finished run.

    Raises ``UserError`` or ``SchemaError`` for anything the user can put right.
    """
    data = pathlib.Path(config.data.path)
    schema = read_schema(data)
    _check_loss(config, schema)
    run = RunDir(config.run.output_dir or f"runs/{data.resolve().name}_{config.model_name}")
    config = _settle_update(config, run, schema)
    goes_on = _goes_on(config, run, schema)
    stores = {split: open_split(data, split) for split in ("train", "valid", "test")}
    if not stores["train"].rows:
        raise UserError(f"{data}: the training split has no rows")
    steps = total_steps(config, stores["train"].rows)
    result = run.result()
    if result and result["steps"] >= steps or result and result["stopped_early"]:
        print(f"{run.path} is finished: step {result['steps']}, nothing left to do")
        return result

    mesh = make_mesh(start_devices(config.run.devices, config.run.platform))
    print(f"devices: {describe(mesh)}", flush=True)
    engine = Engine(config, schema, mesh)
    print(describe_run(config, schema, engine, stores["train"].rows, run), flush=True)
    run.create(config, data)  # nothing was written before everything had been checked
    checkpoints = Checkpoints(run.path, config.run.keep_checkpoint_max)
    try:
        state, progress = _first_state(config, engine, run, checkpoints, goes_on)
        hooks = make_hooks(config.run, run, int(state.step), steps)
        loop = Loop(engine, state, progress, stores["train"], stores["valid"], checkpoints, hooks)
        state, progress = loop.run()
        best = checkpoints.restore_best(state, progress.best_step)
        result = _result(config, engine, progress, int(state.step), best, stores)
    finally:
        checkpoints.close()
    run.write_result(result)
    return result


def _settle_update(config: Config, run: RunDir, schema: Schema) -> Config:
    """``tables.update = auto`` as dense or sparse: as the run has it, or, for a new one, by the size of the table."""
    if config.tables.update != "auto":
        return config
    if run.config_file.is_file():
        update = run.config().tables.update
    else:
        update = choose_update(config, schema)
    return dataclasses.replace(config, tables=dataclasses.replace(config.tables, update=update))


def _goes_on(config: Config, run: RunDir, schema: Schema) -> bool:
    """True when there is a run to go on with; raises ``UserError`` when it is another one, or must not be there."""
    resume = config.run.resume
    exists = run.config_file.is_file()
    if resume == "must" and not exists:
        raise UserError(f"--resume=must: {run.path} holds no run to go on with")
    if resume == "never" and exists:
        raise UserError(
            f"--resume=never: {run.path} already holds a run; give another --output_dir, or remove it, or --resume=auto"
        )
    if exists:
        check_same_run(run.config(), config, run.schema(), schema, run.path)
    return exists


def _first_state(
    config: Config, engine: Engine, run: RunDir, checkpoints: Checkpoints, goes_on: bool
) -> tuple[TrainState, Progress]:
    if goes_on and checkpoints.latest_step() is not None:
        state, progress = checkpoints.restore(engine.abstract_state())
        print(f"going on from step {int(state.step)} of {run.path}", flush=True)
        run.cut_metrics(int(state.step))
        return state, Progress(**progress)
    if config.run.resume == "must":
        raise UserError(f"--resume=must: {run.path} holds no checkpoint yet")
    run.cut_metrics(0)
    state = engine.init()
    if config.train.init_from:
        state = warm_start(engine, state, config.train.init_from)
    return state, Progress()


def _check_loss(config: Config, schema: Schema) -> None:
    if config.train.loss == "bce" and not schema.label.is_binary:
        raise UserError(
            f"--loss=bce needs labels 0 or 1, but data set {schema.name!r} has the values of {schema.label.column!r} "
            "as labels: train with --loss=mse, or build it with --label=above:THRESHOLD"
        )


def describe_run(config: Config, schema: Schema, engine: Engine, rows: int, run: RunDir) -> str:
    """A few lines on what is about to be trained."""
    return (
        f"data: {schema.name}, {rows:,} training rows, {schema.num_fields} fields, {schema.num_rows:,} table rows\n"
        f"model: {config.model_name}, {engine.parameters():,} parameters; tables: {config.tables.update}, "
        f"{engine.lookup.placement}\n"
        f"run: {run.path}"
    )


def _result(
    config: Config, engine: Engine, progress: Progress, step: int, best: TrainState, stores: dict[str, BlockStore]
) -> Result:
    valid = progress.best_metrics or evaluate(engine, best, stores["valid"])
    rate = progress.samples / progress.seconds if progress.seconds else 0.0
    return {
        "model": config.model_name,
        "devices": describe(engine.mesh),
        "steps": step,
        "stopped_early": progress.stopped_early,
        "best_step": progress.best_step,
        "best_epoch": progress.best_epoch,
        "valid": valid,
        "test": evaluate(engine, best, stores["test"]),
        "train_samples_per_s": round(rate),
        "train_seconds": round(progress.seconds, 3),
        "parameters": engine.parameters(),
        "placement": engine.lookup.placement,
        "compiled_steps": engine.compiled_steps(),
    }


def open_best(run: RunDir, config: Config, mesh: Mesh) -> tuple[Engine, TrainState]:
    """The engine of a run and the weights of its best step (of its last, where none was chosen yet)."""
    schema = run.schema()
    engine = Engine(_settle_update(config, run, schema), schema, mesh)
    checkpoints = Checkpoints(run.path)
    try:
        if checkpoints.best_step() is None:
            raise UserError(f"{run.path} holds no trained model yet: no evaluation of it has finished")
        result = run.result()
        step = result["best_step"] if result else None
        return engine, checkpoints.restore_best(engine.abstract_state(), step)
    finally:
        checkpoints.close()

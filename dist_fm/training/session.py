"""A training run from configuration to result.json: open the data, restore or start, train, test the best."""

import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from data_tools.progress import quietly
from dist_fm import __version__
from dist_fm.checkpoint import Checkpoints
from dist_fm.config import GROUP_METRICS, Config
from dist_fm.data.schema import Schema, read_schema
from dist_fm.data.shards import open_split
from dist_fm.data.store import BlockStore
from dist_fm.data.windows import RowStore
from dist_fm.errors import UserError
from dist_fm.parallel.hosts import first_decides, must_be_alike, say
from dist_fm.parallel.mesh import describe
from dist_fm.parallel.watchdog import Watchdog
from dist_fm.run_dir import RunDir
from dist_fm.training.evaluation import evaluate
from dist_fm.training.hook import Listener
from dist_fm.training.hooks import make_hooks
from dist_fm.training.loop import Loop, total_steps
from dist_fm.training.opening import hosts_of, open_mesh, settle_update
from dist_fm.training.progress import Progress
from dist_fm.training.requests import Requests
from dist_fm.training.resume import check_same_run
from dist_fm.training.rows import describe_rows, training_rows
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine
from dist_fm.training.timeline import Span
from dist_fm.training.warm_start import warm_start

Result = dict[str, Any]
AtEnd = Callable[[RunDir, Engine, TrainState], None]


def train(config: Config, hooks: Sequence[Listener] = (), at_end: AtEnd | None = None) -> Result:
    """Trains as ``config`` says and returns what result.json holds; starts, goes on, or reports a finished run.

    ``hooks`` are functions of an event, called on the first host with each line of metrics.jsonl as it is written, and
    at the end with one of split ``test``, which also holds the whole ``result``. What they raise ends training.
    ``at_end`` is called, on every host, when a run has been finished and its result is written, with the best weights.

    Raises ``UserError`` or ``SchemaError`` for anything the user can put right, and ``Preempted`` when a SIGTERM, to
    any host, asked all to stop and the state is saved.
    """
    with Requests(config.run.save_minutes) as requests, Watchdog(config.run.stall_s), quietly(config.run.quiet):
        return _train(config, requests, hooks, at_end)


def _train(config: Config, requests: Requests, listeners: Sequence[Listener], at_end: AtEnd | None) -> Result:
    data = pathlib.Path(config.data.path)
    schema = read_schema(data)
    _check_data(config, schema)
    stores = {split: open_split(data, split) for split in ("train", "valid", "test")}
    if not stores["train"].rows:
        raise UserError(f"{data}: the training split has no rows")
    run = RunDir.of(config)
    mesh = open_mesh(config.run)
    say(f"devices: {describe(mesh)}")
    _check_hosts(config, schema, stores)
    rows = training_rows(config, schema, stores["train"])
    config = settle_update(config, run, schema)
    steps = total_steps(config, rows.rows)
    span = Span.parse(config.run.timeline, steps) if config.run.timeline else None
    begin = first_decides(lambda: {"goes_on": _goes_on(config, run, schema), "result": _finished(run, steps)})
    if begin["result"]:
        say(f"{run.path} is finished: step {begin['result']['steps']}, nothing left to do")
        return begin["result"]

    engine = Engine(config, schema, mesh)
    say(describe_run(config, schema, engine, rows, run))
    if schema.valid_is_test:
        say("note: the valid split is the test split itself: the best epoch is chosen on test")
    first_decides(lambda: run.create(config, data))  # nothing was written before everything had been checked
    checkpoints = Checkpoints(run.path, config.run.keep_checkpoint_max)
    try:
        state, progress = _first_state(config, engine, run, checkpoints, begin["goes_on"])
        with contextlib.ExitStack() as open_hooks:
            hooks = make_hooks(config.run, run, progress, engine.lr, int(state.step), steps, span, listeners)
            for hook in hooks:
                open_hooks.callback(hook.close)
            loop = Loop(engine, state, progress, rows, stores["valid"], checkpoints, hooks, requests)
            state, progress = loop.run()
            best = checkpoints.restore_best(state, progress.best_step)
            result = _result(config, engine, progress, int(state.step), best, stores, requests)
            of_best = {"step": progress.best_step, "epoch": progress.best_epoch, "split": "test"}
            for hook in hooks:
                hook.on_result({**of_best, **result["test"], "result": result})
    except BaseException:
        if mesh.devices.shape[0] == 1:  # with several hosts it would wait for those that do not fail
            checkpoints.close()
        raise
    checkpoints.close()
    first_decides(lambda: run.write_result(result))
    if at_end is not None:
        at_end(run, engine, best)
    return result


def _check_hosts(config: Config, schema: Schema, stores: dict[str, BlockStore]) -> None:
    hosts = jax.process_count()
    if config.data.shuffle == "window" and config.data.readers % hosts:
        fitting = [n for n in range(1, config.data.readers + 1) if config.data.readers % n == 0]
        raise UserError(
            f"--data.readers={config.data.readers} cannot be shared evenly by {hosts} hosts: they suit "
            f"{', '.join(map(str, fitting))}; readers are part of the order of the data"
        )
    about: dict[str, Any] = {section: keys for section, keys in config.to_dict().items() if section != "run"}
    about["data"] = {key: value for key, value in about["data"].items() if key != "path"}
    together = ("devices", "save_steps", "save_minutes", "keep_checkpoint_max", "resume", "output_dir", "report")
    about |= {key: getattr(config.run, key) for key in together} | {"schema": schema.fingerprint}
    about["the data set's name"] = pathlib.Path(config.data.path).resolve().name  # which names the run's directory
    must_be_alike(about | {f"rows of the {split} split": store.rows for split, store in stores.items()})


def _finished(run: RunDir, steps: int) -> Result | None:
    result = run.result()
    return result if result and (result["steps"] >= steps or result["stopped_early"]) else None


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
    if goes_on and first_decides(checkpoints.latest_step) is not None:
        state, progress = checkpoints.restore(engine.abstract_state())
        step = int(state.step)
        say(f"going on from step {step} of {run.path}")
        first_decides(lambda: run.cut_metrics(step, progress["evaluated_step"] == step))
        return state, Progress(**progress)
    if config.run.resume == "must":
        raise UserError(f"--resume=must: {run.path} holds no checkpoint yet")
    first_decides(lambda: run.cut_metrics(0))
    state = engine.init()
    if config.train.init_from:
        state = warm_start(engine, state, config.train.init_from, run.path)
    return state, Progress()


def _check_data(config: Config, schema: Schema) -> None:
    if config.train.loss == "bce" and not schema.label.is_binary:
        raise UserError(
            f"--loss=bce needs labels 0 or 1, but data set {schema.name!r} has the values of {schema.label.column!r} "
            "as labels: train with --loss=mse, or build it with --label=above:THRESHOLD"
        )
    if config.train.monitor in GROUP_METRICS and not schema.has_groups:
        raise UserError(
            f"--train.monitor={config.train.monitor} is of groups of rows, and those of data set {schema.name!r} have "
            "none: build it with `group = COLUMN` in its description, or monitor auc, logloss, ne or pr_auc"
        )


def describe_run(config: Config, schema: Schema, engine: Engine, rows: RowStore, run: RunDir) -> str:
    """A few lines on what is about to be trained, and, with several hosts, on who reads what."""
    return _describe_hosts(config, engine) + (
        f"data: {schema.name}, {rows.rows:,} training rows, {schema.num_fields} fields, {schema.num_rows:,} table "
        f"rows\n{describe_rows(config, rows)}"
        f"model: {config.model_name}, {engine.parameters():,} parameters; tables: {config.tables.update}, "
        f"{engine.lookup.placement}\n"
        f"run: {run.path}"
    )


def _describe_hosts(config: Config, engine: Engine) -> str:
    """`hosts: 2 (Slurm), mesh 2 x 4; rows of each batch of 2,048: host 0 reads 0-1023, host 1 reads 1024-2047`."""
    (hosts, each), batch = engine.mesh.devices.shape, config.train.batch_size
    if hosts == 1:
        return ""
    share = engine.padded_batch(batch) // hosts
    first = [f"host {h} reads {h * share}-{min((h + 1) * share, batch) - 1}" for h in range(min(hosts, 4))]
    more = ", and so on" if hosts > 4 else ""
    launcher = hosts_of(config.run).launcher or "jax.distributed"
    return (
        f"hosts: {hosts} ({launcher}), mesh {hosts} x {each}; rows of each batch of {batch:,}: "
        f"{', '.join(first)}{more}\n"
    )


def _result(
    config: Config,
    engine: Engine,
    progress: Progress,
    step: int,
    best: TrainState,
    stores: dict[str, BlockStore],
    requests: Requests,
) -> Result:
    valid = progress.best_metrics or evaluate(engine, best, stores["valid"], requests)
    rate = progress.samples / progress.seconds if progress.seconds else 0.0
    return {
        "version": __version__,
        "model": config.model_name,
        "devices": describe(engine.mesh),
        "steps": step,
        "stopped_early": progress.stopped_early,
        "best_step": progress.best_step,
        "best_epoch": progress.best_epoch,
        "valid": valid,
        "valid_is_test": engine.schema.valid_is_test,
        "test": evaluate(engine, best, stores["test"], requests),
        "train_samples_per_s": round(rate),
        "train_seconds": round(progress.seconds, 3),
        "seconds": progress.seconds_by_part(),
        "parameters": engine.parameters(),
        "placement": engine.lookup.placement,
        "compiled_steps": engine.compiled_steps(),
    }

"""First values from a finished run: FNN from FM, as its paper does."""

import dataclasses

import jax
from flax import nnx

from dist_fm.checkpoint import Checkpoints
from dist_fm.errors import UserError
from dist_fm.run_dir import RunDir
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine


def warm_start(engine: Engine, state: TrainState, source: str) -> TrainState:
    """``state`` with every table column, and every network array, that the best of run ``source`` has alike.

    Alike is: the same name and shape, over the same schema. Prints what was taken. Raises ``UserError`` when the run
    has another schema or nothing alike.
    """
    run = RunDir.open(source)
    if run.schema().fingerprint != engine.schema.fingerprint:
        raise UserError(f"--init_from={source}: that run has another schema (vocabulary) than this data set")
    other = Engine(run.config(), run.schema(), engine.mesh, dtype=engine.dtype)
    checkpoints = Checkpoints(run.path)
    try:
        if checkpoints.best_step() is None:
            raise UserError(f"--init_from={source}: that run holds no trained model yet")
        found = checkpoints.restore_best(other.abstract_state())
    finally:
        checkpoints.close()

    table, taken = state.table, []
    theirs = other.layout.slices
    for name, ours in engine.layout.slices.items():
        if name in theirs and theirs[name].stop - theirs[name].start == ours.stop - ours.start:
            table = table.at[:, ours].set(found.table[:, theirs[name]])
            taken.append(f"table column {name!r}")
    params, arrays = _take_params(state.params, found.params)
    if not taken and not arrays:
        raise UserError(
            f"--init_from={source}: nothing alike; that run's columns: {_columns(other)}; "
            f"this model's: {_columns(engine)}"
        )
    print(f"first values from {source}: {', '.join([*taken, *arrays])}; the rest starts fresh", flush=True)
    return dataclasses.replace(state, table=table, params=params)


def _take_params(ours: nnx.State, theirs: nnx.State) -> tuple[nnx.State, list[str]]:
    found = {jax.tree_util.keystr(path): array for path, array in jax.tree_util.tree_leaves_with_path(theirs)}
    taken = []

    def choose(path, array):
        name = jax.tree_util.keystr(path)
        if name in found and found[name].shape == array.shape:
            taken.append(f"network {name}")
            return found[name]
        return array

    return jax.tree_util.tree_map_with_path(choose, ours), taken


def _columns(engine: Engine) -> str:
    return ", ".join(f"{name} ({column.width} wide)" for name, column in engine.layout.columns.items())

"""What a compiled step needs: temporary bytes, copies of the table, bytes of table rows; and a device's bandwidth."""

import time
from typing import Any

import jax
import jax.numpy as jnp
from hlo import Program

from dist_fm.data.pipeline import Batch, placed
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine

_COPIED_BYTES = 1 << 30


def analyse(engine: Engine, state: TrainState, batch: Batch) -> dict[str, Any]:
    """Figures of the step compiled for ``batch``; temporaries and copies are those of one device's program.

    ``table_row_bytes``: rows and slots read once and written once, by all devices; what a step moves at the least.
    """
    (batch,) = placed(iter([batch]), engine)
    compiled = engine.train_step.lower(state, batch).compile()
    rows = engine.spec.padded_rows
    row_bytes = sum(array.nbytes for array in table_arrays(engine, state)) // rows
    return {
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "table_copies": table_copies(compiled.as_text(), engine, state),
        "table_row_bytes": 2 * row_bytes * (rows if engine.row_optimizer is None else batch.unique.size),
        "copy_bytes_per_s": copy_bandwidth() if jax.default_backend() != "cpu" else None,
    }


def table_arrays(engine: Engine, state: TrainState) -> list[jax.Array]:
    """The table, and whatever an optimizer keeps for each of its rows."""
    return [array for array in jax.tree.leaves(state) if array.shape[:1] == (engine.spec.padded_rows,)]


def table_copies(program: str, engine: Engine, state: TrainState) -> int:
    """How often an optimized program makes anew an array of the shape of one device's part of the table, or of slots.

    Scatters and other writes in place, loops, fusions and calls hand such an array on.
    """
    shapes = {array.sharding.shard_shape(array.shape) for array in table_arrays(engine, state)}
    handed_on = {"parameter", "scatter", "dynamic-update-slice", "bitcast", "tuple", "get-tuple-element"}
    handed_on |= {"while", "fusion", "call"}
    return sum(one.op not in handed_on and bool(shapes & set(one.shapes)) for one in Program(program).instructions())


def copy_bandwidth() -> float:
    """Bytes a second that the first device reads and writes in an elementwise pass over 1 GiB; the best of ten."""
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    array = jax.block_until_ready(add(jnp.zeros(_COPIED_BYTES // 4, jnp.float32)))
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        array = jax.block_until_ready(add(array))
        seconds.append(time.perf_counter() - began)
    return 2 * _COPIED_BYTES / min(seconds)

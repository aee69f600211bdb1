"""First values from finished runs: yesterday's model over today's vocabulary, FNN from an FM, NeuMF from its parts."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from dist_fm.errors import UserError
from dist_fm.parallel.hosts import say
from dist_fm.run_dir import RunDir
from dist_fm.tables.by_number import put, take
from dist_fm.training.opening import open_best
from dist_fm.training.state import TrainState, named, unnamed
from dist_fm.training.step import Engine

ROWS_AT_ONCE = 1 << 16
Taken = list[str]


def warm_start(engine: Engine, state: TrainState, sources: str, folder: pathlib.Path) -> TrainState:
    """``state`` with what the best steps of the runs ``sources``, separated by commas, have alike.

    Rows are alike by field and raw value (``folder`` holds our ``vocab/``), table columns by name and width, arrays of
    the network by name and shape. What several runs have is the first's; layers whose outputs a model adds up
    (``Model.summed_layers``) count 1/n each if they come from n runs. The rest, and all optimizer slots, stay as they
    are. Prints counts of both. Raises ``UserError`` when a run has nothing alike.
    """
    from data_tools.matching import match_rows  # and with it pandas: half a second of every run's start

    table, params, stats = state.table, named(state.params), named(state.stats)
    columns, arrays = set[str](), set[str]()
    names = [name.strip() for name in sources.split(",") if name.strip()]
    for source in names:
        run = RunDir.open(source)
        other, best = open_best(run, engine.mesh, dtype=engine.dtype)
        theirs = other.layout.slices
        shared = {
            name: (ours, theirs[name])
            for name, ours in engine.layout.slices.items()
            if name in theirs and name not in columns and _width(theirs[name]) == _width(ours)
        }
        match = match_rows(engine.schema, folder, other.schema, run.path)
        if shared and (match.rows >= 0).any():
            table = _copy_rows(engine, table, other, best.table, match.rows, list(shared.values()))
        taken = [*_take(params, named(best.params), arrays), *_take(stats, named(best.stats), arrays)]
        if not shared and not taken:
            raise UserError(
                f"--init_from={source}: nothing alike; that run's columns: {_columns(other)}; "
                f"this model's: {_columns(engine)}"
            )
        columns |= shared.keys()
        arrays |= set(taken)
        say(_describe(source, match.found, shared, taken))
    params = {name: _shared_out(engine, name, array, arrays, len(names)) for name, array in params.items()}
    fresh = [f"column {name!r}" for name in engine.layout.slices if name not in columns]
    fresh += [name for name in [*params, *stats] if name not in arrays]
    say(f"starts fresh: {', '.join(fresh) or 'nothing'}")
    return dataclasses.replace(
        state, table=table, params=unnamed(state.params, params), stats=unnamed(state.stats, stats)
    )


def _copy_rows(
    engine: Engine,
    table: jax.Array,
    other: Engine,
    their_table: jax.Array,
    match: np.ndarray,
    columns: list[tuple[slice, slice]],
) -> jax.Array:
    """Our table with the ``columns`` (ours, theirs) of the rows that ``match`` names, some thousand rows at a time."""
    ours = np.flatnonzero(match >= 0)
    for first in range(0, len(ours), ROWS_AT_ONCE):
        part = ours[first : first + ROWS_AT_ONCE]
        to, source = np.full((2, min(ROWS_AT_ONCE, len(ours))), np.iinfo(np.int32).max, np.int32)
        to -= np.arange(len(to), dtype=np.int32)  # what is left over is out of range, and distinct
        to[: len(part)] = engine.spec.physical(part)
        source[: len(part)] = other.spec.physical(match[part])
        rows = take(engine.lookup, table, jnp.asarray(to))
        found = take(other.lookup, their_table, jnp.asarray(source))
        for our_slice, their_slice in columns:
            rows = rows.at[:, our_slice].set(found[:, their_slice].astype(rows.dtype))
        table = put(engine.lookup, table, jnp.asarray(to), rows)
    return table


def _take(ours: dict[str, jax.Array], theirs: dict[str, jax.Array], already: set[str]) -> Taken:
    """Replaces the arrays of ``ours`` that ``theirs`` has alike, but those ``already`` replaced; their names."""
    alike = lambda name: name in theirs and theirs[name].shape == ours[name].shape and name not in already
    taken = [name for name in ours if alike(name)]
    for name in taken:
        ours[name] = theirs[name]
    return taken


def _shared_out(engine: Engine, name: str, array: jax.Array, taken: set[str], runs: int) -> jax.Array:
    """An array of a summed layer by its run's share: He et al. 2017, section 3.4.1, with alpha = 1/2 for two."""
    summed = type(engine.model()).summed_layers if runs > 1 else ()
    return array / runs if name in taken and name.split(".")[0] in summed else array


def _describe(source: str, found: dict[str, tuple[int, int]], columns: dict, taken: Taken) -> str:
    rows = ", ".join(f"{name} {have:,} of {rows:,}" for name, (have, rows) in found.items())
    total, every = (sum(pair[i] for pair in found.values()) for i in (0, 1))
    return (
        f"first values from {source}: columns {', '.join(columns) or 'none'} of {total:,} rows of {every:,} by value "
        f"({rows}); of the network {', '.join(taken) or 'nothing'}"
    )


def _width(part: slice) -> int:
    return part.stop - part.start


def _columns(engine: Engine) -> str:
    return ", ".join(f"{name} ({column.width} wide)" for name, column in engine.layout.columns.items())

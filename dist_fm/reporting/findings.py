"""All that the report says of one run, as numbers: from its files, and, where its data is there, from scored rows."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from data_tools.encode import Encoder
from data_tools.errors import DataError
from dist_fm.config import Config
from dist_fm.data.records import RecordError
from dist_fm.data.schema import Schema, SchemaError
from dist_fm.data.shards import open_split
from dist_fm.data.store import StoreError
from dist_fm.errors import UserError
from dist_fm.explaining.importance import Importance, permutation_importance
from dist_fm.explaining.pairs import Pairs, no_pairs, pair_strengths
from dist_fm.explaining.rows import SomeRows
from dist_fm.reporting.history import History
from dist_fm.reporting.slices import Slices, worst_slices
from dist_fm.run_dir import RunDir
from dist_fm.training.evaluation import ScoredRows, score_split
from dist_fm.training.opening import data_of, open_best
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine

ROWS = 100_000  # of the split, at most, for curves and slices
REPEATS = 2  # of a field's permutation
_PERMUTED, _LEAST_PERMUTED, _MOST_PERMUTED = 500_000, 2_000, 20_000  # rows scored for all fields together, and for one

Opened = Callable[[], tuple[Engine, TrainState]]


@dataclasses.dataclass(frozen=True)
class FromRows:
    """What the ``split``'s rows, or ``rows`` of them, say of the best weights."""

    split: str
    rows: SomeRows
    scored: ScoredRows
    slices: Slices
    importance: Importance
    pairs: Pairs | None
    no_pairs: str


@dataclasses.dataclass(frozen=True)
class Findings:
    """``result``: result.json, None of a run that is not finished; ``no_rows``: why there is no ``from_rows``."""

    path: pathlib.Path
    version: str | None
    config: Config
    schema: Schema
    history: History
    result: dict[str, Any] | None
    from_rows: FromRows | None
    no_rows: str = ""


def find(run: RunDir, opened: Opened, *, data: str = "", rows: int = ROWS) -> Findings:
    """Reads the run, and scores ``rows`` rows of its test split (or valid, if it is empty) with what ``opened`` gives.

    Where its own data set or its weights cannot be used, that is said instead; a given ``data`` must fit. Raises
    ``UserError``, ``SchemaError`` for a run that cannot be read.
    """
    result = run.result()
    if result is not None:
        _check(run, result)
    known = (run.path, run.version, run.config(), run.schema(), History.read(run), result)
    try:
        return Findings(*known, _from_rows(run, opened, data_of(run, data), rows))
    except (UserError, DataError, SchemaError, RecordError, StoreError) as error:
        if data:
            raise
        return Findings(*known, None, str(error))


def best_of(run: RunDir, mesh: Mesh) -> Opened:
    return lambda: open_best(run, mesh)


def _check(run: RunDir, result: dict[str, Any]) -> None:
    """Raises ``UserError`` where result.json lacks what every version writes, or has something else there."""
    kinds = {"model": str, "steps": int, "best_step": int | None, "best_epoch": int | None, "valid": dict, "test": dict}
    for key, kind in kinds.items():
        if key not in result or not isinstance(result[key], kind):
            found = repr(result[key]) if key in result else "no such key"
            raise UserError(f"{run.path / 'result.json'}: {key}: {found}{run.about_version}")


def _from_rows(run: RunDir, opened: Opened, data: pathlib.Path, limit: int) -> FromRows:
    split = "test"
    with open_split(data, split) as store:
        some = SomeRows.draw(store, limit) if store.rows else None
    if some is None:
        split = "valid"
        with open_split(data, split) as store:
            some = SomeRows.draw(store, limit)
    engine, state = opened()
    scored = score_split(engine, state, some)
    if not scored.weights.sum() > 0:
        raise UserError(f"{data}: all rows of the {split} split have weight 0")
    encoder = Encoder.from_directory(run.path)
    slices = worst_slices(engine.schema, encoder, engine.config.train.loss, some, scored)
    fewer = max(_LEAST_PERMUTED, min(_MOST_PERMUTED, _PERMUTED // (REPEATS * engine.schema.num_fields)))
    fewer_rows = some.fewer(min(fewer, limit))
    importance = permutation_importance(engine, state, fewer_rows, repeats=REPEATS)
    reason = no_pairs(engine.config.model_name, engine.schema)
    pairs = pair_strengths(engine, state, fewer_rows) if reason is None else None
    return FromRows(split, some, scored, slices, importance, pairs, reason or "")

"""Permutation importance: how much worse a model is when a field's values are dealt out anew among the rows.

Breiman 2001, "Random Forests", section 10; Fisher, Rudin & Dominici 2019, section 3.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from dist_fm.data.schema import Schema
from dist_fm.explaining.rows import SomeRows
from dist_fm.metrics.auc import auc
from dist_fm.metrics.loss import logloss, rmse
from dist_fm.training.evaluation import ScoredRows, score_split
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine

_ROWS_TOGETHER = 1 << 16  # as batches are padded, many are scored at a time
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], float | None]
# By loss, the first is what fields are ranked by; and whether more of it is better.
METRICS: Mapping[str, Mapping[str, tuple[Metric, bool]]] = {
    "bce": {"auc": (auc, True), "logloss": (logloss, False)},
    "mse": {"rmse": (rmse, False)},
}


@dataclasses.dataclass(frozen=True)
class Importance:
    """``base``: the metrics of the rows as they are; ``worse``: by metric, how much worse, [fields, repeats].

    ``rows`` of ``of`` rows of the split were used.
    """

    fields: tuple[str, ...]
    base: Mapping[str, float]
    worse: Mapping[str, np.ndarray]
    rows: int
    of: int

    @property
    def ranked(self) -> list[int]:
        """Numbers of the fields, the most important first."""
        first = next(iter(self.worse.values()))
        return sorted(range(len(self.fields)), key=lambda field: (-first[field].mean(), field))


def permutation_importance(
    engine: Engine, state: TrainState, rows: SomeRows, *, repeats: int, seed: int = 0
) -> Importance:
    """How much the metrics of ``rows`` suffer for each field; all slots of a field move together.

    The order of repeat r of field f is drawn from (``seed``, f, r). A metric that is undefined on the rows (AUC of one
    class) is left out.
    """
    known = METRICS[engine.config.train.loss]
    scores = _metrics(known, score_split(engine, state, rows))
    base = {name: value for name, value in scores.items() if value is not None}
    fields = engine.schema.fields
    worse = {name: np.zeros((len(fields), repeats)) for name in base}
    deals = [(field, repeat) for field in range(len(fields)) for repeat in range(repeats)]
    together = max(1, _ROWS_TOGETHER // rows.rows)
    for some in (deals[first : first + together] for first in range(0, len(deals), together)):
        words = np.concatenate([_dealt(engine.schema, rows, field, (seed, field, repeat)) for field, repeat in some])
        scored = score_split(engine, state, dataclasses.replace(rows, words=words))
        for number, (field, repeat) in enumerate(some):
            part = slice(number * rows.rows, (number + 1) * rows.rows)
            found = _metrics(known, ScoredRows(*(array[part] for array in scored)))
            for name, before in base.items():
                after = found[name]
                assert after is not None  # labels and weights stay where they are
                worse[name][field, repeat] = before - after if known[name][1] else after - before
    return Importance(tuple(field.name for field in fields), base, worse, rows.rows, rows.of)


def _dealt(schema: Schema, rows: SomeRows, field: int, seed: tuple[int, ...]) -> np.ndarray:
    """The records with a field's values in an order drawn from ``seed``."""
    words, dealt = field_words(schema, rows, field), rows.words.copy()
    order = np.random.default_rng(seed).permutation(rows.rows)
    dealt[:, words] = rows.words[order][:, words]
    return dealt


def field_words(schema: Schema, rows: SomeRows, field: int) -> np.ndarray:
    """The words of a record that hold a field's ids, and its values, if records have values."""
    slots = np.flatnonzero(schema.slot_fields == field)
    ids = rows.layout.first_id + slots
    return np.concatenate([ids, ids + rows.layout.slots]) if rows.layout.has_values else ids


def _metrics(known: Mapping[str, tuple[Metric, bool]], rows: ScoredRows) -> dict[str, float | None]:
    return {name: metric(rows.labels, rows.logits, rows.weights) for name, (metric, _) in known.items()}

"""How well a model does on the rows that hold one value of a field. Axes: N rows, S slots, V values of a field."""

import dataclasses

import numpy as np

from data_tools.encode import Encoder
from dist_fm.data.schema import EMPTY, Field, Schema
from dist_fm.explaining.rows import SomeRows
from dist_fm.metrics.auc import auc
from dist_fm.metrics.calibration import probabilities
from dist_fm.training.evaluation import ScoredRows

LEAST_ROWS, LEAST_SHARE = 30, 0.005  # a slice has this many rows, and this share of all, or is not shown
PRIOR = 10.0  # rows with the mean label of all that are added to a slice's, before its own mean is taken
WORST = 20  # that are shown, of all fields and of each


@dataclasses.dataclass(frozen=True)
class Slice:
    """The rows with one ``value`` of ``field``. Means are by weight.

    ``loss``: mean log loss, or squared error. ``excess``: how much of it is above that of always predicting the slice's
    own mean label (smoothed by ``PRIOR`` rows of the overall mean); above 0, the model does worse than that. ``auc``:
    None for one class, and with mse.
    """

    field: str
    value: str
    rows: int
    label: float
    prediction: float
    loss: float
    excess: float
    auc: float | None


@dataclasses.dataclass(frozen=True)
class Slices:
    """The ``worst`` slices of all fields and of each, by ``excess``; ``of`` slices in all had ``least`` rows."""

    worst: list[Slice]
    by_field: dict[str, list[Slice]]
    least: int
    of: int


def worst_slices(schema: Schema, encoder: Encoder, loss: str, rows: SomeRows, scored: ScoredRows) -> Slices:
    """The slices of all fields but those of numbers; a row with a list of values belongs to each."""
    least = max(LEAST_ROWS, int(np.ceil(LEAST_SHARE * rows.rows)))
    predictions = probabilities(scored.logits) if loss == "bce" else scored.logits.astype(np.float64)
    sums = _Sums(loss, predictions, scored.labels.astype(np.float64), scored.weights.astype(np.float64))
    by_field, count = {}, 0
    for number, field in enumerate(schema.fields):
        if field.kind == "numeric":
            continue
        at, values, firsts = _rows_by_value(rows.ids[:, schema.slot_fields == number], least)
        excess = sums.excess(at, firsts)
        count += len(values)
        by_field[field.name] = [
            sums.slice(field, encoder.value_of(field, int(values[v])), np.split(at, firsts[1:])[v], excess[v])
            for v in np.argsort(-excess, kind="stable")[:WORST]
        ]
    worst = sorted((one for slices in by_field.values() for one in slices), key=lambda one: -one.excess)
    return Slices(worst[:WORST], {name: slices for name, slices in by_field.items() if slices}, least, count)


def _rows_by_value(ids: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of ``ids`` [N, S]: the rows of each value in turn, the values [V], and where the rows of each begin [V].

    Only values that ``least`` rows hold.
    """
    row, slot = np.nonzero(ids != EMPTY)
    pairs = np.unique(np.stack([ids[row, slot].astype(np.int64), row], 1), axis=0)  # a list may hold a value twice
    values, counts = np.unique(pairs[:, 0], return_counts=True)
    kept = counts >= least
    at = pairs[np.repeat(kept, counts), 1]
    return at, values[kept], np.cumsum(counts[kept]) - counts[kept]


class _Sums:
    """What slices are made of: predictions, labels and weights [N] of all rows."""

    def __init__(self, loss: str, predictions: np.ndarray, labels: np.ndarray, weights: np.ndarray):
        self.loss, self.predictions, self.labels, self.weights = loss, predictions, labels, weights
        self.losses = self._losses(predictions, labels)
        self.mean = float(np.average(labels, weights=weights))

    def _losses(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        if self.loss == "mse":
            return (predictions - labels) ** 2
        clipped = np.clip(predictions, 1e-15, 1 - 1e-15)
        return -(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped))

    def excess(self, at: np.ndarray, firsts: np.ndarray) -> np.ndarray:
        """Mean loss above that of the own smoothed mean label, [V], of slices of rows ``at`` from ``firsts``."""
        if not len(firsts):
            return np.zeros(0)
        weights, labels = self.weights[at], self.labels[at]
        total = np.add.reduceat(weights, firsts)
        own = (np.add.reduceat(weights * labels, firsts) + PRIOR * self.mean) / (total + PRIOR)
        constant = self._losses(np.repeat(own, np.diff(firsts, append=len(at))), labels)
        sums = np.add.reduceat(weights * (self.losses[at] - constant), firsts)
        return np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)

    def slice(self, field: Field, value: str, at: np.ndarray, excess: float) -> Slice:
        weights = self.weights[at]
        mean = lambda numbers: float((numbers[at] * weights).sum() / weights.sum()) if weights.sum() else 0.0
        area = auc(self.labels[at], self.predictions[at], weights) if self.loss == "bce" else None
        label, prediction, loss = mean(self.labels), mean(self.predictions), mean(self.losses)
        return Slice(field.name, value, len(at), label, prediction, loss, float(excess), area)

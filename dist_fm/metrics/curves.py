"""Points of curves over all thresholds, thinned for drawing. Axes: N rows, P points."""

import numpy as np

from dist_fm.metrics.auc import by_score

POINTS = 300


def roc_curve(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, from (0, 0) to (1, 1): float64 [P] each, P <= ``POINTS``; both classes needed."""
    _, positives, negatives = by_score(labels, scores, weights)
    rates = (np.append(0, np.cumsum(part[::-1])) for part in (negatives, positives))
    false, true = (rate / rate[-1] for rate in rates)
    return thinned(false, true)


def precision_recall_curve(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Recall, ascending, and precision: float64 [P] each, P <= ``POINTS``; positives needed."""
    _, positives, negatives = by_score(labels, scores, weights)
    true, chosen = np.cumsum(positives[::-1]), np.cumsum((positives + negatives)[::-1])
    some = chosen > 0  # rows of weight 0 choose nothing
    return thinned(true[some] / true[-1], true[some] / chosen[some])


def thinned(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most ``points`` of a curve's points, its ends among them, about equally far apart along it."""
    if len(x) <= points:
        return x, y
    scale = lambda along: np.abs(np.diff(along, prepend=along[0])) / max(np.ptp(along), 1e-300)
    length = np.cumsum(scale(x) + scale(y))
    chosen = np.unique(np.searchsorted(length, np.linspace(0, length[-1], points)))
    chosen[[0, -1]] = 0, len(x) - 1
    return x[chosen], y[chosen]

"""Whether predicted probabilities are those that occur. Axes: N rows."""

import numpy as np

from dist_fm.metrics.auc import by_score

BINS = 20


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Sigmoid of ``logits``, float64."""
    return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -700, 700)))


def label_entropy(labels: np.ndarray, weights: np.ndarray) -> float:
    """Log loss, in nats, of always predicting the weighted mean of ``labels`` [N]; 0 when there is one class."""
    rate = np.average(labels.astype(np.float64), weights=weights)
    return float(-sum(p * np.log(p) for p in (rate, 1 - rate) if p > 0))


def calibration(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> float | None:
    """Weighted mean prediction / weighted mean label, best at 1; None without positives."""
    rate = np.average(labels.astype(np.float64), weights=weights)
    return float(np.average(probabilities(logits), weights=weights) / rate) if rate > 0 else None


def expected_calibration_error(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray, bins: int = BINS) -> float:
    """Mean over ``bins`` bins, of equal weight and in order of score, of |mean prediction - mean label| in the bin.

    Where the edge of a bin falls inside a run of equal scores, or inside a row, both bins take their share of it, of
    its mean label: so every bin weighs the same, and the order of rows does not matter.
    """
    predicted, happened = calibration_bins(labels, logits, weights, bins)
    return float(np.abs(predicted - happened).mean())


def calibration_bins(
    labels: np.ndarray, logits: np.ndarray, weights: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray]:
    """Mean prediction and mean label of each bin of ``expected_calibration_error``, float64 [bins] each."""
    scores, positives, negatives = by_score(labels, logits, weights)
    total = positives + negatives
    weight_to = np.append(0, np.cumsum(total))
    edges = np.linspace(0, weight_to[-1], bins + 1)
    sums = (np.append(0, np.cumsum(of_score)) for of_score in (probabilities(scores) * total, positives))
    predicted, happened = (np.diff(np.interp(edges, weight_to, sum_to)) for sum_to in sums)
    return predicted * bins / weight_to[-1], happened * bins / weight_to[-1]

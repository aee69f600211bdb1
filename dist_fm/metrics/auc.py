"""Areas under the ROC curve and the precision-recall curve, exact. Axes: N rows, D distinct scores."""

from typing import NamedTuple

import numpy as np


class ByScore(NamedTuple):
    """Weights of the positives and of the negatives of each distinct score, ascending: [D] each, float64."""

    scores: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


def by_score(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> ByScore:
    """Rows of equal scores added up; ``labels``, ``scores``, ``weights`` are [N], a label above 0.5 is positive."""
    weights = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    order = np.argsort(scores, kind="stable")
    scores, positive = scores[order], (labels[order] > 0.5) * weights[order]
    negative = weights[order] - positive
    firsts = np.flatnonzero(np.append(True, scores[1:] != scores[:-1])[: len(scores)])
    return ByScore(scores[firsts], np.add.reduceat(positive, firsts), np.add.reduceat(negative, firsts))


def auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """P(score of a positive > score of a negative), ties counting half; None when a class is missing.

    ``labels``, ``scores``, ``weights`` are [N]; a label above 0.5 is positive. By one sort: O(N log N), no bins.
    """
    _, positives, negatives = by_score(labels, scores, weights)
    if positives.sum() == 0 or negatives.sum() == 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum()))


def average_precision(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """The area under the precision-recall curve as a sum of steps; None without positives.

    Sum over thresholds t, which are the distinct scores, of (recall(t) - recall(before t)) x precision(t).
    """
    _, positives, negatives = (part[::-1] for part in by_score(labels, scores, weights))
    if positives.sum() == 0:
        return None
    true, chosen = np.cumsum(positives), np.cumsum(positives + negatives)
    precision = np.divide(true, chosen, out=np.zeros_like(true), where=chosen > 0)  # none chosen: rows of weight 0
    return float((positives * precision).sum() / true[-1])

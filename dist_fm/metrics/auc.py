"""Area under the ROC curve, exact."""

import numpy as np


def auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """P(score of a positive > score of a negative), ties counting half; None when a class is missing.

    ``labels``, ``scores``, ``weights`` are [N]; a label above 0.5 is positive. By one sort: O(N log N), no bins.
    """
    weights = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    order = np.argsort(scores, kind="stable")
    scores, positive = scores[order], (labels[order] > 0.5) * weights[order]
    negative = weights[order] - positive
    if positive.sum() == 0 or negative.sum() == 0:
        return None
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # the last of each run of equal scores
    positive_to, negative_to = np.cumsum(positive)[ends], np.cumsum(negative)[ends]
    positive_in = np.diff(positive_to, prepend=0)
    negative_in = np.diff(negative_to, prepend=0)
    below = negative_to - negative_in
    return float((positive_in * (below + negative_in / 2)).sum() / (positive_to[-1] * negative_to[-1]))

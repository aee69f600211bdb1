"""AUC and log loss of probabilities, exactly. Axes: N rows."""

import numpy as np


def auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The chance that a positive row scores above a negative one, ties counting half. Needs both classes."""
    order = np.argsort(probabilities)
    ordered = probabilities[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))  # of each group of equal scores
    group_rows = np.diff(np.append(first, len(ordered)))
    positives = np.add.reduceat(labels[order].astype(np.float64), first)
    negatives = group_rows - positives
    negatives_below = np.cumsum(negatives) - negatives
    wins = np.dot(positives, negatives_below + negatives / 2)
    return float(wins / (positives.sum() * negatives.sum()))


def logloss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log likelihood in nats."""
    return float(-np.log(np.where(labels, probabilities, 1 - probabilities)).mean())

"""How well the rows of a group (a user's, a session's) are ranked, over groups. Axes: N rows, G groups, T distinct
scores within groups.

``groups``, ``labels``, ``scores``, ``weights`` are [N], in any order; a label above 0.5 is positive.
"""

from collections.abc import Sequence

import numpy as np


def group_auc(
    groups: np.ndarray, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[float | None, float]:
    """The mean AUC of the groups that have both classes, each by the weight of its rows; None when none has.

    And those rows' share of the weight of all. Ties count half.
    """
    order = np.lexsort((scores, groups))
    groups, scores, weights = groups[order], scores[order], weights[order].astype(np.float64)
    positive = (labels[order] > 0.5) * weights
    is_first = _differs(groups)
    firsts = np.flatnonzero(is_first | _differs(scores))
    positives, negatives = (np.add.reduceat(part, firsts) for part in (positive, weights - positive))  # [T]
    starts = np.flatnonzero(is_first[firsts])
    below = np.cumsum(negatives) - negatives
    below -= np.repeat(below[starts], np.diff(starts, append=len(firsts)))
    wins, *both = (np.add.reduceat(x, starts) for x in (positives * (below + negatives / 2), positives, negatives))
    pairs, of_group = both[0] * both[1], both[0] + both[1]  # [G]
    counts = pairs > 0
    if not counts.any():
        return None, 0.0
    mean = np.average(wins[counts] / pairs[counts], weights=of_group[counts])
    return float(mean), float(of_group[counts].sum() / of_group.sum())


def top_k(
    groups: np.ndarray, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray, sizes: Sequence[int]
) -> dict[str, float | None]:
    """`ndcg@K`, `recall@K` and `hr@K` for each K of ``sizes``: means over the groups that have a positive.

    Of a group's P positives, ranked r = 1, 2, ... among its rows, those count that have r <= K: ndcg is the sum of
    1 / log2(r + 1) over them, divided by what it would be were all positives in front; recall their number / P; hr is 1
    if there are any. A positive ranks behind all negatives of its score. Every group counts once, and every row, but
    that rows of weight 0 are not there. None without a positive.
    """
    there = weights > 0
    groups, positive, scores = groups[there], labels[there] > 0.5, scores[there]
    order = np.lexsort((positive, -scores, groups))
    groups, positive = groups[order], positive[order]
    starts = np.flatnonzero(_differs(groups))
    rank = np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))  # from 0
    positives = np.add.reduceat(positive.astype(np.int64), starts)
    counts = positives > 0
    found: dict[str, float | None] = {}
    for size in sizes:
        hit = positive & (rank < size)
        hits = np.add.reduceat(hit.astype(np.int64), starts)[counts]
        gain = np.add.reduceat(hit / np.log2(rank + 2), starts)[counts]
        ideal = np.cumsum(1 / np.log2(np.arange(size) + 2))[np.minimum(positives[counts], size) - 1]
        by_name = {"ndcg": gain / ideal, "recall": hits / positives[counts], "hr": hits > 0}
        found |= {
            f"{name}@{size}": float(of_group.mean()) if counts.any() else None for name, of_group in by_name.items()
        }
    return found


def _differs(sorted_values: np.ndarray) -> np.ndarray:
    """Where a run of equal values begins, bool [N]."""
    return np.append(True, sorted_values[1:] != sorted_values[:-1])

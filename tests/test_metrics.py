"""Metrics against scikit-learn and brute force."""

import numpy as np
import pytest
import sklearn.metrics

from dist_fm.metrics.auc import auc, average_precision
from dist_fm.metrics.calibration import (
    BINS,
    calibration,
    expected_calibration_error,
    label_entropy,
    probabilities,
)
from dist_fm.metrics.loss import logloss, mae, rmse
from dist_fm.metrics.ranking import group_auc, top_k


def draw(seed, weighted):
    """Labels of both classes, logits with ties, and weights, some of them 0, or None."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 500))
    labels = np.append(rng.integers(0, 2, n), [0, 1]).astype(np.float32)
    logits = np.round(rng.normal(0, 2, n + 2), int(rng.integers(0, 3))).astype(np.float32)
    weights = rng.random(n + 2).astype(np.float32)
    weights[:n][rng.random(n) < 0.1] = 0
    return labels, logits, weights if weighted else None


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("weighted", [False, True])
def test_against_sklearn(seed, weighted):
    labels, logits, weights = draw(seed, weighted)
    assert auc(labels, logits, weights) == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, logits, sample_weight=weights), abs=1e-12
    )
    assert average_precision(labels, logits, weights) == pytest.approx(
        sklearn.metrics.average_precision_score(labels, logits, sample_weight=weights), abs=1e-12
    )
    ones = np.ones(len(labels)) if weights is None else weights
    expected = sklearn.metrics.log_loss(labels, probabilities(logits), sample_weight=weights)
    assert logloss(labels, logits, ones) == pytest.approx(expected, rel=1e-6)
    always_the_rate = np.full(len(labels), np.average(labels, weights=ones))
    expected = sklearn.metrics.log_loss(labels, always_the_rate, sample_weight=weights)
    assert label_entropy(labels, ones) == pytest.approx(expected, rel=1e-6)


def test_auc_counts_ties_half():
    assert auc(np.array([1, 0, 1, 0]), np.zeros(4)) == 0.5
    labels, scores = np.array([1, 0, 0]), np.array([0.3, 0.3, 0.1])
    assert auc(labels, scores) == 0.75


def test_auc_of_one_class_is_none():
    assert auc(np.ones(3), np.arange(3.0)) is None
    assert auc(np.zeros(3), np.arange(3.0)) is None
    assert auc(np.zeros(0), np.zeros(0)) is None


def test_rmse_and_mae_are_weighted():
    labels, predictions, weights = np.array([1.0, 2.0]), np.array([2.0, 4.0]), np.array([3.0, 1.0])
    assert rmse(labels, predictions, weights) == pytest.approx(((3 * 1 + 1 * 4) / 4) ** 0.5)
    assert mae(labels, predictions, weights) == pytest.approx((3 * 1 + 1 * 2) / 4)


def test_pr_auc_of_one_class():
    assert average_precision(np.zeros(3), np.arange(3.0)) is None
    assert average_precision(np.zeros(0), np.zeros(0)) is None
    assert average_precision(np.ones(3), np.arange(3.0)) == 1


def test_no_information_has_an_entropy_and_a_calibration_of_one():
    labels, weights = np.array([1.0, 0, 0, 1]), np.array([1.0, 3, 3, 1])
    logits = np.full(4, np.log(0.25 / 0.75), np.float32)
    assert logloss(labels, logits, weights) / label_entropy(labels, weights) == pytest.approx(1)
    assert calibration(labels, logits, weights) == pytest.approx(1)
    assert calibration(labels, logits + np.float32(np.log(2)), weights) == pytest.approx(1.6)  # odds of 2 to 3
    assert label_entropy(np.ones(3), np.ones(3)) == 0 and calibration(np.zeros(3), np.zeros(3), np.ones(3)) is None


def loop_calibration_error(labels, logits, weights, bins):
    """Rows laid along a line by score, each as long as its weight, runs of equal scores mixed; the line is then cut."""
    pieces = []
    for score in np.unique(logits):
        rows = logits == score
        pieces.append((weights[rows].sum(), float(probabilities(score)), np.sum(weights[rows] * labels[rows])))
    each, error, at = sum(length for length, *_ in pieces) / bins, 0.0, 0.0
    for number in range(bins):
        begin, end, at, gap = number * each, (number + 1) * each, 0.0, 0.0
        for length, predicted, positive in pieces:
            inside = max(min(at + length, end) - max(at, begin), 0.0)
            gap += inside * (predicted - positive / length) if length else 0.0
            at += length
        error += abs(gap)
    return error / (bins * each)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_expected_calibration_error_against_a_loop(seed, weighted):
    labels, logits, weights = draw(seed, weighted)
    weights = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    found = expected_calibration_error(labels, logits, weights)
    assert found == pytest.approx(loop_calibration_error(labels, logits, weights, BINS), abs=1e-12)
    order = np.random.default_rng(seed).permutation(len(labels))
    assert expected_calibration_error(labels[order], logits[order], weights[order]) == pytest.approx(found, abs=1e-12)


def test_without_ties_bins_are_parts_of_the_sorted_rows():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, 400), rng.integers(0, 2, 400).astype(float)
    order = np.argsort(logits)
    parts = zip(*(np.split(x[order], BINS) for x in (probabilities(logits), labels)), strict=True)
    expected = np.mean([abs(predicted.mean() - label.mean()) for predicted, label in parts])
    assert expected_calibration_error(labels, logits, np.ones(400)) == pytest.approx(expected, abs=1e-12)


def test_probabilities_do_not_overflow():
    with np.errstate(all="raise"):
        assert probabilities(np.array([-1e6, 0, 1e6], np.float32)).tolist() == [pytest.approx(0, abs=1e-300), 0.5, 1]


def loop_group_auc(groups, labels, scores, weights):
    """Pair by pair."""
    aucs, sizes = [], []
    for group in set(groups.tolist()):
        won = pairs = 0.0
        members = [i for i in range(len(groups)) if groups[i] == group]
        for i in members:
            for j in members:
                if labels[i] > labels[j]:
                    pair = float(weights[i]) * float(weights[j])
                    pairs += pair
                    won += pair * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
        if pairs:
            aucs.append(won / pairs)
            sizes.append(sum(float(weights[i]) for i in members))
    return np.average(aucs, weights=sizes) if aucs else None, sum(sizes) / weights.astype(np.float64).sum()


def loop_top_k(groups, labels, scores, weights, size):
    """A positive's rank: one more than the rows that are not surely behind it."""
    found = []
    for group in set(groups.tolist()):
        rows = [i for i in range(len(groups)) if groups[i] == group and weights[i] > 0]
        positive = sorted(scores[i] for i in rows if labels[i])[::-1]
        if not positive:
            continue
        ranks = [n + 1 + sum(scores[i] >= score for i in rows if not labels[i]) for n, score in enumerate(positive)]
        gain = sum(1 / np.log2(rank + 1) for rank in ranks if rank <= size)
        ideal = sum(1 / np.log2(rank + 1) for rank in range(1, min(len(ranks), size) + 1))
        hits = sum(rank <= size for rank in ranks)
        found.append((gain / ideal, hits / len(ranks), hits > 0))
    means = np.mean(found, axis=0) if found else [None] * 3
    return dict(zip((f"ndcg@{size}", f"recall@{size}", f"hr@{size}"), means, strict=True))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_group_metrics_against_loops(seed, weighted):
    labels, scores, weights = draw(seed, weighted)
    weights = np.ones(len(labels), np.float32) if weights is None else weights
    groups = np.random.default_rng(seed).integers(-5, len(labels) // 4, len(labels)).astype(np.int32)
    assert group_auc(groups, labels, scores, weights) == pytest.approx(
        loop_group_auc(groups, labels, scores, weights), abs=1e-12
    )
    sizes = (1, 3, 1000)
    expected = {k: v for size in sizes for k, v in loop_top_k(groups, labels, scores, weights, size).items()}
    assert top_k(groups, labels, scores, weights, sizes) == pytest.approx(expected, abs=1e-12)
    one = np.zeros_like(groups)
    assert group_auc(one, labels, scores, weights) == pytest.approx((auc(labels, scores, weights), 1.0), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_ndcg_against_sklearn(seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, (9, 20)), rng.normal(size=(9, 20))
    labels[:, 0] = 1
    groups, ones = np.repeat(np.arange(9), 20), np.ones(180)
    for size in (1, 5, 20):
        found = top_k(groups, labels.ravel(), scores.ravel(), ones, (size,))[f"ndcg@{size}"]
        assert found == pytest.approx(sklearn.metrics.ndcg_score(labels, scores, k=size), abs=1e-12)


def test_a_positive_ranks_behind_the_negatives_of_its_score():
    labels, ones = np.array([1, 0, 0, 0]), np.ones(4)
    found = top_k(np.zeros(4), labels, np.zeros(4), ones, (3, 4))
    assert (found["hr@3"], found["hr@4"], found["ndcg@4"]) == (0, 1, 1 / np.log2(5))


def test_groups_of_one_class():
    ones = np.ones(4, np.float32)
    assert group_auc(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), np.arange(4.0), ones) == (None, 0.0)
    assert set(top_k(np.zeros(4), np.zeros(4), np.arange(4.0), ones, (2,)).values()) == {None}
    assert group_auc(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), np.arange(4.0), ones) == (1.0, 0.5)

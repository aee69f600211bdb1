"""Metrics against scikit-learn and brute force."""

import numpy as np
import pytest
import sklearn.metrics

from dist_fm.metrics.auc import auc
from dist_fm.metrics.loss import logloss, mae, rmse


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_and_logloss_against_sklearn(seed, weighted):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 500))
    labels = np.append(rng.integers(0, 2, n), [0, 1]).astype(np.float32)
    logits = np.round(rng.normal(0, 2, n + 2), int(rng.integers(0, 3))).astype(np.float32)  # ties
    weights = rng.random(n + 2).astype(np.float32) if weighted else None
    assert auc(labels, logits, weights) == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, logits, sample_weight=weights), abs=1e-12
    )
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    ones = np.ones(n + 2) if weights is None else weights
    expected = sklearn.metrics.log_loss(labels, probability, sample_weight=weights)
    assert logloss(labels, logits, ones) == pytest.approx(expected, rel=1e-6)


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

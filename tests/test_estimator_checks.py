"""scikit-learn's own checks of an estimator (`check_estimator`)."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from dist_fm.estimator import CTRClassifier, CTRRegressor

# What cannot be: each with its reason.
BY_ROW = (
    "weights are float32, and a row that counts three times adds up in another order than three rows: the check asks "
    "for 1e-7, fm is equal to 2e-5 (test_estimator.py); BatchNorm's statistics are of rows, whatever they count, and "
    "dropout and the entries that training makes unseen are drawn by a row's place"
)
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": BY_ROW,
    "check_sample_weight_equivalence_on_sparse_data": BY_ROW,
}


def checks(*estimators):
    return parametrize_with_checks(list(estimators), expected_failed_checks=lambda estimator: EXPECTED)


@checks(CTRClassifier("lr"))
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@checks(CTRClassifier(), CTRRegressor(), CTRClassifier("fm"), CTRRegressor("fm"))
def test_scikit_learns_checks_of_more_models(estimator, check):
    check(estimator)

"""The scikit-learn face: `CTRClassifier` and `CTRRegressor`, trained in memory by the engine that trains runs."""

from dist_fm.errors import UserError

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise UserError("dist_fm.estimator needs scikit-learn: pip install 'dist_fm[sklearn]'") from error

from dist_fm.estimator.estimators import CTRClassifier, CTRRegressor

__all__ = ["CTRClassifier", "CTRRegressor"]

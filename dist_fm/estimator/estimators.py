"""`CTRClassifier` and `CTRRegressor`."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import Tags, check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import validate_data

from dist_fm.estimator.base import CTREstimator
from dist_fm.metrics.calibration import probabilities


class CTRClassifier(ClassifierMixin, CTREstimator):
    """A model of the probability of the second of two classes, trained by binary cross-entropy.

    ``classes_`` are any two labels, in order. Parameters are those of `dist_fm.estimator.base.CTREstimator`.
    """

    _loss = "bce"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains from the beginning on X (a frame, an array or a sparse matrix) [N, columns] and labels y [N].

        Raises ``ValueError`` for what cannot be learnt from.
        """
        self._begin(X, y, None, sample_weight, epochs=None)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Sequence[Any] | None = None, sample_weight: Any = None) -> Self:
        """One epoch over X, going on from what was learnt before, the optimizer's state included.

        The first call learns categories, and ``classes`` (default: those in y); categories that come later are unseen.
        """
        if not hasattr(self, "_trained"):
            self._begin(X, y, classes, sample_weight, epochs=1)
            return self
        X, y = self._checked_both(X, y, reset=False)
        self._go_on(X, self._labels(y, self.classes_), sample_weight)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits of ``classes_[1]``: float64 [N]."""
        return self._logits(X).astype(np.float64)

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probabilities of ``classes_``: float64 [N, 2]."""
        positive = probabilities(self._logits(X))
        return np.stack([1 - positive, positive], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """The more probable of ``classes_``: [N]."""
        is_second = self.decision_function(X) > 0
        return self.classes_[is_second.astype(int)]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def _begin(self, X: Any, y: Any, classes: Any, sample_weight: Any, *, epochs: int | None) -> None:
        X, y = self._checked_both(X, y, reset=True)
        found = np.unique(y) if classes is None else np.unique(classes)
        if len(found) > 2:
            raise ValueError(
                f"Only binary classification is supported. The type of the target is {type_of_target(found)}."
            )
        if len(found) < 2:
            raise ValueError(f"y has 1 class, {found.tolist()[0]!r}: two are needed")
        labels = self._labels(y, found)
        self._start(X, labels, sample_weight, epochs=epochs)
        self.classes_ = found

    def _checked_both(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, np.ndarray]:
        validate_data(self, X, y, reset=reset, skip_check_array=True)  # that there is a y
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        return self._checked(X, reset=reset), y

    @staticmethod
    def _labels(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """y as 0 and 1: float32 [N]."""
        unknown = np.setdiff1d(y, classes).tolist()
        if unknown:
            raise ValueError(f"y has the class {unknown[0]!r}; classes are {classes.tolist()}")
        return (y == classes[1]).astype(np.float32)


class CTRRegressor(RegressorMixin, CTREstimator):
    """A model of a number, trained by the squared error: with ``model="fm"`` Rendle's real-valued FM.

    Parameters are those of `dist_fm.estimator.base.CTREstimator`.
    """

    _loss = "mse"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains from the beginning on X (a frame, an array or a sparse matrix) [N, columns] and numbers y [N].

        Raises ``ValueError`` for what cannot be learnt from.
        """
        self._start(*self._checked_both(X, y, reset=True), sample_weight)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """One epoch over X, going on from what was learnt before, the optimizer's state included.

        The first call learns categories; those that come later are unseen.
        """
        if not hasattr(self, "_trained"):
            self._start(*self._checked_both(X, y, reset=True), sample_weight, epochs=1)
        else:
            self._go_on(*self._checked_both(X, y, reset=False), sample_weight)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Numbers: float64 [N]."""
        return self._logits(X).astype(np.float64)

    def _checked_both(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, np.ndarray]:
        validate_data(self, X, y, reset=reset, skip_check_array=True)  # that there is a y
        y = check_array(column_or_1d(y, warn=True), ensure_2d=False, dtype=np.float32, input_name="y")
        return self._checked(X, reset=reset), y

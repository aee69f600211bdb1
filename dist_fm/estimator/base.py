"""What the estimators share: parameters, X, training, and what was learnt."""

import copy
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted, validate_data

from dist_fm.config import Config
from dist_fm.data.schema import Field
from dist_fm.errors import UserError
from dist_fm.estimator.columns import Columns, SparseColumns, TableColumns
from dist_fm.estimator.settings import make_config
from dist_fm.estimator.trained import Samples, Trained
from dist_fm.models import MODELS, get_model

MOST_INPUTS = 1000  # columns of a sparse matrix that are inputs of their own without being asked to


class CTREstimator(BaseEstimator):
    """The parameters, which are those of training by other names (`dist_fm.estimator.settings`), and more.

    ``model_params``: the model's hyper-parameters; ``settings``: further keys of the configuration, such as
    ``{"optimizer.clip_norm": 10}``. ``fields``: for a sparse matrix, the field of each column. ``roles``: columns of a
    frame by role, which ncf needs: ``{"user": "user_id", "item": "film"}``. ``min_count``: categories with fewer rows
    are unseen. ``validation_fraction`` of the rows choose the best epoch, and end training after ``patience`` of them
    without a better one. ``devices``: how many, GPUs or virtual CPU devices; 0: all.
    """

    _loss: str

    def __init__(
        self,
        model: str = "deepfm",
        *,
        embed_dim: int | None = None,
        model_params: Mapping[str, Any] | None = None,
        epochs: int = 20,
        batch_size: int = 64,
        optimizer: str = "adam",
        lr: float = 0.01,
        l2_embedding: float = 0.0,
        l2_network: float = 0.0,
        tables_update: str = "auto",
        settings: Mapping[str, Any] | None = None,
        fields: Sequence[Any] | None = None,
        roles: Mapping[str, Any] | None = None,
        min_count: int = 1,
        unseen_rate: float = 0.005,
        validation_fraction: float = 0.0,
        patience: int = 0,
        devices: int = 1,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ):
        self.model = model
        self.embed_dim = embed_dim
        self.model_params = model_params
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.l2_embedding = l2_embedding
        self.l2_network = l2_network
        self.tables_update = tables_update
        self.settings = settings
        self.fields = fields
        self.roles = roles
        self.min_count = min_count
        self.unseen_rate = unseen_rate
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.devices = devices
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        return tags

    @property
    def n_iter_(self) -> int:
        """Epochs that were trained."""
        return self._fitted().epochs

    @property
    def fields_(self) -> tuple[Field, ...]:
        """The fields: their names, and in which rows of ``embeddings_`` they are."""
        return self._fitted().schema.fields

    @property
    def embeddings_(self) -> dict[str, np.ndarray]:
        """The table's columns by name, such as linear [R, 1] and factors [R, K]."""
        return self._fitted().embeddings()

    @property
    def network_(self) -> dict[str, np.ndarray]:
        """The other weights by name, such as linear.bias [1]."""
        return self._fitted().network()

    def _fitted(self) -> Trained:
        check_is_fitted(self, "_trained")
        return self._trained

    def _checked(self, X: Any, *, reset: bool) -> Any:
        """X as a frame, or as a float32 array or matrix in rows; raises ``ValueError`` for what is none of these."""
        columns = None if reset else self._trained.columns
        by_name, of_table = isinstance(X, pd.DataFrame), not isinstance(columns, SparseColumns)
        if by_name and of_table or columns is not None and columns.has_categories:
            validate_data(self, X, reset=reset, skip_check_array=True)
            frame = X if by_name else pd.DataFrame(X)
            if not frame.size:
                raise ValueError(
                    f"Found a frame of shape {frame.shape}, while 1 sample(s) and 1 feature(s) are required."
                )
            return frame
        may_miss = of_table and self.fields is None and not scipy.sparse.issparse(X)
        return validate_data(
            self,
            X,
            reset=reset,
            accept_sparse="csr",
            dtype=np.float32,
            ensure_all_finite="allow-nan" if may_miss else True,
            ensure_min_features=get_model(self.model).min_fields if reset else 1,
        )

    def _samples(self, columns: Columns, X: Any, labels: np.ndarray, sample_weight: Any) -> Samples:
        """The checked X, encoded, with labels and weights."""
        check_consistent_length(X, labels)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        if weights is not None and not weights.any():
            raise ValueError("sample_weight is zero for all rows")
        return Samples(columns.encode(X), labels, weights)

    def _start(self, X: Any, labels: np.ndarray, sample_weight: Any, *, epochs: int | None = None) -> None:
        """Learns the columns of the checked X, and weights, from the beginning; ``epochs`` None: the parameter's."""
        drawn = self.random_state
        seed = drawn if isinstance(drawn, numbers.Integral) else check_random_state(drawn).randint(2**31 - 1)
        config = make_config(self.get_params(), loss=self._loss, seed=int(seed), where=type(self).__name__)
        check_consistent_length(X, labels)
        train, valid = self._split(labels, config) if epochs is None else (None, None)
        seen = X if train is None else _rows(X, train)
        columns = self._columns(seen)
        columns.notice(seen)
        samples = self._samples(columns, X, labels, sample_weight)
        trained = Trained(config, columns)
        trained.train(
            samples if train is None else samples.at(train),
            None if valid is None else samples.at(valid),
            epochs=config.train.epochs if epochs is None else epochs,
            verbose=self.verbose,
        )
        self._trained = trained

    def _go_on(self, X: Any, labels: np.ndarray, sample_weight: Any) -> None:
        """One more epoch, over the checked X."""
        trained = copy.copy(self._trained)  # so that what fails changes nothing
        trained.columns = copy.copy(trained.columns)
        trained.columns.notice(X)
        trained.train(self._samples(trained.columns, X, labels, sample_weight), epochs=1, verbose=self.verbose)
        self._trained = trained

    def _columns(self, X: Any) -> Columns:
        """The columns of X, learnt from all its rows."""
        takes_slots = get_model(self.model).takes_slots
        if self.fields is not None:
            if isinstance(X, pd.DataFrame) or len(self.fields) != X.shape[1]:
                raise UserError(
                    f"fields gives {len(self.fields)} columns of a matrix a field each, but X is a {type(X).__name__} "
                    f"of {X.shape[1]}"
                )
            return SparseColumns(X.shape[1], self.fields)
        if scipy.sparse.issparse(X):
            if takes_slots:
                return SparseColumns(X.shape[1], None)
            if X.shape[1] > MOST_INPUTS:
                able = ", ".join(name for name, model in MODELS.items() if model.takes_slots)
                raise UserError(
                    f"model {self.model} has an input for each of the {X.shape[1]:,} columns of the sparse X, but more "
                    f"than {MOST_INPUTS:,} are refused: say by fields=[...] which columns are one field, or take one "
                    f"of {able}"
                )
        return TableColumns(X, min_count=self.min_count, roles=self.roles or {})

    def _split(self, labels: np.ndarray, config: Config) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Rows to train on and rows to choose the best epoch by; None where those are all, and none."""
        share = self.validation_fraction
        if not 0 <= share < 1:
            raise UserError(f"validation_fraction={share}: must be at least 0 and below 1")
        if not share:
            if config.train.patience:
                raise UserError(f"patience={self.patience} needs rows to choose by: validation_fraction above 0")
            return None, None
        classes = labels if self._loss == "bce" else None
        rows = np.arange(len(labels))
        return train_test_split(rows, test_size=share, random_state=config.train.seed % 2**32, stratify=classes)

    def _logits(self, X: Any) -> np.ndarray:
        """Logits, or with mse the predicted values, of X: float32 [N]."""
        trained = self._fitted()
        return trained.logits(trained.columns.encode(self._checked(X, reset=False)))


def _rows(X: Any, rows: np.ndarray) -> Any:
    return X.iloc[rows] if isinstance(X, pd.DataFrame) else X[rows]

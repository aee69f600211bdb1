"""What an estimator learns of the columns of X, and X as table rows and values. Axes: N rows, S slots."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import scipy.sparse
from sklearn.utils.validation import check_array

from data_tools.coding import code_cells
from data_tools.counting import count_tokens
from data_tools.tokens import Tokens
from data_tools.vocab import Vocabulary
from dist_fm.data.schema import EMPTY, ROLES, Field
from dist_fm.errors import UserError, nearest
from dist_fm.tables.unique import quarter_octave


class Encoded(NamedTuple):
    """Rows of X: ``ids`` int32 [N, S] and ``values`` float32 [N, S] (None: all 1), in the slots of ``fields``."""

    fields: tuple[Field, ...]
    ids: np.ndarray
    values: np.ndarray | None

    def at(self, rows: np.ndarray) -> "Encoded":
        """Those of ``rows``, int [n]."""
        return Encoded(self.fields, self.ids[rows], None if self.values is None else self.values[rows])


class Columns(Protocol):
    """The columns of X as they were in the first rows that were learnt from."""

    @property
    def has_categories(self) -> bool:
        """Whether some columns are of categories, which only a frame can have."""

    def notice(self, X: Any) -> None:
        """Takes in which columns the rows X to be learnt from fill."""

    def encode(self, X: Any) -> Encoded: ...


class TableColumns:
    """A field a column: of a category by its vocabulary, of a number times its one row.

    In a frame columns of text, objects, categories and truth values are categories, numbers are numbers; in an array
    all are numbers. A missing number (NaN) is the field's row 0 with the value 1, if rows to learn from have missed it;
    else, as that row is not trained, it adds nothing. A missing category is a value of its own.
    """

    def __init__(self, X: Any, *, min_count: int, roles: Mapping[str, Any]):
        frame = X if isinstance(X, pd.DataFrame) else pd.DataFrame(np.zeros((1, X.shape[1])))
        self._of_role = _columns_of_roles(frame, roles)
        self._vocabularies = {
            place: _vocabulary(column, min_count)
            for place, (name, column) in enumerate(frame.items())
            if _is_category(name, column)
        }
        self._numeric = np.array([place for place in range(frame.shape[1]) if place not in self._vocabularies], int)
        self._missed = np.zeros(len(self._numeric), bool)
        self.fields = self._fields([str(name) for name in frame.columns])

    @property
    def has_categories(self) -> bool:
        return bool(self._vocabularies)

    def notice(self, X: Any) -> None:
        self._missed = self._missed | np.isnan(self._numbers(X)).any(axis=0)

    def encode(self, X: Any) -> Encoded:
        """X is a frame, or, where there are no categories, an array or a matrix."""
        ids = np.empty((X.shape[0], len(self.fields)), np.int32)
        values = np.ones(ids.shape, np.float32) if len(self._numeric) else None
        if values is not None:
            numbers = self._numbers(X)
            missing = np.isnan(numbers)
            offsets = np.array([self.fields[place].offset for place in self._numeric], np.int32)
            ids[:, self._numeric] = np.where(missing, np.where(self._missed, offsets, EMPTY), offsets + 1)
            values[:, self._numeric] = np.where(missing, self._missed, numbers)
        for place, vocabulary in self._vocabularies.items():
            cells = Tokens.of(X.iloc[:, place].to_numpy(object))
            ids[:, place] = code_cells(self.fields[place], vocabulary, cells.values).rows[cells.codes, 0]
        return Encoded(self.fields, ids, values)

    def _fields(self, names: list[str]) -> tuple[Field, ...]:
        fields, offset = [], 0
        for place, name in enumerate(names):
            vocabulary = self._vocabularies.get(place)
            kind, rows = ("numeric", 2) if vocabulary is None else ("categorical", vocabulary.rows)
            fields.append(Field(name, kind, rows, offset, role=self._of_role.get(place)))
            offset += rows
        return tuple(fields)

    def _numbers(self, X: Any) -> np.ndarray:
        """The columns of numbers: float32 [N, columns], NaN where one is missing."""
        if not len(self._numeric):
            return np.empty((X.shape[0], 0), np.float32)
        if not isinstance(X, pd.DataFrame):
            return X.toarray() if scipy.sparse.issparse(X) else X
        return check_array(X.iloc[:, self._numeric], dtype=np.float32, ensure_all_finite="allow-nan", input_name="X")


class SparseColumns:
    """A row a column, times the values of a sparse matrix, as libsvm and libffm rows have them.

    Columns are one field whose entries come to the model unpooled, or, by ``groups``, a label a column, a field for
    each label, the entries of each summed. Columns without an entry in rows to learn from share their field's row 0.
    """

    has_categories = False

    def __init__(self, columns: int, groups: Sequence[Any] | None):
        labels, self._group = np.unique(np.zeros(columns, int) if groups is None else groups, return_inverse=True)
        self._pool = "none" if groups is None else "sum"
        self._names = ["features"] if groups is None else [str(label) for label in labels]
        self._seen = np.zeros(columns, bool)

    def notice(self, X: Any) -> None:
        self._seen = self._seen | (_entries(X).getnnz(axis=0) > 0)

    def encode(self, X: Any) -> Encoded:
        entries, offset = _entries(X), 0
        fields, ids, values = [], [], []
        for group, name in enumerate(self._names):
            columns = np.flatnonzero(self._group == group)
            part = entries if len(self._names) == 1 else entries[:, columns]
            counts = np.diff(part.indptr)
            slots = quarter_octave(max(2, counts.max(initial=0)))  # few shapes, as each is compiled
            transform = {"entries": slots, "pool": self._pool}
            fields.append(Field(name, "categorical", 1 + len(columns), offset, slots, transform=transform))
            at = np.repeat(np.arange(len(counts)), counts), np.arange(part.nnz) - np.repeat(part.indptr[:-1], counts)
            ids.append(np.full((len(counts), slots), EMPTY, np.int32))
            values.append(np.zeros((len(counts), slots), np.float32))
            ids[-1][at] = offset + np.where(self._seen[columns][part.indices], 1 + part.indices, 0)
            values[-1][at] = part.data
            offset += 1 + len(columns)
        return Encoded(tuple(fields), np.concatenate(ids, axis=1), np.concatenate(values, axis=1))


def _entries(X: Any) -> scipy.sparse.csr_matrix:
    """X in rows, each column once, zeros left out."""
    entries = scipy.sparse.csr_matrix(X, copy=True)
    entries.sum_duplicates()
    entries.eliminate_zeros()
    return entries


def _is_category(name: Any, column: pd.Series) -> bool:
    kind = column.dtype
    if pd.api.types.is_bool_dtype(kind) or isinstance(kind, pd.CategoricalDtype):
        return True
    if pd.api.types.is_numeric_dtype(kind):
        return False
    if pd.api.types.is_object_dtype(kind) or pd.api.types.is_string_dtype(kind):
        return True
    raise UserError(
        f"column {name!r} of X has the type {kind}: allowed are numbers, and, as categories, text, objects, pandas' "
        "categories and truth values; make it one of these"
    )


def _vocabulary(column: pd.Series, min_count: int) -> Vocabulary:
    tokens = Tokens.of(column.to_numpy(object))
    counts = count_tokens([[value] for value in tokens.values], np.bincount(tokens.codes, minlength=len(tokens.values)))
    return Vocabulary.choose(list(counts), np.array(list(counts.values()), np.int64), min_count)


def _columns_of_roles(frame: pd.DataFrame, roles: Mapping[str, Any]) -> dict[int, str]:
    """The role of columns, by their place; raises ``UserError`` for an unknown role or column."""
    names = list(frame.columns)
    for role, name in roles.items():
        if role not in ROLES:
            raise UserError(f"roles: {role!r} is no role; {nearest(role, ROLES)}")
        if name not in names:
            raise UserError(f"roles: X has no column {name!r} to be the {role}; {nearest(name, map(str, names))}")
    return {names.index(name): role for role, name in roles.items()}

"""Whether the cells of a row can be used, and what label, time and weight they give. Axes: N rows."""

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from data_tools.formats.base import MAX_ID, Column, TextLayout
from data_tools.labels import label_value
from data_tools.numeric import parse_integer, parse_number
from data_tools.tokens import Tokens
from dist_fm.data.schema import Label


class RowChecks:
    """The checks of a file that has the columns ``found``, by a layout; to train, with a label rule.

    To predict, no cell needs to be filled, and optional columns are not looked at.
    """

    def __init__(self, layout: TextLayout, label: Label | None, for_prediction: bool, found: Collection[str]):
        if label is None and not for_prediction:
            raise ValueError("reading rows to train on needs a label rule")
        self._label = None if for_prediction else label
        self._timestamp = None if for_prediction else layout.timestamp
        self._weight = None if for_prediction else layout.weight
        self.has_times = self._timestamp in found
        self._checks: dict[str, CellCheck] = {}
        for column in layout.columns:
            if column.name not in found or (for_prediction and column.name in layout.optional):
                continue
            if for_prediction:
                column = dataclasses.replace(column, required=False)
            if column.required or column.type not in ("token", "entries"):
                self._checks[column.name] = CellCheck(column, self._label, column.name == self._weight)

    def failures(self, columns: Mapping[str, Tokens], rows: int) -> dict[int, str]:
        """Which of ``rows`` rows have a cell that cannot be used, and what is wrong with the first such cell."""
        reasons: dict[int, str] = {}
        good = np.ones(rows, bool)
        for name, check in self._checks.items():
            for row, reason in _failures(columns[name], check, good):
                reasons[row] = reason
                good[row] = False
        return reasons

    def labels(self, columns: Mapping[str, Tokens], rows: int) -> np.ndarray | None:
        """float32 [N]; None if reading to predict."""
        if self._label is None:
            return None
        if self._label.rule == "implicit":
            return np.ones(rows, np.float32)
        tokens = columns[self._label.column]
        found = [label_value(self._label, value) for value in tokens.values]
        return np.array([np.nan if isinstance(value, str) else value for value in found], np.float32)[tokens.codes]

    def times(self, columns: Mapping[str, Tokens]) -> np.ndarray | None:
        """int64 [N]; None without timestamps, or if reading to predict."""
        if not self.has_times:
            return None
        tokens = columns[str(self._timestamp)]
        return np.array([parse_integer(value) or 0 for value in tokens.values], np.int64)[tokens.codes]

    def weights(self, columns: Mapping[str, Tokens]) -> np.ndarray | None:
        """float32 [N]; None without a column of weights, or if reading to predict."""
        if self._weight is None:
            return None
        tokens = columns[self._weight]
        return np.array([parse_number(value) or 0 for value in tokens.values], np.float32)[tokens.codes]


@dataclasses.dataclass(frozen=True)
class CellCheck:
    """Says what is wrong with a cell of ``column``, or None."""

    column: Column
    label: Label | None
    is_weight: bool

    def __call__(self, value: str) -> str | None:
        column, label = self.column, self.label
        if label is not None and label.column == column.name and label.rule != "implicit":
            found = label_value(label, value)
            return found if isinstance(found, str) else None
        if not value:
            return f"{column.name} is empty" if column.required else None
        if column.type in ("integer", "id"):
            integer = parse_integer(value)
            if integer is None:
                return f"{column.name} {value!r} is not an integer"
            if column.type == "id" and not 0 <= integer <= MAX_ID:
                return f"{column.name} {value!r} is not from 0 to {MAX_ID}"
        if column.type == "number":
            number = parse_number(value)
            if number is None:
                return f"{column.name} {value!r} is not a number"
            if self.is_weight and number < 0:
                return f"{column.name} {value!r} is a negative weight"
        return None


def _failures(tokens: Tokens, check: CellCheck, among: np.ndarray) -> list[tuple[int, str]]:
    """The rows, ``among`` a mask, that fail ``check``, each with the reason."""
    reasons = [check(value) for value in tokens.values]
    if not any(reasons):
        return []
    rows = np.flatnonzero(np.array([reason is not None for reason in reasons])[tokens.codes] & among)
    return [(row, str(reasons[tokens.codes[row]])) for row in rows.tolist()]

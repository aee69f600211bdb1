"""From the text of whole lines to rows: good ones as columns of tokens, bad ones with line and reason."""

import dataclasses
from typing import Any

import numpy as np

from data_tools.formats.base import Column, TextLayout
from data_tools.formats.entry_columns import EntryCells, EntryColumns
from data_tools.formats.header import FileColumns
from data_tools.formats.lines import Cells
from data_tools.labels import label_value
from data_tools.numeric import parse_integer, parse_number
from data_tools.tokens import Tokens
from dist_fm.data.schema import Label


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: its line (from 1), why, and the line itself."""

    line: int
    reason: str
    raw: str


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What one piece of a file holds, before it is known where its rows are counted from."""

    lines: np.ndarray
    columns: dict[str, Any]  # Tokens or Entries, by name
    bad: list[BadRow]
    empty: np.ndarray  # numbers of the empty lines, int64
    last_filled: int  # number of the last line that is not empty, 0 if there is none
    num_bytes: int
    labels: np.ndarray | None
    times: np.ndarray | None


class RowParser:
    """Makes rows of lines whose columns are known. ``label`` is the rule that labels must obey, None to predict."""

    def __init__(self, layout: TextLayout, columns: FileColumns | EntryColumns, label: Label | None):
        self.columns, self.label = columns, label
        has_times = label is not None and layout.timestamp in columns.positions
        self.timestamp = layout.timestamp if has_times else None
        self._checks: dict[str, CellCheck] = {}
        for column in layout.columns:
            if label is None:
                column = dataclasses.replace(column, required=False)
            unchecked = label is None and column.name in (layout.label, layout.timestamp)
            is_checked = column.required or column.type in ("integer", "number")
            if column.name in columns.positions and is_checked and not unchecked:
                self._checks[column.name] = CellCheck(column, label)

    def parse(self, text: bytes, first_line: int) -> Parsed:
        """The rows of ``text``, whole lines of which the first has the number ``first_line``."""
        cells = self.columns.cut(text)
        columns = {name: cells.column(position) for name, position in self.columns.positions.items()}
        lines = cells.lines + first_line
        reasons = {line + first_line: reason for line, reason in cells.bad.items()}
        good = np.ones(len(lines), bool)
        for name, check in self._checks.items():
            for row, reason in _failures(columns[name], check, good):
                reasons[int(lines[row])] = reason
                good[row] = False
        if not good.all():
            lines = lines[good]
            columns = {name: column.select(good) for name, column in columns.items()}
        return Parsed(
            lines,
            columns,
            _bad_rows(reasons, text, first_line) if reasons else [],
            cells.empty + first_line,
            _last_filled(cells, first_line),
            len(text),
            self._labels(columns),
            self._times(columns),
        )

    def _labels(self, columns: dict[str, Tokens]) -> np.ndarray | None:
        if self.label is None:
            return None
        tokens = columns[self.label.column]
        found = [label_value(self.label, value) for value in tokens.values]
        return np.array([np.nan if isinstance(value, str) else value for value in found], np.float32)[tokens.codes]

    def _times(self, columns: dict[str, Tokens]) -> np.ndarray | None:
        if self.timestamp is None:
            return None
        tokens = columns[self.timestamp]
        return np.array([parse_integer(value) or 0 for value in tokens.values], np.int64)[tokens.codes]


@dataclasses.dataclass(frozen=True)
class CellCheck:
    """Says what is wrong with a cell of ``column``, or None."""

    column: Column
    label: Label | None

    def __call__(self, value: str) -> str | None:
        column, label = self.column, self.label
        if label is not None and label.column == column.name:
            found = label_value(label, value)
            return found if isinstance(found, str) else None
        if not value:
            return f"{column.name} is empty" if column.required else None
        if column.type == "integer" and parse_integer(value) is None:
            return f"{column.name} {value!r} is not an integer"
        if column.type == "number" and parse_number(value) is None:
            return f"{column.name} {value!r} is not a number"
        return None


def _last_filled(cells: Cells | EntryCells, first_line: int) -> int:
    if not len(cells.empty):
        return first_line + cells.num_lines - 1
    filled = np.setdiff1d(np.arange(cells.num_lines), cells.empty)
    return first_line + int(filled[-1]) if len(filled) else 0


def _failures(tokens: Tokens, check: CellCheck, among: np.ndarray) -> list[tuple[int, str]]:
    """The rows, ``among`` a mask, that fail ``check``, each with the reason."""
    reasons = [check(value) for value in tokens.values]
    if not any(reasons):
        return []
    rows = np.flatnonzero(np.array([reason is not None for reason in reasons])[tokens.codes] & among)
    return [(row, str(reasons[tokens.codes[row]])) for row in rows.tolist()]


def _bad_rows(reasons: dict[int, str], text: bytes, first_line: int) -> list[BadRow]:
    raw = text.split(b"\n")
    shown = {line: raw[line - first_line].decode("utf-8", "backslashreplace") for line in reasons}
    return [BadRow(line, reasons[line], shown[line]) for line in sorted(reasons)]

"""Reads the rows of a raw file in chunks: good rows as columns of tokens, bad ones with line and reason."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from data_tools.errors import DataError
from data_tools.formats.base import Column, TextLayout
from data_tools.formats.files import RawFile
from data_tools.formats.header import find_columns
from data_tools.formats.lines import Cells, find_cells, read_lines
from data_tools.labels import label_value
from data_tools.numeric import parse_integer, parse_number
from data_tools.tokens import Tokens
from dist_fm.data.schema import Label

CHUNK_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: its line (from 1), why, and the line itself."""

    line: int
    reason: str
    raw: str


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file. Rows are counted from 0 over good and bad ones; N good rows.

    ``lines`` int64 [N] are their line numbers, ascending, so that ``bad`` rows can be put back between them.
    ``labels`` float32 [N] and ``times`` int64 [N] only when reading to train (``times`` if the file has them).
    """

    first_row: int
    lines: np.ndarray
    columns: dict[str, Tokens]
    bad: list[BadRow]
    num_bytes: int
    labels: np.ndarray | None = None
    times: np.ndarray | None = None

    @property
    def num_rows(self) -> int:
        """Good and bad rows."""
        return len(self.lines) + len(self.bad)


def open_rows(
    source: "TextLayout | Mapping[str, Any]",
    path: str | os.PathLike,
    *,
    label: Label | None = None,
    for_prediction: bool = False,
    keep: tuple[str, ...] = (),
    chunk_bytes: int = CHUNK_BYTES,
) -> "RowReader":
    """Opens the raw file at ``path``, whose rows lie as ``source`` (a layout, or a schema's ``source``) says.

    To train, ``label`` is the rule that labels must obey. ``for_prediction``: label and timestamp may be absent or
    empty and are not looked at, and neither is an empty cell an error. ``keep`` names further columns to return.
    Raises ``DataError`` if the file cannot be read, is empty, or lacks a column.
    """
    return RowReader(TextLayout.from_json(source), os.fspath(path), label, for_prediction, tuple(keep), chunk_bytes)


class RowReader:
    """Iterates once over the ``Chunk``s of a file. Empty lines at its end are no rows; others are bad rows.

    ``columns`` says what was found where, ``total_bytes`` is the file's size on disk, ``text_bytes`` that of its
    text (None: not known, as it is compressed) and ``crc32``, once all is read, the file's checksum.
    """

    def __init__(
        self,
        layout: TextLayout,
        path: str,
        label: Label | None,
        for_prediction: bool,
        keep: tuple[str, ...],
        chunk_bytes: int,
    ):
        if label is None and not for_prediction:
            raise ValueError("reading rows to train on needs a label rule")
        self.path = path
        self._label = None if for_prediction else label
        self._timestamp = None if for_prediction else layout.timestamp
        self._pending_empty: list[int] = []  # empty lines that may turn out to be the file's last
        self._file = RawFile(path)
        self.total_bytes = self._file.total_bytes
        self.text_bytes = None if self._file.compressed else self.total_bytes
        try:
            self._texts = read_lines(self._file.read, chunk_bytes, where=path)
            self._first = next(self._texts, b"")
            while not self._first.strip(b"\n"):  # nothing in it to tell the columns by
                text = next(self._texts, None)
                if text is None:
                    raise DataError(f"{path}: the file is empty")
                self._first += text
            self.columns = find_columns(self._first, layout, where=path, for_prediction=for_prediction, keep=keep)
        except BaseException:
            self._file.close()
            raise
        self._checks: dict[str, Callable[[str], str | None]] = {}
        for column in layout.columns:
            if for_prediction:
                column = dataclasses.replace(column, required=False)
            unchecked = for_prediction and column.name in (layout.label, layout.timestamp)
            if column.name in self.columns.positions and not unchecked and (column.required or column.type != "token"):
                self._checks[column.name] = _check(column, self._label)

    @property
    def crc32(self) -> int:
        return self._file.crc32

    @property
    def has_times(self) -> bool:
        return self._timestamp in self.columns.positions

    def __iter__(self) -> Iterator[Chunk]:
        with self._file:
            text: bytes | None = self._first
            row, line = 0, 1
            if self.columns.has_header:
                above = len(self._first) - len(self._first.lstrip(b"\n"))
                text = self._first[self._first.index(b"\n", above) + 1 :]
                line = above + 2
            while text is not None:
                if text:
                    chunk = self._chunk(text, row, line)
                    row += chunk.num_rows
                    line += text.count(b"\n")
                    yield chunk
                text = next(self._texts, None)
            if not row:
                raise DataError(f"{self.path}: the file has no rows")

    def _chunk(self, text: bytes, first_row: int, first_line: int) -> Chunk:
        cells = find_cells(text, self.columns.delimiter, self.columns.width)
        columns = {name: cells.column(position) for name, position in self.columns.positions.items()}
        lines = cells.lines + first_line
        reasons = {line + first_line: reason for line, reason in cells.bad.items()}
        reasons |= dict.fromkeys(self._inner_empty_lines(cells, first_line), "an empty line")
        good = np.ones(len(lines), bool)
        for name, check in self._checks.items():
            for row, reason in _failures(columns[name], check, good):
                reasons[int(lines[row])] = reason
                good[row] = False
        if not good.all():
            lines = lines[good]
            columns = {name: column.select(good) for name, column in columns.items()}
        bad = _bad_rows(reasons, text, first_line) if reasons else []
        return Chunk(first_row, lines, columns, bad, len(text), self._labels(columns), self._times(columns))

    def _inner_empty_lines(self, cells: Cells, first_line: int) -> list[int]:
        """The empty lines known to have a filled one behind them."""
        empty = self._pending_empty + (cells.empty + first_line).tolist()
        filled = np.setdiff1d(np.arange(cells.num_lines), cells.empty) if len(cells.empty) else [cells.num_lines - 1]
        last_filled = filled[-1] + first_line if len(filled) else 0
        self._pending_empty = [line for line in empty if line > last_filled]
        return [line for line in empty if line < last_filled]

    def _labels(self, columns: dict[str, Tokens]) -> np.ndarray | None:
        if self._label is None:
            return None
        tokens = columns[self._label.column]
        found = [label_value(self._label, value) for value in tokens.values]
        return np.array([np.nan if isinstance(value, str) else value for value in found], np.float32)[tokens.codes]

    def _times(self, columns: dict[str, Tokens]) -> np.ndarray | None:
        if self._timestamp not in columns:
            return None
        tokens = columns[self._timestamp]
        return np.array([parse_integer(value) or 0 for value in tokens.values], np.int64)[tokens.codes]


def _check(column: Column, label: Label | None) -> Callable[[str], str | None]:
    """The function that says what is wrong with a cell of ``column``, or None."""

    def check(value: str) -> str | None:
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

    return check


def _failures(tokens: Tokens, check: Callable[[str], str | None], among: np.ndarray) -> list[tuple[int, str]]:
    """The rows, ``among`` a mask, that fail ``check``, each with the reason."""
    reasons = [check(value) for value in tokens.values]
    if not any(reasons):
        return []
    rows = np.flatnonzero(np.array([reason is not None for reason in reasons])[tokens.codes] & among)
    return [(row, str(reasons[tokens.codes[row]])) for row in rows.tolist()]


def _bad_rows(reasons: dict[int, str], text: bytes, first_line: int) -> list[BadRow]:
    raw = text.split(b"\n")
    shown = {line: raw[line - first_line] if line >= first_line else b"" for line in reasons}
    return [BadRow(line, reasons[line], shown[line].decode("utf-8", "backslashreplace")) for line in sorted(reasons)]

"""Reads the rows of a raw file in chunks: good rows as columns of tokens, bad ones with line and reason."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from data_tools.errors import DataError
from data_tools.formats.base import TextLayout
from data_tools.formats.checks import RowChecks
from data_tools.formats.files import RawFile
from data_tools.formats.header import find_columns
from data_tools.formats.lines import Cells, find_cells, read_lines
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
    ``labels`` float32 [N], ``times`` int64 [N] and ``weights`` float32 [N] only when reading to train (times and
    weights if the file has them).
    """

    first_row: int
    lines: np.ndarray
    columns: dict[str, Tokens]
    bad: list[BadRow]
    num_bytes: int
    labels: np.ndarray | None = None
    times: np.ndarray | None = None
    weights: np.ndarray | None = None

    @property
    def num_rows(self) -> int:
        """Good and bad rows."""
        return len(self.lines) + len(self.bad)

    def select(self, rows: np.ndarray | slice) -> "Chunk":
        """The chunk with its good rows at ``rows`` (indices, a mask or a slice) alone; bad ones are kept."""
        return dataclasses.replace(
            self,
            lines=self.lines[rows],
            columns={name: column.select(rows) for name, column in self.columns.items()},
            labels=None if self.labels is None else self.labels[rows],
            times=None if self.times is None else self.times[rows],
            weights=None if self.weights is None else self.weights[rows],
        )


def checked_chunk(
    checks: RowChecks, first_row: int, lines: np.ndarray, columns: dict[str, Tokens], bad: list[BadRow], num_bytes: int
) -> Chunk:
    """A chunk of rows that passed ``checks``, with the labels, times and weights they give."""
    labels = checks.labels(columns, len(lines))
    return Chunk(first_row, lines, columns, bad, num_bytes, labels, checks.times(columns), checks.weights(columns))


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
        self.path = path
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
            self._checks = RowChecks(layout, label, for_prediction, self.columns.positions)
        except BaseException:
            self._file.close()
            raise

    @property
    def crc32(self) -> int:
        return self._file.crc32

    @property
    def has_times(self) -> bool:
        return self._checks.has_times

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
        failures = self._checks.failures(columns, len(lines))
        if failures:
            reasons |= {int(lines[row]): reason for row, reason in failures.items()}
            good = np.ones(len(lines), bool)
            good[list(failures)] = False
            lines = lines[good]
            columns = {name: column.select(good) for name, column in columns.items()}
        bad = _bad_rows(reasons, text, first_line) if reasons else []
        return checked_chunk(self._checks, first_row, lines, columns, bad, len(text))

    def _inner_empty_lines(self, cells: Cells, first_line: int) -> list[int]:
        """The empty lines known to have a filled one behind them."""
        empty = self._pending_empty + (cells.empty + first_line).tolist()
        filled = np.setdiff1d(np.arange(cells.num_lines), cells.empty) if len(cells.empty) else [cells.num_lines - 1]
        last_filled = filled[-1] + first_line if len(filled) else 0
        self._pending_empty = [line for line in empty if line > last_filled]
        return [line for line in empty if line < last_filled]


def _bad_rows(reasons: dict[int, str], text: bytes, first_line: int) -> list[BadRow]:
    raw = text.split(b"\n")
    shown = {line: raw[line - first_line] if line >= first_line else b"" for line in reasons}
    return [BadRow(line, reasons[line], shown[line].decode("utf-8", "backslashreplace")) for line in sorted(reasons)]

"""From the text of whole lines to rows: good ones as columns of tokens, bad ones with line and reason."""

import dataclasses
from typing import Any

import numpy as np

from data_tools.formats.checks import RowChecks
from data_tools.formats.entry_columns import EntryCells, EntryColumns
from data_tools.formats.header import FileColumns
from data_tools.formats.lines import Cells
from data_tools.tokens import Tokens


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
    columns: dict[str, Any]  # Tokens or Entries, by name
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


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What one piece of a file holds, before it is known where its rows are counted from and if they go on behind it.

    ``empty`` int64 are the numbers of its empty lines, ``last_filled`` that of the last other one, 0 if there is none.
    """

    chunk: Chunk
    empty: np.ndarray
    last_filled: int


@dataclasses.dataclass(frozen=True)
class RowParser:
    """Makes rows of lines whose columns are known."""

    columns: FileColumns | EntryColumns
    checks: RowChecks

    def parse(self, text: bytes, first_line: int) -> Parsed:
        """The rows of ``text``, whole lines of which the first has the number ``first_line``."""
        cells = self.columns.cut(text)
        columns = {name: cells.column(position) for name, position in self.columns.positions.items()}
        lines = cells.lines + first_line
        reasons = {line + first_line: reason for line, reason in cells.bad.items()}
        failures = self.checks.failures(columns, len(lines))
        if failures:
            reasons |= {int(lines[row]): reason for row, reason in failures.items()}
            good = np.ones(len(lines), bool)
            good[list(failures)] = False
            lines = lines[good]
            columns = {name: column.select(good) for name, column in columns.items()}
        bad = _bad_rows(reasons, text, first_line) if reasons else []
        chunk = checked_chunk(self.checks, 0, lines, columns, bad, len(text))
        return Parsed(chunk, cells.empty + first_line, _last_filled(cells, first_line))


def _last_filled(cells: Cells | EntryCells, first_line: int) -> int:
    if not len(cells.empty):
        return first_line + cells.num_lines - 1
    filled = np.setdiff1d(np.arange(cells.num_lines), cells.empty)
    return first_line + int(filled[-1]) if len(filled) else 0


def _bad_rows(reasons: dict[int, str], text: bytes, first_line: int) -> list[BadRow]:
    raw = text.split(b"\n")
    shown = {line: raw[line - first_line].decode("utf-8", "backslashreplace") for line in reasons}
    return [BadRow(line, reasons[line], shown[line]) for line in sorted(reasons)]

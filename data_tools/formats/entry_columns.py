"""The columns of libsvm and libffm files: the label, and one of entries for each field.

Axes: N good rows of a chunk, E entries.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
import pandas as pd

from data_tools.errors import DataError
from data_tools.formats.base import Column, TextLayout
from data_tools.formats.entries import LineEntries, find_entries
from data_tools.tokens import Entries, Tokens


@dataclasses.dataclass(frozen=True)
class EntryCells:
    """The columns of one chunk, as ``Cells`` has them of other files."""

    lines: np.ndarray  # int64 [N], counted from 0 within the chunk
    num_lines: int
    bad: dict[int, str]  # line -> why it has no entries
    empty: np.ndarray
    labels: Tokens  # [N]
    rows: np.ndarray  # int64 [E], ascending
    columns: np.ndarray  # int64 [E], which column of entries each belongs to, from 0
    indices: Tokens  # [E]
    numbers: np.ndarray  # float32 [E]

    def column(self, number: int) -> Any:
        """The N cells of column ``number``: of 0, the label, as ``Tokens``, of others as ``Entries``."""
        if number == 0:
            return self.labels
        own = np.flatnonzero(self.columns == number - 1)
        codes, held = pd.factorize(self.indices.codes[own])  # of all fields' indices, a field has few
        indices = Tokens(codes, [self.indices.values[code] for code in held.tolist()])
        return Entries(len(self.lines), self.rows[own], indices, self.numbers[own])


@dataclasses.dataclass(frozen=True)
class EntryColumns:
    """The columns of a file: what ``FileColumns`` is for other files."""

    layout: TextLayout
    may_lack_label: bool
    has_header = False

    @classmethod
    def of(cls, layout: TextLayout, *, where: str, for_prediction: bool, keep: tuple[str, ...]) -> "EntryColumns":
        """Raises ``DataError`` for a column to ``keep`` that is not the label."""
        for name in keep:
            if name != layout.label:
                raise DataError(f"{where}: there is no column {name!r}; columns found: {layout.label}")
        return cls(layout, may_lack_label=for_prediction)

    @property
    def positions(self) -> dict[str, int]:
        return {str(self.layout.label): 0} | {column.name: at for at, column in enumerate(self._fields, start=1)}

    @functools.cached_property
    def _fields(self) -> list[Column]:
        """Those of entries, by field number, which in libffm is the name."""
        return [column for column in self.layout.columns if column.type == "entries"]

    def cut(self, text: bytes) -> EntryCells:
        """The columns of whole lines; lines with a field that is unknown, or too many entries of one, are bad."""
        with_fields = self.layout.syntax == "libffm"
        found = find_entries(text, with_fields=with_fields, may_lack_label=self.may_lack_label)
        numbers = np.array([int(column.name) for column in self._fields] if with_fields else [0])
        column = np.minimum(np.searchsorted(numbers, found.fields), len(numbers) - 1)
        bad = dict(found.bad)
        for at in np.flatnonzero(numbers[column] != found.fields).tolist():
            reason = f"field '{found.fields[at]}' is not one of those that training has"
            bad.setdefault(int(found.lines[at]), reason)
        for line, at in zip(*self._overfull(found, column), strict=True):
            most, name = self._fields[at].most, self._fields[at].name
            bad.setdefault(line, f"field {name!r} has more entries than the {most} that records have places for")
        good = np.ones(found.num_lines, bool)
        good[list(bad)] = good[found.empty] = False
        kept = np.flatnonzero(good[found.lines])
        return EntryCells(
            lines=np.flatnonzero(good),
            num_lines=found.num_lines,
            bad=bad,
            empty=found.empty,
            labels=found.labels.select(good),
            rows=(np.cumsum(good) - 1)[found.lines[kept]],
            columns=column[kept],
            indices=found.indices.select(kept),
            numbers=found.numbers[kept],
        )

    def _overfull(self, found: LineEntries, column: np.ndarray) -> tuple[list[int], list[int]]:
        """Lines and columns with more entries than places."""
        keys, counts = np.unique(found.lines * len(self._fields) + column, return_counts=True)
        lines, columns = np.divmod(keys, len(self._fields))
        over = counts > np.array([column.most for column in self._fields])[columns]
        return lines[over].tolist(), columns[over].tolist()

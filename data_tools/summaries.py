"""What training rows say of the fields, gathered portion by portion: ``look`` in any process, ``add`` in one, in order.

Axes: U distinct cells of a raw column.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from data_tools.counting import NumberCounter, TokenCounter, count_tokens
from data_tools.formats.base import FieldSpec
from data_tools.numeric import parse_integer
from data_tools.transforms import EMPTY_BIN, cell_numbers, cell_tokens, is_plain
from dist_fm.data.schema import Field

Cells = tuple[Sequence[str], np.ndarray]  # the values [U], each held by some training row, and by how many: int64 [U]
CellsOf = Callable[[FieldSpec | Field], Cells]


class Summary(Protocol):
    def look(self, cells_of: CellsOf) -> Any:
        """What the cells of one portion say."""

    def add(self, seen: Any) -> None:
        """Takes in what ``look`` found."""


class TokenSummary:
    """How often each token occurs in fields that share rows."""

    def __init__(self, fields: Sequence[FieldSpec | Field], directory: pathlib.Path):
        self.fields = fields
        self.counter = TokenCounter(directory)

    def look(self, cells_of: CellsOf) -> list[tuple[list[str], list[int]]]:
        return [_tokens(field, *cells_of(field)) for field in self.fields]

    def add(self, seen: list[tuple[list[str], list[int]]]) -> None:
        for tokens, counts in seen:
            self.counter.add(tokens, counts)


def _tokens(field: FieldSpec | Field, cells: Sequence[str], counts: np.ndarray) -> tuple[list[str], list[int]]:
    if is_plain(field.transform):
        return list(cells), counts.tolist()
    totals = count_tokens(cell_tokens(field.transform, cells), counts)
    return list(totals), list(totals.values())


class NumberSummary:
    """How often each number occurs in a field, as it is before it is scaled or binned; a fill is no number."""

    def __init__(self, field: FieldSpec):
        self.field = field
        self.counter = NumberCounter()

    def look(self, cells_of: CellsOf) -> tuple[np.ndarray, np.ndarray, int]:
        cells, counts = cells_of(self.field)
        numbers, empty = cell_numbers(self.field.transform, cells)
        return numbers[~empty], counts[~empty], int(counts[empty].sum())

    def add(self, seen: tuple[np.ndarray, np.ndarray, int]) -> None:
        self.counter.add(*seen)

    def bins(self, edges: Sequence[float]) -> Cells:
        """The tokens of a field binned by ``edges``, and how often each occurs."""
        numbers, counts = self.counter.all()
        at = np.searchsorted(np.asarray(edges, np.float64), numbers, "right")
        totals = np.bincount(at, counts, len(edges) + 1).astype(np.int64)
        filled = np.flatnonzero(totals)
        return [*map(str, filled.tolist()), EMPTY_BIN], np.append(totals[filled], self.counter.empty)


class IdSummary:
    """The largest raw id of a field whose ids are used as they are."""

    def __init__(self, field: FieldSpec | Field):
        self.field = field
        self.largest = -1

    def look(self, cells_of: CellsOf) -> int:
        cells, _ = cells_of(self.field)
        return max((number for cell in cells if (number := parse_integer(cell)) is not None), default=-1)

    def add(self, seen: int) -> None:
        self.largest = max(self.largest, seen)

    @property
    def rows(self) -> int:
        """Table rows for raw ids 0 to the largest, each shifted by ``add``, and the unseen."""
        return self.largest + self.field.transform["add"] + 1


class DistinctSummary:
    """About how many values training rows hold in each of ``fields``; exactly, where they are fewer than ``SKETCH``.

    Of their hashes the smallest are kept: K of them below the share x of all hashes mean about K / x values (Bar-Yossef
    et al. 2002). The standard error is 1.6 %.
    """

    SKETCH = 4096

    def __init__(self, fields: Sequence[FieldSpec | Field]):
        self._fields = [field for field in fields if len(field.columns) == 1]
        self._smallest = {field.name: np.zeros(0, np.uint64) for field in self._fields}

    def look(self, cells_of: CellsOf) -> list[np.ndarray]:
        return [self._hashes(field, cells_of(field)[0]) for field in self._fields]

    def add(self, seen: list[np.ndarray]) -> None:
        for (name, held), more in zip(self._smallest.items(), seen, strict=True):
            self._smallest[name] = np.union1d(held, more)[: self.SKETCH]

    @property
    def counts(self) -> dict[str, int]:
        """By field."""
        return {name: self._count(hashes) for name, hashes in self._smallest.items()}

    def _hashes(self, field: FieldSpec | Field, cells: Sequence[str]) -> np.ndarray:
        if not is_plain(field.transform) and "split" not in field.transform:
            cells = [str(token) for tokens in cell_tokens(field.transform, cells) for token in tokens]
        return np.unique(pd.util.hash_array(np.array(cells, object), categorize=False))[: self.SKETCH]

    def _count(self, smallest: np.ndarray) -> int:
        if len(smallest) < self.SKETCH:
            return len(smallest)
        return round((len(smallest) - 1) * 2.0**64 / float(smallest[-1]))


def keep_within(memory_bytes: int, summaries: Sequence[Summary]) -> None:
    """Puts the largest counts away until those in memory take no more than ``memory_bytes``."""
    counters = [summary.counter for summary in summaries if isinstance(summary, TokenSummary)]
    held = sum(counter.num_bytes for counter in counters)
    for counter in sorted(counters, key=lambda counter: -counter.num_bytes):
        if held <= memory_bytes:
            return
        held -= counter.num_bytes
        counter.put_away()

"""Columns of raw values, held as codes into their distinct values, so that Python touches each distinct value once.

Axes: N rows, U distinct values.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

_LONGEST_HASHED = 64  # bytes; longer cells are rare and go through Python
_IN_CACHE = 1 << 14  # cells
_MASKS = np.array([(1 << (8 * length)) - 1 for length in range(9)], np.uint64)  # keeps the first `length` bytes
_SPACE = re.compile(r"[^\S\n]")
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A column of N strings: ``codes`` (integers [N]) into ``values`` (strings [U], in which equal ones may repeat)."""

    codes: np.ndarray
    values: Sequence[str]

    @classmethod
    def of(cls, column: "Tokens | Sequence | np.ndarray") -> "Tokens":
        """``column`` itself, or a sequence of values as stripped strings; None and NaN become empty."""
        if isinstance(column, Tokens):
            return column
        codes, values = pd.factorize(np.asarray(column, object), use_na_sentinel=True)
        codes = np.where(codes < 0, len(values), codes)
        return cls(codes, [*(str(value).strip() for value in values), ""])

    def __len__(self) -> int:
        return len(self.codes)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """The strings themselves, object [N]."""
        return np.array(list(self.values), object)[self.codes]

    def select(self, rows: np.ndarray | slice) -> "Tokens":
        """The column at ``rows`` (indices, a mask or a slice), with all its ``values``."""
        return Tokens(self.codes[rows], self.values)

    def count(self, rows: np.ndarray) -> np.ndarray:
        """How often ``rows`` (indices or a mask) hold each of the ``values``: int64 [U]."""
        return np.bincount(self.codes[rows], minlength=len(self.values))

    def small(self) -> "Tokens":
        """The same with codes of as few bytes as will do."""
        return Tokens(self.codes.astype(np.min_scalar_type(len(self.values))), self.values)


@dataclasses.dataclass(frozen=True)
class Entries:
    """A column of N rows with any number of entries: of all E, in order, the row, the index and the number it has."""

    num_rows: int
    rows: np.ndarray  # int64 [E], ascending
    indices: Tokens  # [E]
    numbers: np.ndarray  # float32 [E]

    def __len__(self) -> int:
        return self.num_rows

    @property
    def values(self) -> Sequence[str]:
        """The distinct indices [U]."""
        return self.indices.values

    @property
    def places(self) -> np.ndarray:
        """How many entries of its row are before each: int64 [E]."""
        return np.arange(len(self.rows)) - np.searchsorted(self.rows, self.rows)

    def select(self, rows: np.ndarray | slice) -> "Entries":
        """The column at ``rows``, a mask or a slice."""
        chosen = np.zeros(self.num_rows, bool)
        chosen[rows] = True
        kept = chosen[self.rows]
        at = (np.cumsum(chosen) - 1)[self.rows[kept]]
        return Entries(int(np.count_nonzero(chosen)), at, self.indices.select(kept), self.numbers[kept])

    def count(self, rows: np.ndarray) -> np.ndarray:
        """In how many entries the rows of a mask hold each index: int64 [U]."""
        return self.indices.count(rows[self.rows])

    def small(self) -> "Entries":
        """The same in fewer bytes."""
        rows = self.rows.astype(np.min_scalar_type(self.num_rows))
        return dataclasses.replace(self, rows=rows, indices=self.indices.small())


class CellReader:
    """The N x W cells of a text, at byte ``starts`` with ``lengths``, both int64 [N, W], made into columns."""

    def __init__(self, text: bytes, starts: np.ndarray, lengths: np.ndarray):
        self._text, self._starts, self._lengths = text, starts, lengths
        # Whole words, and two more, so that reading a word behind the last cell stays inside.
        self._words = np.frombuffer(text + bytes(16 + -len(text) % 8), "<u8")
        self._longest = lengths.max(axis=0, initial=0)
        # Of all columns at once: the text is then read once, in order, instead of once a column with a miss a cell.
        # And a few rows at a time: else each step's arrays would go through memory, which takes 2.5 times as long.
        self._first_words = np.empty(starts.shape[::-1], np.uint64)
        rows_at_once = max(_IN_CACHE // max(starts.shape[1], 1), 1)
        for first in range(0, len(starts), rows_at_once):
            rows = slice(first, first + rows_at_once)
            self._first_words[:, rows] = self._word(starts[rows], lengths[rows], 0).T

    def column(self, number: int) -> Tokens:
        """The cells of one column, stripped; bytes that are not UTF-8 as ``\\xNN``."""
        first = self._first_words[number]
        longest = int(self._longest[number])
        if longest <= 8:
            # NUL-padded to 8 bytes, a cell is one integer.
            codes, distinct = pd.factorize(first)
            return Tokens(codes, _texts(distinct.view("S8").tolist()))
        starts, lengths = (np.ascontiguousarray(part[:, number]) for part in (self._starts, self._lengths))
        if longest <= _LONGEST_HASHED:
            words = [first, *(self._word(starts, lengths, at) for at in range(8, longest, 8))]
            key = np.zeros(len(starts), np.uint64)
            for word in words:
                key = (key ^ word) * _MIX
                key ^= key >> np.uint64(29)
            codes, distinct = pd.factorize(key)
            at = np.empty(len(distinct), np.int64)
            at[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
            if all(np.array_equal(word, word[at][codes]) for word in words):  # else two cells share a key
                return Tokens(codes, _texts(self._cells(starts[at], lengths[at])))
        codes, values = pd.factorize(np.array(_texts(self._cells(starts, lengths)), object))
        return Tokens(codes, list(values))

    def _word(self, starts: np.ndarray, lengths: np.ndarray, at: int) -> np.ndarray:
        """Bytes ``at`` to ``at + 8`` of each cell as one integer, zeros behind the cell's end: uint64, shaped alike."""
        # Two aligned reads and shifts: NumPy gathers unaligned words four times slower.
        starts = starts + at
        shift = ((starts & 7) << 3).view(np.uint64)
        index = np.minimum(starts >> 3, len(self._words) - 2)
        word = self._words.take(index) >> shift
        word |= self._words.take(index + 1) << (np.uint64(64) - shift)  # NumPy defines x << 64 as 0
        word &= _MASKS.take(lengths - at, mode="clip")
        return word

    def _cells(self, starts: np.ndarray, lengths: np.ndarray) -> list[bytes]:
        bounds = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
        return [self._text[start:stop] for start, stop in bounds]


def _texts(cells: list[bytes]) -> list[str]:
    """All cells decoded at once, which is several times faster than one by one; no cell holds a newline."""
    text = b"\n".join(cells).decode("utf-8", "backslashreplace")
    texts = text.split("\n")
    return [cell.strip() for cell in texts] if _SPACE.search(text) else texts

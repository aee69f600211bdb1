"""Rows on their way into a data set: parsed once, kept as codes on disk until splits and vocabularies are known.

Memory holds the distinct cells of every column, never the rows. Axes: N rows, C columns.
"""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from data_tools.formats import Chunk

_PORTION_ROWS = 1 << 17


class Spill:
    """Files in ``directory`` (made here) of the rows added so far, in order."""

    def __init__(self, directory: pathlib.Path, columns: Sequence[str]):
        directory.mkdir()
        self.columns = tuple(columns)
        self.rows = 0
        self._codes_of: list[dict[str, int]] = [{} for _ in columns]
        self._paths = {name: directory / name for name in ("codes", "labels", "times", "weights")}
        self._files = {name: open(path, "wb") for name, path in self._paths.items()}

    def add(self, chunk: Chunk) -> None:
        """Adds a chunk's good rows."""
        codes = np.empty((len(chunk.lines), len(self.columns)), np.int32)
        for number, name in enumerate(self.columns):
            tokens = chunk.columns[name]
            known = self._codes_of[number]
            # A value no row of the chunk holds any more (its rows were bad) gets a code too, and the count 0.
            new = [known.setdefault(value, len(known)) for value in tokens.values]
            codes[:, number] = np.array(new, np.int32)[tokens.codes]
        assert chunk.labels is not None
        # Not ``tofile``, which says nothing when the disk is full.
        self._files["codes"].write(codes.tobytes())
        self._files["labels"].write(chunk.labels.astype("<f4").tobytes())
        if chunk.times is not None:
            self._files["times"].write(chunk.times.astype("<i8").tobytes())
        if chunk.weights is not None:
            self._files["weights"].write(chunk.weights.astype("<f4").tobytes())
        self.rows += len(codes)

    def finish(self) -> None:
        """Ends adding; reading may begin."""
        for file in self._files.values():
            file.close()

    def values(self, column: str) -> list[str]:
        """The distinct values [U] of a column, by code."""
        return list(self._codes_of[self.columns.index(column)])

    def times(self) -> np.ndarray:
        """int64 [N]."""
        return np.fromfile(self._paths["times"], "<i8")

    def weights(self) -> np.ndarray:
        """float32 [N], left on disk until it is looked at."""
        return np.memmap(self._paths["weights"], "<f4", "r")

    def codes(self, column: str) -> np.ndarray:
        """int32 [N] of one column."""
        number = self.columns.index(column)
        return np.concatenate([codes[:, number] for _, codes, _ in self.portions()] or [np.zeros(0, np.int32)])

    def portions(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """All rows in order, some at a time: which, their codes int32 [n, C] and their labels float32 [n]."""
        with open(self._paths["codes"], "rb") as codes, open(self._paths["labels"], "rb") as labels:
            for start in range(0, self.rows, _PORTION_ROWS):
                count = min(_PORTION_ROWS, self.rows - start)
                portion = np.fromfile(codes, "<i4", count * len(self.columns)).reshape(count, len(self.columns))
                yield slice(start, start + count), portion, np.fromfile(labels, "<f4", count)

    def count(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """How often each value occurs among ``rows`` (a mask [N]): int64 [U] by column."""
        counts = [np.zeros(len(known), np.int64) for known in self._codes_of]
        for where, codes, _ in self.portions():
            chosen = codes[rows[where]]
            for number, total in enumerate(counts):
                total += np.bincount(chosen[:, number], minlength=len(total))
        return dict(zip(self.columns, counts, strict=True))

"""Rows on their way into a data set: parsed once, kept as codes on disk until splits and vocabularies are known.

Memory holds the distinct values of every field, never the rows. Axes: N rows, F fields.
"""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from data_tools.formats import Chunk, FieldSpec
from data_tools.numeric import transform_tokens

_PORTION_ROWS = 1 << 17


class Spill:
    """Files in ``directory`` (made here) of the rows added so far, in order."""

    def __init__(self, directory: pathlib.Path, fields: Sequence[FieldSpec]):
        directory.mkdir()
        self.fields = tuple(fields)
        self.rows = 0
        self._codes_of: list[dict[str, int]] = [{} for _ in fields]
        self._paths = {name: directory / name for name in ("codes", "labels", "times")}
        self._files = {name: open(path, "wb") for name, path in self._paths.items()}

    def add(self, chunk: Chunk) -> None:
        """Adds a chunk's good rows."""
        codes = np.empty((len(chunk.lines), len(self.fields)), np.int32)
        for number, field in enumerate(self.fields):
            tokens = chunk.columns[field.name]
            known = self._codes_of[number]
            values = transform_tokens(field.transform, tokens.values)
            # A value no row of the chunk holds any more (its rows were bad) gets a code too, and the count 0.
            new = [known.setdefault(value, len(known)) for value in values]  # type: ignore[arg-type]
            codes[:, number] = np.array(new, np.int32)[tokens.codes]
        assert chunk.labels is not None
        # Not ``tofile``, which says nothing when the disk is full.
        self._files["codes"].write(codes.tobytes())
        self._files["labels"].write(chunk.labels.astype("<f4").tobytes())
        if chunk.times is not None:
            self._files["times"].write(chunk.times.astype("<i8").tobytes())
        self.rows += len(codes)

    def finish(self) -> None:
        """Ends adding; reading may begin."""
        for file in self._files.values():
            file.close()

    def values(self, field: int) -> list[str]:
        """The distinct values [U] of a field, by code."""
        return list(self._codes_of[field])

    def times(self) -> np.ndarray:
        """int64 [N]."""
        return np.fromfile(self._paths["times"], "<i8")

    def codes(self, field: int) -> np.ndarray:
        """int32 [N] of one field."""
        return np.concatenate([codes[:, field] for _, codes, _ in self.portions()] or [np.zeros(0, np.int32)])

    def portions(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """All rows in order, some at a time: which, their codes int32 [n, F] and their labels float32 [n]."""
        with open(self._paths["codes"], "rb") as codes, open(self._paths["labels"], "rb") as labels:
            for start in range(0, self.rows, _PORTION_ROWS):
                count = min(_PORTION_ROWS, self.rows - start)
                portion = np.fromfile(codes, "<i4", count * len(self.fields)).reshape(count, len(self.fields))
                yield slice(start, start + count), portion, np.fromfile(labels, "<f4", count)

    def count(self, rows: np.ndarray) -> list[np.ndarray]:
        """How often each value occurs among ``rows`` (a mask [N]): a list of int64 [U], one a field."""
        counts = [np.zeros(len(known), np.int64) for known in self._codes_of]
        for where, codes, _ in self.portions():
            chosen = codes[rows[where]]
            for number, total in enumerate(counts):
                total += np.bincount(chosen[:, number], minlength=len(total))
        return counts

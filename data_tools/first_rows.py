"""A part of the input: its first rows alone."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from data_tools.formats import Chunk, Rows
from data_tools.manifest import sum_file


class FirstRows:
    """The first ``count`` rows of a file, good and bad ones together; see ``formats.Rows``.

    Once all is read, ``rows_read`` says how many there were, and ``is_cut`` whether the file goes on.
    """

    def __init__(self, rows: Rows, path: str, count: int):
        self._rows, self._path, self._count = rows, path, count
        self.total_bytes, self.text_bytes, self.has_times = rows.total_bytes, rows.text_bytes, rows.has_times
        self.rows_read, self.is_cut = 0, False

    @property
    def crc32(self) -> int:
        return sum_file(self._path)[1] if self.is_cut else self._rows.crc32

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in self._rows:
            left = self._count - self.rows_read
            self.is_cut = chunk.num_rows > left
            self.rows_read += min(chunk.num_rows, left)
            if left:
                yield first_rows(chunk, left) if self.is_cut else chunk
            if self.is_cut:
                return


def first_rows(chunk: Chunk, count: int) -> Chunk:
    """The first ``count`` of a chunk's rows, of which it has more."""
    lines = np.sort(np.append(chunk.lines, [bad.line for bad in chunk.bad]))
    bad = [row for row in chunk.bad if row.line <= lines[count - 1]]
    return dataclasses.replace(chunk.select(slice(count - len(bad))), bad=bad)

"""Windowed shuffling: a reader goes through its blocks in a new order every epoch, some at a time, which it shuffles.

So blocks are read from disk whole, and once an epoch, also where the data are far larger than memory.
"""

import bisect
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from dist_fm.data.streams import BLOCKS, WINDOW, generator, shuffled


class RowStore(Protocol):
    """What is shuffled: rows in blocks, which lie together on disk; block i has those from ``block_starts[i]`` on."""

    @property
    def rows(self) -> int: ...
    @property
    def block_starts(self) -> np.ndarray: ...
    def gather(self, indices: np.ndarray) -> np.ndarray: ...
    def will_need(self, blocks: Iterable[int]) -> None: ...


class Windows(NamedTuple):
    """How many readers there are, and how many blocks a window of each holds."""

    readers: int
    blocks: int


class _Plan(NamedTuple):
    """An epoch of a reader: its blocks [n] in order; the first block and the first row of each window, and the end."""

    epoch: int
    blocks: np.ndarray
    first_blocks: list[int]
    first_rows: list[int]


class _Window(NamedTuple):
    """Which rows of the store are the reader's ``first`` to ``end`` of an epoch: int64 [n]."""

    epoch: int
    first: int
    end: int
    rows: np.ndarray


class Reader:
    """``rows`` of a store in an order drawn from (seed, epoch, number).

    The blocks at both ends may be shared with other readers, and are read by each. Held are one window and, as threads
    that are some batches behind may want it, the one before.
    """

    def __init__(self, store: RowStore, rows: range, seed: int, number: int, windows: Windows):
        self._store, self._rows, self._seed, self._number, self._windows = store, rows, seed, number, windows
        self._starts = store.block_starts
        self._lock = threading.Lock()
        self._plan: _Plan | None = None
        self.held: tuple[_Window, ...] = ()  # the newest first; replaced, never changed, so that to look needs no lock

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, epoch: int, first: int, end: int) -> np.ndarray:
        """Of the reader's ``first`` to ``end`` of an epoch those in the window of the first: which rows, int64 [n]."""
        window = self._find(epoch, first)
        if window is None:
            with self._lock:
                window = self._find(epoch, first) or self._open(epoch, first)
        return window.rows[first - window.first : end - window.first]

    def read_all(self, epoch: int, first: int, end: int) -> Iterator[np.ndarray]:
        """All of the reader's ``first`` to ``end`` of an epoch, window by window."""
        while first < end:
            rows = self.read(epoch, first, end)
            yield rows
            first += len(rows)

    def _find(self, epoch: int, row: int) -> _Window | None:
        for window in self.held:
            if window.epoch == epoch and window.first <= row < window.end:
                return window
        return None

    def _open(self, epoch: int, row: int) -> _Window:
        """Draws the window that holds ``row``; its blocks, and the next one's, are on their way from the disk then."""
        if self._plan is None or self._plan.epoch != epoch:
            self._plan = self._draw(epoch)
        plan = self._plan
        number = bisect.bisect_right(plan.first_rows, row) - 1
        begin, end, *after = plan.first_blocks[number : number + 3]
        self._store.will_need(plan.blocks[begin : after[0] if after else end])
        rows = np.concatenate([self._own_rows(block) for block in plan.blocks[begin:end].tolist()])
        rows = shuffled(rows, generator(WINDOW, self._seed, epoch, self._number, number))
        window = _Window(epoch, plan.first_rows[number], plan.first_rows[number + 1], rows)
        self.held = (window, *self.held[:1])
        return window

    def _own_rows(self, block: int) -> np.ndarray:
        """Those of a block's rows that are this reader's."""
        return np.arange(max(self._starts[block], self._rows.start), min(self._starts[block + 1], self._rows.stop))

    def _draw(self, epoch: int) -> _Plan:
        starts, ends = self._starts[:-1], self._starts[1:]
        blocks = np.flatnonzero((ends > self._rows.start) & (starts < self._rows.stop) & (starts < ends))
        generator(BLOCKS, self._seed, epoch, self._number).shuffle(blocks)
        # The first windows differ in size, so that the readers do not all come to their next ones at the same step.
        most, readers = self._windows.blocks, self._windows.readers
        whole = len(blocks) if len(blocks) <= most else -(-most * (self._number + 1) // readers)
        first_blocks = [0, *range(whole, len(blocks), most), len(blocks)]
        sizes = np.minimum(ends[blocks], self._rows.stop) - np.maximum(starts[blocks], self._rows.start)
        first_rows = np.concatenate([[0], np.cumsum(sizes)])[first_blocks]
        return _Plan(epoch, blocks, first_blocks, first_rows.tolist())

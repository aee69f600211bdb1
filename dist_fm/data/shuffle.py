"""The order of training rows, drawn anew from (seed, epoch) for every epoch: which rows make up a batch.

Any batch is read without those before it. A host reads the rows at ``places`` alone, its own among the batch's places
0 to batch_size - 1, as parts: the place of the first row, counted from the first of its own, and rows int32 [n, words].
"""

import functools
import threading
from typing import Protocol

import numpy as np

from dist_fm.data.streams import SHUFFLE, generator
from dist_fm.data.windows import Reader, RowStore, Windows

Parts = list[tuple[int, np.ndarray]]
_ROWS_TOGETHER = 1 << 14


class Shuffle(Protocol):
    def read(self, epoch: int, at: int) -> Parts:
        """This host's rows of batch ``at`` of ``epoch``; in the epoch's last batch some places have none."""
        ...


class ExactShuffle:
    """Every epoch a permutation of all rows, each as likely as any other."""

    def __init__(self, store: RowStore, batch_size: int, places: slice, seed: int):
        self._store, self._batch_size, self._places, self._seed = store, batch_size, places, seed
        self._permutation = functools.lru_cache(maxsize=2)(self._draw)  # two, as threads may be an epoch apart
        self._lock = threading.Lock()

    def read(self, epoch: int, at: int) -> Parts:
        with self._lock:  # a permutation is drawn by one thread, not by all that come to a new epoch
            permutation = self._permutation(epoch)
        first = at * self._batch_size
        return [(0, self._store.gather(permutation[first + self._places.start : first + self._places.stop]))]

    def _draw(self, epoch: int) -> np.ndarray:
        # Half the memory where it fits: at 1e9 rows an order of int64 would be 8 GB.
        dtype = np.int32 if self._store.rows < 2**31 else np.int64
        order = np.arange(self._store.rows, dtype=dtype)
        generator(SHUFFLE, self._seed, epoch).shuffle(order)
        return order


class WindowShuffle:
    """Readers, each with a range of the rows, supply a fixed part of every batch, in an order of their own.

    Of B places and N rows, reader r of R supplies the places from p = r B // R on and has the rows from p N // B on: so
    many that they fill its places in every batch of the epoch but the last. None of this depends on the hosts.
    """

    def __init__(self, store: RowStore, batch_size: int, places: slice, seed: int, windows: Windows):
        self._store, self._count = store, places.stop - places.start
        self.readers: list[Reader] = []
        # Of each reader: how many places it has in a batch, and of them are before this host's; the first and the
        # number of those that are this host's.
        self._supplies: list[tuple[int, int, int, int]] = []
        starts = [reader * batch_size // windows.readers for reader in range(windows.readers + 1)]
        for number, (first, end) in enumerate(zip(starts, starts[1:], strict=False)):
            start, stop = max(first, places.start), min(end, places.stop)
            if start < stop:
                rows = range(first * store.rows // batch_size, end * store.rows // batch_size)
                self.readers.append(Reader(store, rows, seed, number, windows))
                self._supplies.append((end - first, start - first, start - places.start, stop - start))
        # Small batches are gathered together, in two thirds of the time; not where hosts share a reader's part.
        is_alone = bool(self._supplies) and all(part == count for part, _, _, count in self._supplies)
        self._together = max(_ROWS_TOGETHER // max(self._count, 1), 1) if is_alone else 1
        full = (len(reader) // part for reader, (part, *_) in zip(self.readers, self._supplies, strict=True))
        self._full_batches = min(full, default=0)
        self._ready: dict[tuple[int, int], dict[int, np.ndarray]] = {}
        self._lock = threading.Lock()

    def read(self, epoch: int, at: int) -> Parts:
        words = self._read_ahead(epoch, at) if self._together > 1 else None
        return self._read_one(epoch, at) if words is None else [(0, words)]

    def _read_ahead(self, epoch: int, at: int) -> np.ndarray | None:
        """The batch out of some that were gathered together; None at an epoch's end, and if it was taken before."""
        group, number = divmod(at, self._together)
        with self._lock:
            if (epoch, group) not in self._ready:
                batches = self._read_group(epoch, group * self._together)
                # Three, as threads may be a group apart: a batch is handed out once, for its taker may change it.
                self._ready = dict([*self._ready.items()][-2:]) | {(epoch, group): batches}
            return self._ready[epoch, group].pop(number, None)

    def _read_group(self, epoch: int, first: int) -> dict[int, np.ndarray]:
        batches = min(self._together, self._full_batches - first)
        if batches < 1:
            return {}
        columns = []
        for reader, (part, *_) in zip(self.readers, self._supplies, strict=True):
            rows = reader.read_all(epoch, first * part, (first + batches) * part)
            columns.append(np.concatenate(list(rows)).reshape(batches, part))
        words = self._store.gather(np.concatenate(columns, axis=1).ravel())
        return dict(enumerate(words.reshape(batches, self._count, -1)))

    def _read_one(self, epoch: int, at: int) -> Parts:
        found: list[tuple[int, np.ndarray]] = []
        for reader, (part, skipped, place, count) in zip(self.readers, self._supplies, strict=True):
            row = at * part + skipped
            for rows in reader.read_all(epoch, row, min(row + count, len(reader))):
                found.append((place, rows))
                place += len(rows)
        words = self._store.gather(np.concatenate([np.zeros(0, np.int64), *(rows for _, rows in found)]))
        if len(words) == self._count:
            return [(0, words)]
        ends = np.cumsum([len(rows) for _, rows in found])[:-1]
        return list(zip((place for place, _ in found), np.split(words, ends), strict=True)) if found else []

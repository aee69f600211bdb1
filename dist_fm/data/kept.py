"""A training split of which a share of the negatives is kept: the same rows in every epoch, whoever reads them."""

from collections.abc import Callable, Iterable

import numpy as np

from dist_fm.data.store import BlockStore
from dist_fm.data.streams import KEPT, generator


class KeptRows:
    """The rows ``kept`` of a store, int64 [n] ascending, numbered from 0 and read like a store of these alone.

    Its blocks are the store's, each with what is kept of it, so that windows of blocks are read from disk as ever.
    """

    def __init__(self, store: BlockStore, kept: np.ndarray):
        self._store, self._kept = store, kept
        self.block_starts = np.searchsorted(kept, store.block_starts)

    @classmethod
    def draw(cls, store: BlockStore, negative_rate: float, seed: int, tick: Callable[[], None]) -> "KeptRows":
        """All positives of ``store`` (labels above 0.5), and each negative with the probability ``negative_rate``.

        A pure function of (data, seed). Reads all blocks once, calling ``tick`` after each.
        """
        kept = [np.zeros(0, np.int64)]
        for number, start in enumerate(store.block_starts[:-1].tolist()):
            store.will_need(range(number + 1, min(number + 2, store.num_blocks)))
            labels = store.layout.labels(store.block(number))
            is_drawn = generator(KEPT, seed, number).random(len(labels)) < negative_rate
            kept.append(start + np.flatnonzero(is_drawn | (labels > 0.5)))
            tick()
        return cls(store, np.concatenate(kept))

    @property
    def rows(self) -> int:
        return len(self._kept)

    def will_need(self, blocks: Iterable[int]) -> None:
        """Has the kernel read ``blocks`` ahead of their use."""
        self._store.will_need(blocks)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """The rows at ``indices``, copied: int32 [N, words]."""
        return self._store.gather(self._kept[indices])

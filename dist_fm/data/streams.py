"""Random streams by what they are for: streams of one key never meet, and any place of one is reached at once."""

import numpy as np

SHUFFLE, UNSEEN, BLOCKS, WINDOW, KEPT, NEGATIVES = 1, 2, 3, 4, 5, 6


def shuffled(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """``rows`` in random order: sorted by random keys, which NumPy does in two thirds of the time of its shuffle."""
    bits = len(rows).bit_length()
    keys = random.integers(0, 1 << (62 - bits), len(rows)) << bits | np.arange(len(rows))
    keys.sort()
    return rows[keys & ((1 << bits) - 1)]


def generator(stream: int, seed: int, index: int, first: int = 0, second: int = 0) -> np.random.Generator:
    """The generator of ``stream`` for ``seed``, an epoch or step ``index``, and what else there is a stream for."""
    key, counter = np.array([seed, index], np.uint64), np.array([0, second, first, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))

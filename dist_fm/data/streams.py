"""Random streams by what they are for: streams of one key never meet, and any place of one is reached at once."""

import numpy as np

SHUFFLE, UNSEEN, BLOCKS, WINDOW = 1, 2, 3, 4


def generator(stream: int, seed: int, index: int, first: int = 0, second: int = 0) -> np.random.Generator:
    """The generator of ``stream`` for ``seed``, an epoch or step ``index``, and what else there is a stream for."""
    key, counter = np.array([seed, index], np.uint64), np.array([0, second, first, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))

"""The work on which we and our peers are timed: the sizes of the fields, and a seeded stream of Zipf-distributed ids.

``criteo``: 39 fields, 1,011,278 table rows, a vocabulary like Criteo-Kaggle's. ``movielens``: user and item of ML-20M,
269,755 rows. NumPy alone, so that the peers' Python can import it. Axes: N samples, F fields.
"""

from collections.abc import Sequence

import numpy as np

CRITEO = (
    *(48, 101, 126, 43, 221, 112, 79, 75, 184, 9, 29, 41, 85, 1460, 557, 175781, 128509, 305, 19, 11930, 630, 3),
    *(49223, 5194, 174835, 3175, 27, 11254, 165206, 10, 4641, 2030, 4, 172761, 18, 15, 57903, 86, 44549),
)
MOVIELENS = (138493, 131262)
SHAPES = {"criteo": CRITEO, "movielens": MOVIELENS}
ZIPF_EXPONENT, UNIFORM_UP_TO = 1.2, 50


def stride_for(shape: str, rows: int | None) -> int:
    """How many times larger than ``shape``'s own a table of about ``rows`` rows is; 1 for None."""
    return 1 if rows is None else max(1, round(rows / sum(SHAPES[shape])))


def field_sizes(shape: str, stride: int = 1) -> list[int]:
    """Table rows of each field."""
    return [size * stride for size in SHAPES[shape]]


def ids(samples: int, shape: str, *, stride: int = 1, seed: int = 0) -> np.ndarray:
    """Ids int32 [N, F], each below its field's size: Zipf(1.2) above 50 values, else uniform; popular ids are small.

    A table ``stride`` times larger gets the same stream spread over it: id i of the first table is i x stride + a fixed
    pseudo-random number below ``stride``, so a batch has as many unique ids, and duplicates, whatever the stride.
    """
    rng = np.random.default_rng(seed)
    drawn = np.empty((samples, len(SHAPES[shape])), np.int32)
    for field, size in enumerate(SHAPES[shape]):
        draw = rng.zipf(ZIPF_EXPONENT, samples) if size > UNIFORM_UP_TO else rng.integers(1, size + 1, samples)
        drawn[:, field] = spread((draw - 1) % size, stride)
    return drawn


def spread(ids: np.ndarray, stride: int) -> np.ndarray:
    """Distinct int64 ids to distinct ids over a range ``stride`` times larger."""
    return ids * stride + (ids * 2654435761 >> 16) % stride


def labels(samples: int, seed: int = 1) -> np.ndarray:
    """Coin flips, float32 [N]."""
    return np.random.default_rng(seed).integers(0, 2, samples).astype(np.float32)


def load_ids(path: str | None, shape: str, stride: int, batch: int, steps: int) -> np.ndarray:
    """Ids for ``steps`` distinct batches: from ``path``, or drawn here where it is None.

    Raises ``ValueError`` when the file holds fewer.
    """
    needed = batch * steps
    if path is None:
        return ids(needed, shape, stride=stride)
    found = np.load(path)
    if len(found) < needed or found.shape[1] != len(SHAPES[shape]):
        raise ValueError(
            f"{path} holds ids of shape {found.shape}: {len(found) // batch} distinct batches of {batch}, fewer than "
            f"the {steps} asked for, or other than {shape}'s {len(SHAPES[shape])} fields"
        )
    return found[:needed]


def offsets(sizes: Sequence[int]) -> np.ndarray:
    """The first table row of each field: int64 [F]."""
    return np.concatenate(([0], np.cumsum(sizes)[:-1]))

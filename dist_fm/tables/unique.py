"""Unique ids of a batch, made on the host: what lets a step cost what the batch touches."""

import numpy as np

from dist_fm.tables.spec import TableSpec


def unique_rows(rows: np.ndarray, spec: TableSpec) -> tuple[np.ndarray, np.ndarray]:
    """Sorted unique physical rows and where each slot finds its own: ``unique`` int32 [U], ``inverse`` int32 [B, S].

    ``rows`` int32 [B, S] are logical; negative means empty. U is a bucketed size (``bucket``), filled up with the
    out-of-range ids R', R'+1, ... which stay distinct and sorted; empty slots point at R', which reads as zero.
    """
    # One sort of packed (row, position) keys: NumPy's vectorised int64 sort beats argsort, and np.unique, several-fold.
    packed = rows.reshape(-1).astype(np.int64)
    empty = packed < 0
    packed *= spec.multiplier
    packed %= spec.padded_rows
    packed[empty] = spec.padded_rows
    packed <<= 32
    packed |= np.arange(packed.size)
    packed.sort()
    ids = packed >> 32
    starts = np.empty(ids.size, bool)
    starts[:1] = True
    np.not_equal(ids[1:], ids[:-1], out=starts[1:])
    inverse = np.empty(ids.size, np.int32)
    inverse[packed & 0xFFFFFFFF] = np.cumsum(starts, dtype=np.int32) - 1
    found = ids[starts]
    count = found.size - (found.size > 0 and found[-1] == spec.padded_rows)
    unique = np.arange(bucket(count + 1), dtype=np.int32) + np.int32(spec.padded_rows - count)
    unique[:count] = found[:count]
    return unique, inverse.reshape(rows.shape)


def bucket(count: int) -> int:
    """The static size for ``count`` unique rows: a power of two up to 4,096, then quarters of an octave."""
    size = 64
    while size < count:
        size *= 2
    if size <= 4096:
        return size
    return next(steps * size // 8 for steps in (5, 6, 7, 8) if steps * size // 8 >= count)

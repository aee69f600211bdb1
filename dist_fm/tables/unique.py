"""Unique ids of a batch: what lets a step cost what the batch touches.

Made on the host by the loader's threads, in buckets of a few sizes; or by the step itself, on the device.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from dist_fm.tables.duplicates import is_first
from dist_fm.tables.spec import TableSpec


class UniqueLayout(NamedTuple):
    """The mesh, as far as unique ids go: ``hosts`` x ``devices``, and whether the table is ``sharded`` over them."""

    hosts: int = 1
    devices: int = 1
    sharded: bool = False


ONE_DEVICE = UniqueLayout()


def unique_rows(rows: np.ndarray, spec: TableSpec, layout: UniqueLayout = ONE_DEVICE) -> tuple[np.ndarray, np.ndarray]:
    """The unique physical rows of each host's samples and where each slot finds its own.

    ``rows`` int32 [B, S] are logical; negative means empty. Returns ``inverse`` int32 [B, S] and ``unique``, flat
    int32, as `dist_fm.tables.lookup` wants it: replicated [H, U]; sharded [H, D, H, C], device (h, d)'s requests to
    owners (0, d), (1, d), ..., counting from the start of the owner's shard. U and C are bucketed (``bucket``): the
    places left over hold distinct ascending ids past the table (the shard), which read as zero; empty slots point at
    such a place.
    """
    parts = [_sorted_unique(part, spec) for part in rows.reshape(layout.hosts, -1)]
    place = _by_owner if layout.sharded else _whole
    unique, places = place([found for found, _ in parts], spec, layout)
    inverse = [at if where is None else where[at] for where, (_, at) in zip(places, parts, strict=True)]
    return unique, (inverse[0] if len(inverse) == 1 else np.concatenate(inverse)).reshape(rows.shape)


def unique_in_step(rows: jax.Array, limit: int) -> tuple[jax.Array, jax.Array]:
    """`unique_rows` of physical ``rows`` int32 [B, S] within a compiled step, on one device: U is B x S.

    Rows from ``limit`` on are empty slots. Sorting as one 32-bit key with one 32-bit value is what GPUs sort by radix.
    """
    flat = rows.reshape(-1)
    order = jnp.argsort(flat)
    ids = flat[order]
    first = is_first(ids)
    rank = jnp.cumsum(first, dtype=jnp.int32) - 1
    numbers = jnp.arange(flat.size, dtype=jnp.int32)
    target = jnp.where(first & (ids < limit), rank, flat.size + numbers)  # the others go out of range, and are dropped
    unique = (limit + numbers).at[target].set(ids, mode="drop", unique_indices=True)
    inverse = jnp.zeros_like(flat).at[order].set(rank, unique_indices=True)
    return unique, inverse.reshape(rows.shape)


def physical_rows(rows: np.ndarray, spec: TableSpec) -> np.ndarray:
    """Physical rows of logical ``rows`` int32 [B, S], as `unique_in_step` takes them."""
    return np.where(rows < 0, spec.padded_rows, spec.physical(rows)).astype(np.int32)


def _sorted_unique(rows: np.ndarray, spec: TableSpec) -> tuple[np.ndarray, np.ndarray]:
    """Sorted unique physical rows [n] of logical ``rows`` [B S], and each slot's index; n for an empty slot."""
    # Unique by hashing, and then a sort of the unique alone: less than the best sort of all slots, or np.unique.
    codes, logical = pd.factorize(rows)
    filled = np.flatnonzero(logical >= 0)
    # Packed with their positions: NumPy's vectorised int64 sort beats argsort several-fold.
    packed = np.sort(spec.physical(logical[filled]).astype(np.int64) << 32 | np.arange(filled.size))
    rank = np.full(logical.size, filled.size, np.int32)
    rank[filled[packed & 0xFFFFFFFF]] = np.arange(filled.size, dtype=np.int32)
    return packed >> 32, rank[codes]


def _whole(found: list[np.ndarray], spec: TableSpec, layout: UniqueLayout) -> tuple[np.ndarray, list[None]]:
    size = bucket(max(ids.size for ids in found) + 1)
    return np.concatenate([_fill(ids, size, spec.padded_rows) for ids in found]), [None] * len(found)


def _by_owner(found: list[np.ndarray], spec: TableSpec, layout: UniqueLayout) -> tuple[np.ndarray, list[np.ndarray]]:
    """Contiguous shards: a sorted list of rows is already cut by owner; each part is filled up to the same size."""
    hosts, devices, _ = layout
    owners = hosts * devices
    shard = spec.padded_rows // owners
    ends = [np.searchsorted(ids, np.arange(owners + 1) * shard) for ids in found]
    size = bucket(max(np.diff(end).max() for end in ends) + 1)
    unique = np.empty((hosts, devices, hosts, size), np.int32)
    places = []
    for host, (ids, end) in enumerate(zip(found, ends, strict=True)):
        place = np.empty(ids.size + 1, np.int32)
        for owner in range(owners):
            begin, stop = end[owner], end[owner + 1]
            owner_host, device = divmod(owner, devices)
            unique[host, device, owner_host] = _fill(ids[begin:stop] - owner * shard, size, shard)
            first = (device * hosts + owner_host) * size
            place[begin:stop] = np.arange(first, first + stop - begin)
        place[-1] = end[1]  # owner 0's first place left over
        places.append(place)
    return unique.reshape(-1), places


def _fill(ids: np.ndarray, size: int, limit: int) -> np.ndarray:
    """``ids`` followed by ``limit``, ``limit + 1``, ... up to ``size``."""
    unique = np.arange(size, dtype=np.int32) + np.int32(limit - ids.size)
    unique[: ids.size] = ids
    return unique


def bucket(count: int) -> int:
    """The static size for ``count`` unique rows: a power of two up to 4,096, then quarters of an octave."""
    size = 64
    while size < count:
        size *= 2
    if size <= 4096:
        return size
    return next(steps * size // 8 for steps in (5, 6, 7, 8) if steps * size // 8 >= count)

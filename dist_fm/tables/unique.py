"""Unique ids of a batch: what lets a step cost what the batch touches.

Made on the host by the loader's threads, in buckets of a few sizes; or by the step itself, on the device.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dist_fm.tables.duplicates import is_first
from dist_fm.tables.spec import TableSpec


class UniqueLayout(NamedTuple):
    """The mesh, as far as unique ids go: ``hosts`` x ``devices``, and whether the table is ``sharded`` over them."""

    hosts: int = 1
    devices: int = 1
    sharded: bool = False
    here: int = 1  # hosts whose samples this process prepares: itself, or all where one process plays them


LARGEST_SCRATCH = 1 << 22  # numbers; a much larger array would be mapped anew, page by page, for every batch

ONE_DEVICE = UniqueLayout()


class Found(NamedTuple):
    """The sorted unique physical rows [n] of each host's samples here, and each slot's place among them, flat."""

    shape: tuple[int, int]  # of the rows: B, S
    ids: list[np.ndarray]
    places: list[np.ndarray]
    ends: list[np.ndarray]  # where each owner's part ends, [owners + 1]; only where sharded
    need: int  # the largest part, and a place for empty slots: what all hosts must have room for


def find_unique(batches: np.ndarray, spec: TableSpec, layout: UniqueLayout = ONE_DEVICE) -> list[Found]:
    """What is unique in each of ``batches`` int32 [N, B, S] of logical rows; -1 means empty."""
    ids, places = _sorted_unique(batches.reshape(len(batches) * layout.here, -1), spec)
    owners = layout.hosts * layout.devices
    borders = np.arange(owners + 1) * (spec.padded_rows // owners)
    found = []
    for first in range(0, len(ids), layout.here):
        own, at = ids[first : first + layout.here], places[first : first + layout.here]
        if layout.sharded:
            # Contiguous shards: a sorted list of rows is already cut by owner.
            ends = [np.searchsorted(part, borders) for part in own]
            need = int(max(np.diff(end).max() for end in ends)) + 1
        else:
            ends, need = [], max(part.size for part in own) + 1
        found.append(Found(batches.shape[1:], own, at, ends, need))
    return found


def fill_unique(
    found: Found, need: int, spec: TableSpec, layout: UniqueLayout = ONE_DEVICE
) -> tuple[np.ndarray, np.ndarray]:
    """``unique`` and ``inverse`` int32 [B, S], with room for ``need`` rows: the largest ``Found.need`` of all hosts.

    ``unique``, flat int32, is as `dist_fm.tables.lookup` wants it: replicated [H, U]; sharded [H, D, H, C], device
    (h, d)'s requests to owners (0, d), (1, d), ..., counting from the start of the owner's shard; only of hosts h that
    are here. U and C are bucketed (``bucket``): the places left over hold distinct ascending ids past the table (the
    shard), which read as zero; empty slots point at such a place.
    """
    size = bucket(need)
    if layout.sharded:
        unique, inverse = _by_owner(found, size, spec, layout)
    else:
        unique = np.concatenate([_fill(ids, size, spec.padded_rows) for ids in found.ids])
        inverse = found.places
    return unique, (inverse[0] if len(inverse) == 1 else np.concatenate(inverse)).reshape(found.shape)


def unique_in_step(rows: jax.Array, limit: int) -> tuple[jax.Array, jax.Array]:
    """`fill_unique` of physical ``rows`` int32 [B, S] within a compiled step, on one device: U is B x S.

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


def _sorted_unique(parts: np.ndarray, spec: TableSpec) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Sorted unique physical rows of each of ``parts`` [P, n] of logical rows, and each slot's index among them [n].

    An empty slot's is their number. All parts at once: NumPy's calls cost small ones more than their numbers.
    """
    apart = spec.rows + 1  # of a row in one part and in the next; 0 is a part's empty slot
    slots = parts.astype(np.int64)
    slots += (1 + apart * np.arange(len(parts)))[:, None]
    found, spread = _distinct(slots.reshape(-1), len(parts) * apart)
    part = found // apart
    row = found - part * apart  # NumPy's own remainder takes several times as long
    stride = spec.padded_rows + 1  # an empty slot comes last in its part, so that its index is the number of the others
    key = physical_rows(row - 1, spec) + part * stride
    order = argsort_by_counting(key)
    ids = key[order]

    starts = np.arange(len(parts)) * stride
    first, end = np.searchsorted(ids, starts), np.searchsorted(ids, starts + spec.padded_rows)
    rank = np.empty(key.size, np.int32)
    rank[order] = np.arange(key.size, dtype=np.int32)
    rank -= first.astype(np.int32)[part]
    each = [ids[a:b] - start for a, b, start in zip(first, end, starts, strict=True)]
    return each, list(spread(rank).reshape(parts.shape))


def _distinct(numbers: np.ndarray, limit: int) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """The distinct of ``numbers`` int64 [n], below ``limit``, [N]; and what spreads int32 [N] for them to all, [n]."""
    if limit <= LARGEST_SCRATCH:
        # Of those that write to one place the last is seen there. What the places held before does not matter.
        places = np.arange(numbers.size, dtype=np.int32)
        scratch = np.empty(limit, np.int32)
        scratch[numbers] = places
        found = numbers[np.flatnonzero(scratch.take(numbers, mode="clip") == places)]

        def spread(values: np.ndarray) -> np.ndarray:
            scratch[found] = values
            return scratch.take(numbers, mode="clip")  # which of NumPy's ways is the fastest

        return found, spread
    import pandas as pd  # half a second of the start of runs that need no hashing

    codes, found = pd.factorize(numbers)
    return found, lambda values: values[codes]


def argsort_by_counting(keys: np.ndarray) -> np.ndarray:
    """The stable order of ``keys`` int64 [N], none negative: by 16 bits at a time, which NumPy sorts by counting them.

    A third of the time of its best comparing sort, that of keys packed with their positions.
    """
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    bits = int(keys.max(initial=0)).bit_length()
    for shift in range(16, bits, 16):
        few = np.uint8 if bits - shift <= 8 else np.uint16
        order = order[np.argsort((keys[order] >> shift).astype(few), kind="stable")]
    return order


def _by_owner(found: Found, size: int, spec: TableSpec, layout: UniqueLayout) -> tuple[np.ndarray, list[np.ndarray]]:
    """Each owner's part, filled up to ``size``, and each slot's place in them."""
    hosts, devices, _, here = layout
    owners = hosts * devices
    shard = spec.padded_rows // owners
    unique = np.empty((here, devices, hosts, size), np.int32)
    inverse = []
    for host, (ids, at, end) in enumerate(zip(found.ids, found.places, found.ends, strict=True)):
        place = np.empty(ids.size + 1, np.int32)
        for owner in range(owners):
            begin, stop = end[owner], end[owner + 1]
            owner_host, device = divmod(owner, devices)
            unique[host, device, owner_host] = _fill(ids[begin:stop] - owner * shard, size, shard)
            first = (device * hosts + owner_host) * size
            place[begin:stop] = np.arange(first, first + stop - begin)
        place[-1] = end[1]  # owner 0's first place left over
        inverse.append(place[at])
    return unique.reshape(-1), inverse


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
    return size if size <= 4096 else quarter_octave(count)


def quarter_octave(count: int) -> int:
    """``count`` rounded up to 1, 2, ..., 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ..."""
    size = 8
    while size < count:
        size *= 2
    return next(part for part in range(size // 8, size + 1, size // 8) if part >= count)

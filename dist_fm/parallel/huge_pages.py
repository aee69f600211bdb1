"""Moves large tables to huge pages: a row that lies anywhere is then found in fewer steps."""

import ctypes
import sys
from collections.abc import Iterator
from typing import Any

import jax

PAGE = 2 << 20  # bytes of a huge page of x86-64, and of ARM's with ordinary pages of 4 KiB
SMALLEST = 32 << 20  # bytes of an array on one device: smaller ones' pages are mostly known to the core
_AT_ONCE = 64 << 20  # bytes: where memory is in pieces, Linux gives up on what it was asked for
_MADV_COLLAPSE = 25  # madvise(2), since Linux 6.1


def in_huge_pages(arrays: Any, smallest: int = SMALLEST) -> int:
    """Asks Linux to move each array of the pytree ``arrays`` that lies on CPU devices to pages of 2 MiB; bytes moved.

    An array's part on one device is moved from ``smallest`` bytes on. It keeps its address, and a step that is given it
    to overwrite does too, so once is enough. A GiB takes 1.5 to 3 s. 0 where the system cannot: Linux before 6.1, others.
    """
    if sys.platform != "linux":
        return 0
    madvise, moved = ctypes.CDLL(None).madvise, 0
    for address, size in _parts(arrays, smallest):
        for start in range(-(-address // PAGE) * PAGE, address + size - PAGE + 1, _AT_ONCE):
            length = min(_AT_ONCE, (address + size - start) // PAGE * PAGE)
            if madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_COLLAPSE) == 0:
                moved += length
    return moved


def _parts(arrays: Any, smallest: int) -> Iterator[tuple[int, int]]:
    """Address and bytes of each array's part on each CPU device of this process."""
    for array in jax.tree.leaves(jax.block_until_ready(arrays)):
        for shard in array.addressable_shards:
            if shard.device.platform == "cpu" and shard.data.nbytes >= smallest:
                yield shard.data.unsafe_buffer_pointer(), shard.data.nbytes

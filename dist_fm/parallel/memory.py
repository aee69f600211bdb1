"""Keeps memory that a step frees for the next one, instead of handing it back to the system."""

import ctypes
import os

# mallopt(3)'s parameters, and what they are set to
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
KEPT, AT_ONCE, LARGEST = 512 << 20, 64 << 20, 256 << 20  # bytes: kept free; asked for at a time; of a kept array

# XLA asks for all of a step's temporary arrays as one block, but glibc keeps none above 64 MiB: several smaller ones.
CPU_COMPILER_OPTIONS = {"xla_multiheap_size_constraint_per_heap": 48 << 20}


def keep_freed_memory() -> bool:
    """Asks glibc's malloc to reuse arrays of up to 256 MiB and to keep up to 512 MiB free; whether it took it.

    By default freed arrays go back to the system, and every step pays a page fault for each 4 KiB that it takes again:
    up to a quarter of a step on a CPU, and half of making its unique ids, in a virtual machine. Where the user set a
    MALLOC_ variable, or malloc is another, nothing is changed.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # Not M_ARENA_MAX = 1, which would also keep single arrays above 64 MiB: XLA's threads then wait for each other in
    # malloc, and DeepFM's step takes 10 to 40 % longer.
    settings = {_M_MMAP_THRESHOLD: LARGEST, _M_TRIM_THRESHOLD: KEPT, _M_TOP_PAD: AT_ONCE}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])

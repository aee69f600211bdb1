"""Hashed bits: random numbers that depend on where they are used, not on how work is split or in which order."""

import jax
import numpy as np

GOLDEN = np.uint32(0x9E3779B9)  # 2^32 / golden ratio, odd: multiples of it lie far apart


def mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 that spreads every bit over all (C. Wellons, hash-prospector, "lowbias32")."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)

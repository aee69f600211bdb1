"""Stochastic rounding of float32 rows to bfloat16, by random bits that depend on the table, not on the batch."""

import jax
import jax.numpy as jnp
import numpy as np

from dist_fm import hashing

_BEYOND = np.uint32(0x7F7F0000)  # float32 bits of bfloat16's largest finite number


def stochastic_round(x: jax.Array, rows: jax.Array, seed: int, step: jax.Array) -> jax.Array:
    """``x`` float32 [U, W] to one of its two bfloat16 neighbours, with odds that make the mean ``x``.

    The odds' 16 random bits are a hash of (``seed``, ``step``, ``rows`` [U] int32, column): a row rounds alike wherever
    it lies in a batch and on every mesh. A bfloat16 number stays itself; beyond the largest finite one, and for NaN,
    this is a plain cast.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = _random_bits(rows, x.shape[1], seed, step) >> 16
    rounded = ((bits + noise) >> 16).astype(jnp.uint16)
    plain = jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16)
    inside = (bits & np.uint32(0x7FFFFFFF)) < _BEYOND
    return jax.lax.bitcast_convert_type(jnp.where(inside, rounded, plain), jnp.bfloat16)


def _random_bits(rows: jax.Array, width: int, seed: int, step: jax.Array) -> jax.Array:
    """Hashes uint32 [U, width] of (seed, step, row, column)."""
    key = jax.random.fold_in(hashing.key(seed), step)
    return jax.vmap(lambda row: jax.random.bits(jax.random.fold_in(key, row), (width,), jnp.uint32))(rows)

"""Dropout whose mask a padded batch shares with the unpadded one."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def dropout(x: jax.Array, rate: float, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
    """Zeroes each number with probability ``rate`` and divides the others by ``1 - rate``, when ``train``.

    With a key of `hashing.key`, the bits of element n are a hash of (key, n) alone: samples appended at the end of the
    batch, or a batch split over devices, leave every other sample's mask as it was.
    """
    return drop(x, keep_mask(x.shape, rate, train=train, rngs=rngs), rate)


def drop(x: jax.Array, keep: jax.Array | None, rate: float) -> jax.Array:
    """``x`` where ``keep`` (`keep_mask` at ``rate``) holds, divided by ``1 - rate``; else zero."""
    return x if keep is None else jnp.where(keep, x / (1.0 - rate), 0)


def keep_mask(shape: tuple[int, ...], rate: float, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array | None:
    """What dropout leaves, bool of ``shape``; None where it takes nothing away."""
    if not train or rate == 0.0:
        return None
    if rngs is None:
        raise ValueError("dropout in training needs rngs=nnx.Rngs(dropout=key)")
    return jax.random.bits(rngs.dropout(), shape, jnp.uint32) >= np.uint32(rate * 2**32)

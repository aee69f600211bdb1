"""Dropout whose mask a padded batch shares with the unpadded one."""

import jax
import jax.numpy as jnp
from flax import nnx


def dropout(x: jax.Array, rate: float, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
    """Zeroes each number with probability ``rate`` and divides the others by ``1 - rate``, when ``train``.

    JAX's partitionable threefry draws the bits of element n from (key, n) alone: samples appended at the end of the
    batch, or a batch split over devices, leave every other sample's mask as it was.
    """
    keep = keep_mask(x.shape, rate, train=train, rngs=rngs)
    return x if keep is None else jnp.where(keep, x / (1.0 - rate), 0)


def keep_mask(shape: tuple[int, ...], rate: float, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array | None:
    """What dropout leaves, bool of ``shape``; None where it takes nothing away."""
    if not train or rate == 0.0:
        return None
    if rngs is None:
        raise ValueError("dropout in training needs rngs=nnx.Rngs(dropout=key)")
    return jax.random.bernoulli(rngs.dropout(), jnp.float32(1.0 - rate), shape)

"""Second-order interactions of a factorization machine."""

import jax
import jax.numpy as jnp


def bi_interaction(x: jax.Array) -> jax.Array:
    """Sum over pairs i < j of x_i * x_j, elementwise: [B, F, K] -> [B, K].

    He & Chua 2017, eq. 4: half of the square of the sum less the sum of the squares, O(FK).
    """
    return 0.5 * (jnp.square(x.sum(axis=1)) - jnp.square(x).sum(axis=1))


def pair_sum(x: jax.Array) -> jax.Array:
    """Sum over pairs i < j of <x_i, x_j>: [B, F, K] -> [B] (Rendle 2010, lemma 3.1)."""
    return bi_interaction(x).sum(axis=1)


def pair_products(x: jax.Array) -> jax.Array:
    """x_i * x_j for each pair i < j in the order (0,1), (0,2), ..., (F-2,F-1): [B, F, K] -> [B, P, K].

    By slices, not by gathering ``x[:, [0, 0, ...]]``: the gradient of a gather with repeated indices is a scatter-add
    with duplicates, which is slow and order-dependent on a GPU.
    """
    return jnp.concatenate([x[:, i : i + 1] * x[:, i + 1 :] for i in range(x.shape[1] - 1)], axis=1)

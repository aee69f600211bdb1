"""Field-aware interactions: each value has one vector for every partner field."""

import jax
import jax.numpy as jnp
import numpy as np


def partner_vectors(factors: jax.Array) -> jax.Array:
    """[B, F, F*K] -> [B, F, F, K]: entry [b, i, j] is the vector of field i's value meant for partner field j."""
    batch, fields, width = factors.shape
    return factors.reshape(batch, fields, fields, width // fields)


def field_aware_pair_sum(x: jax.Array) -> jax.Array:
    """Sum over pairs i < j of <x_ij, x_ji>: [B, F, F, K] -> [B] (Juan et al. 2016, eq. 4).

    By masking all F^2 products, which fuses into one pass over ``x``; no [B, P, K] array is made.
    """
    upper = np.triu(np.ones((x.shape[1], x.shape[1]), bool), k=1)[:, :, None]
    return jnp.where(upper, x * x.swapaxes(1, 2), 0).sum(axis=(1, 2, 3))


def field_aware_products(x: jax.Array) -> jax.Array:
    """x_ij * x_ji for each pair i < j in the order (0,1), (0,2), ..., (F-2,F-1): [B, F, F, K] -> [B, P, K].

    One gather without repeated indices, so its gradient has no duplicates to add up.
    """
    return _at(x * x.swapaxes(1, 2), *np.triu_indices(x.shape[1], k=1))


def field_aware_inner_products(x: jax.Array) -> jax.Array:
    """<x_ij, x_ji> for each pair i < j, in the order of `field_aware_products`: [B, F, F, K] -> [B, P]."""
    return _at((x * x.swapaxes(1, 2)).sum(axis=3), *np.triu_indices(x.shape[1], k=1))


def own_vectors(x: jax.Array) -> jax.Array:
    """x_ii of each field i, the vector for no partner: [B, F, F, K] -> [B, F, K]."""
    return _at(x, *np.diag_indices(x.shape[1]))


def _at(x: jax.Array, i: np.ndarray, j: np.ndarray) -> jax.Array:
    """``x`` [B, F, F, ...] at the ascending, distinct places (i, j): [B, len(i), ...]."""
    batch, fields = x.shape[:2]
    flat = x.reshape(batch, fields * fields, *x.shape[3:])
    return flat.at[:, i * fields + j].get(mode="promise_in_bounds", unique_indices=True, indices_are_sorted=True)

"""Second-order interactions of a factorization machine."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np


def bi_interaction(x: jax.Array) -> jax.Array:
    """Sum over pairs i < j of x_i * x_j, elementwise: [B, F, K] -> [B, K].

    He & Chua 2017, eq. 4: half of the square of the sum less the sum of the squares, O(FK).
    """
    return 0.5 * (jnp.square(x.sum(axis=1)) - jnp.square(x).sum(axis=1))


def pair_sum(x: jax.Array) -> jax.Array:
    """Sum over pairs i < j of <x_i, x_j>: [B, F, K] -> [B] (Rendle 2010, lemma 3.1)."""
    return bi_interaction(x).sum(axis=1)


def less_squares(rows: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Rows' ``linear`` less half of their factors' squared norm, and ``factors``, [..., width] each.

    That is all of `pair_sum` which concerns one row by itself: for `Rows.map` to make once a row, before rows are
    spread to samples. What is left is `half_square`.
    """
    factors = rows["factors"]
    return {"linear": rows["linear"] - 0.5 * jnp.square(factors).sum(axis=-1, keepdims=True), "factors": factors}


def half_square(total: jax.Array) -> jax.Array:
    """Half of the squared norm of a sum over fields: [B, K] -> [B]."""
    return 0.5 * jnp.square(total).sum(axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def pair_products(x: jax.Array, axis: int = 1) -> jax.Array:
    """x_i * x_j for each pair of fields once: ``axis`` grows from F to P = F(F-1)/2, in the order of `pair_order`.

    As products of x with itself turned by 1, 2, ... fields: a few long slices. A gather with repeated indices would
    have a scatter-add with duplicates for its gradient.
    """
    if x.shape[axis] < 2:
        return _part(x, 0, 0, axis)
    doubled = jnp.concatenate([x, x], axis)
    turned = [_part(x, 0, size, axis) * _part(doubled, turn, size, axis) for turn, size in _turns(x.shape[axis])]
    return jnp.concatenate(turned, axis)


def _pair_products_forward(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    return pair_products(x, axis), x


def _pair_products_backward(axis: int, x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    # One loop that adds up all turns: JAX's own gradient pads each to twice the fields, and adds those.
    fields = x.shape[axis]
    doubled = jnp.concatenate([x, x], axis)
    terms, start = [], 0
    for turn, size in _turns(fields):
        part = _part(gradient, start, size, axis)
        first, second = part * _part(doubled, turn, size, axis), part * _part(x, 0, size, axis)
        if size < fields:  # half a turn: the pairs' first fields are the first half of x, their second the second
            terms.append(jnp.concatenate([first, second], axis))
        else:
            turned = [_part(second, fields - turn, turn, axis), _part(second, 0, fields - turn, axis)]
            terms += [first, jnp.concatenate(turned, axis)]
        start += size
    return (functools.reduce(jnp.add, terms) if terms else jnp.zeros_like(x),)


pair_products.defvjp(_pair_products_forward, _pair_products_backward)


def _turns(fields: int) -> list[tuple[int, int]]:
    """By how many fields `pair_products` turns x, and how many of the products are new."""
    turns = [(turn, fields) for turn in range(1, (fields + 1) // 2)]
    return turns if fields % 2 else [*turns, (fields // 2, fields // 2)]


def _part(x: jax.Array, start: int, size: int, axis: int) -> jax.Array:
    return jax.lax.slice_in_dim(x, start, start + size, axis=axis)


def pair_firsts(x: jax.Array, fields: int) -> jax.Array:
    """x_i of each pair of fields i < j, as `pairs_by_distance` has them: [B, F, K] -> [B, P, K].

    Where the order within a pair matters; `pair_products` makes fewer slices. ``x`` need not have the last field, which
    is the first of no pair.
    """
    return jnp.concatenate([x[:, : fields - distance] for distance in range(1, fields)], axis=1)


def pair_seconds(x: jax.Array) -> jax.Array:
    """x_j of each pair of fields i < j, as `pairs_by_distance` has them: [B, F, K] -> [B, P, K]."""
    return jnp.concatenate([x[:, distance:] for distance in range(1, x.shape[1])], axis=1)


def pairs_by_distance(fields: int) -> tuple[np.ndarray, np.ndarray]:
    """Fields i < j of each pair: neighbours first, the pair (0, F-1) last; int [P] each."""
    i = np.concatenate([np.arange(fields - distance) for distance in range(1, fields)])
    return i, i + np.repeat(np.arange(1, fields), np.arange(fields - 1, 0, -1))


def pair_order(fields: int) -> tuple[np.ndarray, np.ndarray]:
    """Fields i and j of each pair in the order of `pair_products`: int [P] each."""
    i = np.tile(np.arange(fields), fields // 2)[: fields * (fields - 1) // 2]
    turn = np.arange(i.size) // fields + 1
    return i, (i + turn) % fields

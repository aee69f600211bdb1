"""Products of matrices, in float32 or, where a run asks for it, of bfloat16 numbers added up in float32."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

_bfloat16 = contextvars.ContextVar("bfloat16", default=False)


@contextlib.contextmanager
def in_bfloat16(enabled: bool) -> Iterator[None]:
    """What is traced inside rounds both factors of every product of matrices to bfloat16, when ``enabled``.

    Gradients are products too: trace them inside as well.
    """
    token = _bfloat16.set(enabled)
    try:
        yield
    finally:
        _bfloat16.reset(token)


def dot_general(a: jax.Array, b: jax.Array, dimension_numbers: Any, **options: Any) -> jax.Array:
    """`jax.lax.dot_general`, as the dense layers call it."""
    if dimension_numbers == (((1,), (0,)), ((), ())) and b.shape[0] > b.shape[1] and not any(options.values()):
        return _by_tall(a, b)
    return _dot_general(a, b, dimension_numbers, **options)


def _dot_general(a: jax.Array, b: jax.Array, dimension_numbers: Any, **options: Any) -> jax.Array:
    if not _bfloat16.get():
        return jax.lax.dot_general(a, b, dimension_numbers, **options)
    # XLA's CPU backend ignores a precision of bfloat16 asked for by an algorithm's name: the factors are cast instead.
    options["preferred_element_type"] = jnp.float32
    return jax.lax.dot_general(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), dimension_numbers, **options)


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a`` [M, N] @ ``b`` [N, L]."""
    return dot_general(a, b, (((1,), (0,)), ((), ())))


@jax.custom_vjp
def _by_tall(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a`` [M, N] @ ``b`` [N, L], where N is larger than L."""
    return _dot_general(a, b, (((1,), (0,)), ((), ())))


def _by_tall_forward(a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _by_tall(a, b), (a, b)


def _by_tall_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = saved
    # XLA's CPU backend makes [L, N] 2.5 times as fast as [N, L]; unless it is kept from it, it takes the transpose in.
    by_b = jax.lax.optimization_barrier(_dot_general(gradient, a, (((0,), (0,)), ((), ())))).T
    return _dot_general(gradient, b, (((1,), (1,)), ((), ()))), by_b


_by_tall.defvjp(_by_tall_forward, _by_tall_backward)

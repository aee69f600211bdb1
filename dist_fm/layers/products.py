"""Products of matrices, in float32 or, where a run asks for it, of bfloat16 numbers added up in float32."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp

from dist_fm.layers.switch import Switch

PLAIN = (((1,), (0,)), ((), ()))  # a [M, N] @ b [N, L]

_bfloat16 = Switch("bfloat16")


def in_bfloat16(enabled: bool) -> contextlib.AbstractContextManager[None]:
    """What is traced inside rounds both factors of every product of matrices to bfloat16, when ``enabled``.

    Gradients are products too: trace them inside as well.
    """
    return _bfloat16.set(enabled)


def dot_general(a: jax.Array, b: jax.Array, dimension_numbers: Any, **options: Any) -> jax.Array:
    """`jax.lax.dot_general`, as the dense layers call it, of samples ``a`` and a kernel ``b``."""
    if dimension_numbers == PLAIN and b.shape[0] > b.shape[1] and not any(options.values()):
        return _by_tall(a, b)
    return _dot_general(a, b, dimension_numbers, **options)


def _dot_general(a: jax.Array, b: jax.Array, dimension_numbers: Any, **options: Any) -> jax.Array:
    if not _bfloat16:
        return jax.lax.dot_general(a, b, dimension_numbers, **options)
    # XLA's CPU backend ignores a precision of bfloat16 asked for by an algorithm's name: the factors are cast instead.
    options["preferred_element_type"] = jnp.float32
    return jax.lax.dot_general(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), dimension_numbers, **options)


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a`` [M, N] @ ``b`` [N, L], where samples lie along L, or the kernel ``b`` is not tall."""
    return _dot_general(a, b, PLAIN)


@jax.custom_vjp
def _by_tall(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a`` [M, N] @ ``b`` [N, L], where N is larger than L."""
    return _dot_general(a, b, PLAIN)


def _by_tall_forward(a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _by_tall(a, b), (a, b)


def _by_tall_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = saved
    return _dot_general(gradient, b, (((1,), (1,)), ((), ()))), _kernel_gradient(a, gradient)


_by_tall.defvjp(_by_tall_forward, _by_tall_backward)


def _kernel_gradient(a: jax.Array, gradient: jax.Array) -> jax.Array:
    """``a`` [M, N] transposed @ ``gradient`` [M, L], made lying down where N is larger than L."""
    if a.shape[1] <= gradient.shape[1]:
        return _dot_general(a, gradient, (((0,), (0,)), ((), ())))
    # XLA's CPU backend makes [L, N] 2.5 times as fast as [N, L]; unless it is kept from it, it takes the transpose in.
    return jax.lax.optimization_barrier(_dot_general(gradient, a, (((0,), (0,)), ((), ())))).T


def sum_and_product(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum over fields [B, K] of ``x`` [B, F, K], and the product [B, L] of all its numbers with ``kernel`` [FK, L].

    What an FM and an MLP want of the same factors.
    """
    if _bfloat16:  # which would round the sum's gradient too
        return x.sum(axis=1), dot_general(x.reshape(x.shape[0], -1), kernel, PLAIN)
    return _sum_and_product(x, kernel)


@jax.custom_vjp
def _sum_and_product(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x.sum(axis=1), matmul(x.reshape(x.shape[0], -1), kernel)


def _sum_and_product_forward(x: jax.Array, kernel: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    return _sum_and_product(x, kernel), (x, kernel)


def _sum_and_product_backward(saved: tuple[jax.Array, jax.Array], gradient: Any) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    by_sum, by_product = gradient
    # The sum is a product as well, with identities; so both gradients of x are one product. A product and a pass that
    # adds the other take 6 to 11 % longer on a CPU.
    both = jnp.concatenate([by_product, by_sum], axis=1)
    kernels = jnp.concatenate([kernel, jnp.tile(jnp.eye(x.shape[2], dtype=x.dtype), (x.shape[1], 1))], axis=1)
    by_x = _dot_general(both, kernels, (((1,), (1,)), ((), ())))
    return by_x.reshape(x.shape), _kernel_gradient(x.reshape(x.shape[0], -1), by_product)


_sum_and_product.defvjp(_sum_and_product_forward, _sum_and_product_backward)

"""Turned arrays, made before they are used where XLA's CPU backend would not do so by itself."""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

_in_memory = contextvars.ContextVar("in_memory", default=False)


@contextlib.contextmanager
def turned_in_memory(enabled: bool) -> Iterator[None]:
    """What is traced inside makes each `turned` array, and its gradient, before their uses begin, when ``enabled``.

    For CPUs. XLA takes the turning into all loops that read the array, or make its gradient, and they go across memory.
    """
    token = _in_memory.set(enabled)
    try:
        yield
    finally:
        _in_memory.reset(token)


def turned(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """``x`` with its axes in the order of ``axes``."""
    x = x.transpose(axes)
    if not _in_memory.get():
        return x
    # The condition always holds, for NaN as well, which XLA cannot know. It ignores an optimization_barrier here.
    return jax.lax.cond(~(x[(0,) * x.ndim] > jnp.inf), lambda x: x, jnp.zeros_like, x)

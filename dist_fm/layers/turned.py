"""Turned arrays, made before they are used where XLA's CPU backend would not do so by itself."""

import contextlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dist_fm.apart import made_apart
from dist_fm.layers.switch import Switch

_in_memory = Switch("in_memory")


def turned_in_memory(enabled: bool) -> contextlib.AbstractContextManager[None]:
    """What is traced inside makes each `turned` array, and its gradient, before their uses begin, when ``enabled``.

    For CPUs. XLA takes the turning into all loops that read the array, or make its gradient, and they go across memory.
    """
    return _in_memory.set(enabled)


def turned(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """``x`` with its axes in the order of ``axes``."""
    x = x.transpose(axes)
    # Not above infinity is what every number is, and NaN.
    return made_apart(~(x[(0,) * x.ndim] > jnp.inf), lambda: x) if _in_memory else x

"""Keeps XLA's CPU backend from fusing what should be made once, and in one go."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def made_apart(always: jax.Array, make: Callable[[], Any]) -> Any:
    """``make()``, a pytree of arrays, made in memory before what follows begins; and so the gradient's way back.

    In a branch: ``always`` must be True, in a way that XLA cannot know. It ignores an optimization_barrier when it
    fuses; what would be made anew, number by number, at each of its uses is then made once.
    """
    nothing = lambda: jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), jax.eval_shape(make))
    return jax.lax.cond(always, make, nothing)

"""Numbers for layers that are tested in float64 (conftest's fixture of that name), and how they are compared."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def randomized(module, seed=1):
    """``module`` with every array drawn anew in float64, so that no bias or scale hides at 0 or 1."""
    rng = np.random.default_rng(seed)
    state = nnx.state(module)
    nnx.update(module, jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.2, 1, x.shape) * rng.choice([-1, 1])), state))
    return module


def check(ours, loop):
    assert ours.dtype == jnp.float64
    np.testing.assert_allclose(ours, loop, rtol=1e-12, atol=1e-12)

"""BatchNorm that does not see padding."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

MOMENTUM = 0.1
EPSILON = 1e-5


class BatchNorm(nnx.Module):
    """Batch normalisation over the real samples only (Ioffe & Szegedy 2015, algorithm 1).

    Of [B, H], or of [B, ..., H] over all axes but the last. As torch.nn.BatchNorm1d: running = 0.9 running + 0.1 batch,
    the running variance unbiased. ``flax.nnx.BatchNorm`` takes a mask too, but keeps the biased variance and turns
    bfloat16 activations into float32.
    """

    def __init__(self, features: int):
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros((features,), jnp.float32))
        self.var = nnx.BatchStat(jnp.ones((features,), jnp.float32))

    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool) -> jax.Array:
        """``x`` [B, ..., H] by the statistics of the samples where ``mask`` [B] is 1, or by the running ones."""
        # Statistics in at least float32: a mean of thousands of bfloat16 numbers would have two digits.
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train:
            axes = tuple(range(x.ndim - 1))
            real = mask.reshape(-1, *[1] * len(axes)) > 0
            count = real.sum(dtype=wide.dtype) * math.prod(x.shape[1:-1])
            mean = jnp.where(real, wide, 0).sum(axis=axes) / jnp.maximum(count, 1)
            var = jnp.where(real, jnp.square(wide - mean), 0).sum(axis=axes) / jnp.maximum(count, 1)
            unbiased = var * (count / jnp.maximum(count - 1, 1))
            self._update_running(mean, unbiased)
        else:
            mean, var = self.mean[...], self.var[...]
        normal = (wide - mean) * jax.lax.rsqrt(var + EPSILON)
        return normal.astype(x.dtype) * self.scale[...] + self.bias[...]

    def _update_running(self, mean: jax.Array, var: jax.Array) -> None:
        # New variables, not new values in the old ones: those may belong to an outer trace (jit around grad), where
        # nnx forbids to change them.
        self.mean = nnx.BatchStat(self._blend(self.mean[...], mean))
        self.var = nnx.BatchStat(self._blend(self.var[...], var))

    @staticmethod
    def _blend(running: jax.Array, batch: jax.Array) -> jax.Array:
        return ((1 - MOMENTUM) * running + MOMENTUM * jax.lax.stop_gradient(batch)).astype(running.dtype)

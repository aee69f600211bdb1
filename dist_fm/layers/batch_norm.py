"""BatchNorm that does not see padding."""

import math
from typing import Any

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
        if not train:
            return _normal(x, self.mean[...], self.var[...]).astype(x.dtype) * self.scale[...] + self.bias[...]
        count = (mask > 0).sum(dtype=_wide(x).dtype) * math.prod(x.shape[1:-1])
        y, mean, var = _normalise(x, mask > 0, jnp.maximum(count, 1), self.scale[...], self.bias[...])
        self._update_running(mean, var * (count / jnp.maximum(count - 1, 1)))
        return y

    def _update_running(self, mean: jax.Array, var: jax.Array) -> None:
        # New variables, not new values in the old ones: those may belong to an outer trace (jit around grad), where
        # nnx forbids to change them.
        self.mean = nnx.BatchStat(self._blend(self.mean[...], mean))
        self.var = nnx.BatchStat(self._blend(self.var[...], var))

    @staticmethod
    def _blend(running: jax.Array, batch: jax.Array) -> jax.Array:
        return ((1 - MOMENTUM) * running + MOMENTUM * jax.lax.stop_gradient(batch)).astype(running.dtype)


def _wide(x: jax.Array) -> jax.Array:
    """In at least float32: a mean of thousands of bfloat16 numbers would have two digits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _normal(x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
    return (_wide(x) - mean) * jax.lax.rsqrt(var + EPSILON)


@jax.custom_vjp
def _normalise(
    x: jax.Array, real: jax.Array, count: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``x`` normalised by the mean and variance of its ``count`` numbers of ``real`` samples, and these two.

    Mean and variance have no gradient of their own.
    """
    return _normalise_forward(x, real, count, scale, bias)[0]


def _normalise_forward(
    x: jax.Array, real: jax.Array, count: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[Any, Any]:
    axes = tuple(range(x.ndim - 1))
    wide, real = _wide(x), real.reshape(-1, *[1] * len(axes))
    mean = jnp.where(real, wide, 0).sum(axis=axes) / count
    var = jnp.where(real, jnp.square(wide - mean), 0).sum(axis=axes) / count
    y = _normal(x, mean, var).astype(x.dtype) * scale + bias
    return (y, mean, var), (x, real, count, scale, mean, var)


def _normalise_backward(saved: Any, gradient: Any) -> Any:
    # Two sums and one pass, as algorithm 1's gradient may be written; the other passes of JAX's own were a fifth of an
    # FNFM step on a CPU.
    x, real, count, scale, mean, var = saved
    by_y, axes = _wide(gradient[0]), tuple(range(x.ndim - 1))
    normal = _normal(x, mean, var)
    by_bias, by_scale = by_y.sum(axis=axes), (by_y * normal).sum(axis=axes)
    shared = jnp.where(real, (by_bias + normal * by_scale) / count, 0)
    by_x = (by_y - shared) * (scale * jax.lax.rsqrt(var + EPSILON))
    return by_x.astype(x.dtype), None, None, by_scale.astype(scale.dtype), by_bias.astype(scale.dtype)


_normalise.defvjp(_normalise_forward, _normalise_backward)

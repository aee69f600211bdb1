"""Dense layers and how their weights start."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.errors import UserError, nearest
from dist_fm.layers.products import dot_general
from dist_fm.tables.spec import Initializer, normal, uniform, zeros

LAYER_INITS = ("torch", "xavier_normal")


def weight_init(layer_init: str, fan_in: int, fan_out: int) -> Initializer:
    """First values of a kernel: U(+-1/sqrt(fan_in)) for ``torch``, N(0, 2/(fan_in + fan_out)) for ``xavier_normal``."""
    if layer_init == "torch":
        return uniform(1.0 / math.sqrt(fan_in))
    if layer_init == "xavier_normal":
        return normal(math.sqrt(2.0 / (fan_in + fan_out)))
    raise UserError(f"layer_init {layer_init!r}: {nearest(layer_init, LAYER_INITS)}")


def bias_init(layer_init: str, fan_in: int) -> Initializer:
    """First values of a bias: as torch.nn.Linear's, U(+-1/sqrt(fan_in)), or zeros for ``xavier_normal``."""
    return uniform(1.0 / math.sqrt(fan_in)) if layer_init == "torch" else zeros


def dense(in_features: int, out_features: int, *, layer_init: str, rngs: nnx.Rngs, use_bias: bool = True) -> nnx.Linear:
    """A linear layer [..., in_features] -> [..., out_features]."""
    return nnx.Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=weight_init(layer_init, in_features, out_features),
        bias_init=bias_init(layer_init, in_features),
        dot_general=dot_general,
        rngs=rngs,
    )


class FirstOrder(nnx.Module):
    """The linear part of the models: w0 + sum_f w_f, [B, F, 1] -> [B]; ``bias`` is w0."""

    def __init__(self):
        self.bias = nnx.Param(jnp.zeros((1,), jnp.float32))

    def __call__(self, weights: jax.Array) -> jax.Array:
        return weights.sum(axis=(1, 2)) + self.bias[...]

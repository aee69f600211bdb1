"""Cross networks: each layer multiplies the network's input with a linear map of what came before."""

from collections.abc import Iterable
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.layers.dense import dense, weight_init
from dist_fm.layers.products import dot_general, matmul


class CrossLayer(Protocol):
    """One layer: the network's input x_0 and the layer's x, [B, D] each, to [B, D]."""

    def __call__(self, x0: jax.Array, x: jax.Array) -> jax.Array: ...


class CrossNetwork(nnx.Module):
    """Cross layers one after the other: [B, D] -> [B, D]."""

    def __init__(self, layers: Iterable[CrossLayer]):
        self.layers = nnx.List(list(layers))

    def __call__(self, x0: jax.Array) -> jax.Array:
        x = x0
        for layer in self.layers:
            x = layer(x0, x)
        return x


class VectorCross(nnx.Module):
    """x_0 (w . x) + b + x (Wang et al. 2017, "Deep & Cross Network", eq. 3)."""

    def __init__(self, width: int, *, layer_init: str, rngs: nnx.Rngs):
        self.weight = dense(width, 1, use_bias=False, layer_init=layer_init, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x0: jax.Array, x: jax.Array) -> jax.Array:
        return x0 * self.weight(x) + self.bias[...] + x


class MatrixCross(nnx.Module):
    """x_0 * (W x + b) + x, with W = U V of rank ``low_rank`` unless that is 0 (Wang et al. 2021, eq. 1 and 2)."""

    def __init__(self, width: int, *, low_rank: int, layer_init: str, rngs: nnx.Rngs):
        self.project = (
            dense(width, low_rank, use_bias=False, layer_init=layer_init, rngs=rngs) if low_rank > 0 else None
        )
        self.expand = dense(low_rank or width, width, layer_init=layer_init, rngs=rngs)

    def __call__(self, x0: jax.Array, x: jax.Array) -> jax.Array:
        return x0 * self.expand(x if self.project is None else self.project(x)) + x


class ExpertsCross(nnx.Module):
    """sum_i G_i(x) x_0 * (U_i tanh(C_i tanh(V_i x)) + b) + x, G the softmax of a linear map (eq. 3 and 4).

    E experts of rank R. G sums to 1, so that b counts once, and the sum over the experts is one product of matrices.
    """

    def __init__(self, width: int, *, low_rank: int, num_experts: int, layer_init: str, rngs: nnx.Rngs):
        self.gate = dense(width, num_experts, use_bias=False, layer_init=layer_init, rngs=rngs)
        self.project, self.mix, self.expand = (
            Experts(num_experts, *sizes, layer_init=layer_init, rngs=rngs)
            for sizes in ((width, low_rank), (low_rank, low_rank), (low_rank, width))
        )
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x0: jax.Array, x: jax.Array) -> jax.Array:
        hidden = jnp.tanh(dot_general(x, self.project.kernel[...], (((1,), (1,)), ((), ()))))  # [B, E, R]
        mixed = dot_general(hidden, self.mix.kernel[...], (((2,), (1,)), ((1,), (0,))))  # [E, B, R]
        gates = jax.nn.softmax(self.gate(x), axis=-1)
        weighted = gates[:, :, None] * jnp.tanh(mixed.swapaxes(0, 1))
        expand = self.expand.kernel[...].reshape(-1, x.shape[1])
        return x0 * (matmul(weighted.reshape(x.shape[0], -1), expand) + self.bias[...]) + x


class Experts(nnx.Module):
    """The kernels of one dense layer an expert: [E, in, out]."""

    def __init__(self, num_experts: int, in_features: int, out_features: int, *, layer_init: str, rngs: nnx.Rngs):
        init = weight_init(layer_init, in_features, out_features)
        self.kernel = nnx.Param(init(rngs.params(), (num_experts, in_features, out_features), jnp.float32))

"""Products of pairs of fields weighted by a kernel each."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.errors import UserError, nearest
from dist_fm.layers.dense import weight_init
from dist_fm.layers.fm import pair_firsts, pair_seconds
from dist_fm.layers.products import dot_general
from dist_fm.tables.spec import uniform

KERNELS = ("mat", "vec", "num")


class OuterProducts(nnx.Module):
    """<x_i x_j^T, M_ij> = x_i^T M_ij x_j of each pair i < j, by distance: [B, F, K] -> [B, P].

    Qu et al. 2018, "Product-based Neural Networks for User Response Prediction over Multi-field Categorical Data": M is
    a matrix (``mat``), of which a diagonal (``vec``) or one number times the identity (``num``) may be left.
    """

    def __init__(self, num_fields: int, embed_dim: int, kernel: str, *, layer_init: str, rngs: nnx.Rngs):
        pairs = num_fields * (num_fields - 1) // 2
        shapes = {"mat": (pairs, embed_dim, embed_dim), "vec": (pairs, embed_dim), "num": (pairs, 1)}
        if kernel not in KERNELS:
            raise UserError(f"outer kernel {kernel!r}: {nearest(kernel, KERNELS)}")
        # Fans as torchfm's Xavier rule has them.
        fans = (pairs * embed_dim, embed_dim * embed_dim) if kernel == "mat" else shapes[kernel]
        init = uniform(math.sqrt(6 / sum(fans))) if layer_init == "torch" else weight_init(layer_init, *fans)
        self.kernel = nnx.Param(init(rngs.params(), shapes[kernel], jnp.float32))
        self.floats = 2 * pairs * embed_dim  # made for one sample

    def __call__(self, x: jax.Array) -> jax.Array:
        first, second = pair_firsts(x, x.shape[1]), pair_seconds(x)
        kernel = self.kernel[...]
        if kernel.ndim == 2:
            return (first * second * kernel).sum(axis=2)
        mapped = dot_general(first, kernel, (((2,), (1,)), ((1,), (0,))))  # [P, B, K]
        return (mapped * second.swapaxes(0, 1)).sum(axis=2).T

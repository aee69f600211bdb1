"""FiBiNET's two interactions: gates that weigh whole fields, and bilinear products of pairs."""

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.errors import UserError, nearest
from dist_fm.layers.dense import dense, weight_init
from dist_fm.layers.fm import pair_firsts, pair_seconds
from dist_fm.layers.products import dot_general

BILINEAR = ("field_all", "field_each", "field_interaction")


class FieldGates(nnx.Module):
    """SENET: a weight for each field, ReLU(W_2 ReLU(W_1 s)), s_i the mean of x_i: [B, F, K] -> [B, F].

    Huang et al. 2019, "FiBiNET", section 3.2; W_1 leads to F / ``reduction_ratio`` numbers, rounded down, or one.
    """

    def __init__(self, num_fields: int, reduction_ratio: int, *, layer_init: str, rngs: nnx.Rngs):
        reduced = max(1, num_fields // reduction_ratio)
        self.squeeze = dense(num_fields, reduced, use_bias=False, layer_init=layer_init, rngs=rngs)
        self.excite = dense(reduced, num_fields, use_bias=False, layer_init=layer_init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.excite(jax.nn.relu(self.squeeze(x.mean(axis=2)))))


class BilinearProducts(nnx.Module):
    """(x_i W) * x_j of each pair i < j, by distance: [B, F, K] -> [B, P, K] (section 3.3).

    W is the same for all (``field_all``), the first field's (``field_each``), or the pair's (``field_interaction``).
    """

    def __init__(self, num_fields: int, embed_dim: int, kind: str, *, layer_init: str, rngs: nnx.Rngs):
        numbers = {"field_all": (), "field_each": (num_fields - 1,)}
        numbers["field_interaction"] = (num_fields * (num_fields - 1) // 2,)
        if kind not in numbers:
            raise UserError(f"bilinear {kind!r}: {nearest(kind, BILINEAR)}")
        self.kind = kind
        init = weight_init(layer_init, embed_dim, embed_dim)
        self.kernel = nnx.Param(init(rngs.params(), (*numbers[kind], embed_dim, embed_dim), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        fields, kernel = x.shape[1], self.kernel[...]
        if self.kind == "field_all":
            mapped = pair_firsts(dot_general(x, kernel, (((2,), (0,)), ((), ()))), fields)
        elif self.kind == "field_each":
            mapped = pair_firsts(_map_each(x[:, :-1], kernel), fields)
        else:
            mapped = _map_each(pair_firsts(x, fields), kernel)
        return mapped * pair_seconds(x)


def _map_each(x: jax.Array, kernels: jax.Array) -> jax.Array:
    """x_n W_n: [B, N, K], [N, K, K] -> [B, N, K]."""
    return dot_general(x, kernels, (((2,), (1,)), ((1,), (0,)))).swapaxes(0, 1)

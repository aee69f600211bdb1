"""Attention over pairs of fields."""

import jax
from flax import nnx

from dist_fm.layers.dense import dense
from dist_fm.layers.dropout import dropout
from dist_fm.layers.fm import pair_products


class PairAttention(nnx.Module):
    """Pools the products of all pairs by attention: [B, F, K] -> [B, K] (Xiao et al. 2017, eq. 4 and 5).

    a'_ij = h . ReLU(W (x_i * x_j) + b), a = softmax of a' over the P pairs, pooled = sum a_ij (x_i * x_j).
    ``dropout`` falls on the attention scores a, as in torchfm.
    """

    def __init__(
        self, embed_dim: int, attention_dim: int, *, dropout: float, use_bias: bool, layer_init: str, rngs: nnx.Rngs
    ):
        self.dropout = dropout
        self.hidden = dense(embed_dim, attention_dim, layer_init=layer_init, rngs=rngs)
        self.projection = dense(attention_dim, 1, use_bias=use_bias, layer_init=layer_init, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        products = pair_products(x)
        scores = jax.nn.softmax(self.projection(jax.nn.relu(self.hidden(products))), axis=1)
        scores = dropout(scores, self.dropout, train=train, rngs=rngs)
        return (scores * products).sum(axis=1)

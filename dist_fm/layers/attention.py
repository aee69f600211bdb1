"""Attention over pairs of fields."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.layers.dense import dense
from dist_fm.layers.dropout import drop, keep_mask
from dist_fm.layers.fm import pair_products
from dist_fm.layers.products import matmul
from dist_fm.layers.turned import turned


class PairAttention(nnx.Module):
    """Pools the products of all pairs by attention: [B, F, K] -> [B, K] (Xiao et al. 2017, eq. 4 and 5).

    a'_ij = h . ReLU(W (x_i * x_j) + b), a = softmax of a' over the P pairs, pooled = sum a_ij (x_i * x_j).
    ``dropout`` falls on the attention scores a, as in torchfm.
    """

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        attention_dim: int,
        *,
        dropout: float,
        use_bias: bool,
        layer_init: str,
        rngs: nnx.Rngs,
    ):
        self.dropout = dropout
        self.pairs = num_fields * (num_fields - 1) // 2
        self.floats = self.pairs * (embed_dim + attention_dim)  # made for one sample
        self.hidden = dense(embed_dim, attention_dim, layer_init=layer_init, rngs=rngs)
        self.projection = dense(attention_dim, 1, use_bias=use_bias, layer_init=layer_init, rngs=rngs)

    def keep_mask(self, samples: int, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array | None:
        """Which scores dropout leaves: bool [B, P], or None where it takes none."""
        return keep_mask((samples, self.pairs), self.dropout, train=train, rngs=rngs)

    def __call__(self, x: jax.Array, keep: jax.Array | None, filled: jax.Array | None = None) -> jax.Array:
        """Pooled pairs [B, K] of ``x`` [B, F, K], with the scores that ``keep`` (`keep_mask`) leaves.

        Pairs are of the fields that are there, ``filled`` [B, F] (None: all); a sample without a pair pools to zero.
        """
        batch, _, width = x.shape
        # Samples last: every operation is then over long, contiguous runs, and W a single matrix product.
        products = pair_products(turned(x, (2, 1, 0)), axis=1)
        hidden = matmul(self.hidden.kernel[...].T, products.reshape(width, -1))
        if self.hidden.bias is not None:
            hidden = hidden + self.hidden.bias[...][:, None]
        scores = matmul(self.projection.kernel[...].T, jax.nn.relu(hidden))
        if self.projection.bias is not None:
            scores = scores + self.projection.bias[...][:, None]
        scores = scores.reshape(self.pairs, batch)
        if filled is None:
            scores = jax.nn.softmax(scores, axis=0)
        else:
            scores = masked_softmax(scores, pair_products(filled.T, axis=0))
        scores = drop(scores, None if keep is None else keep.T, self.dropout)
        return weighted_sum(scores, products).T


@jax.custom_vjp
def weighted_sum(weights: jax.Array, x: jax.Array) -> jax.Array:
    """The sum over P of ``weights`` [P, B] times ``x`` [K, P, B]: [K, B]."""
    # One window over all of P: of a plain sum XLA's CPU backend has YNNPACK make the products and the sum in a way that
    # takes 13 times as long where there is no AVX-512, and a whole step of AFM then 2.5 times as long.
    pairs = x.shape[1]
    return jax.lax.reduce_window(weights * x, 0.0, jax.lax.add, (1, pairs, 1), (1, pairs, 1), "VALID")[:, 0]


def _weighted_sum_forward(weights: jax.Array, x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return weighted_sum(weights, x), (weights, x)


def _weighted_sum_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The sum over K is written out, as in the CIN: XLA's CPU backend has a reduction over the outermost axis wait for
    # memory.
    weights, x = saved
    by_weights = functools.reduce(jnp.add, [part * gradient[k] for k, part in enumerate(x)])
    return by_weights, weights * gradient[:, None]


weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward)


def masked_softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax over the first axis of ``scores`` [P, B] where ``mask`` holds; zero elsewhere, and where none does."""
    top = jax.lax.stop_gradient(jnp.where(mask, scores, -jnp.inf).max(axis=0))
    # Masked scores are replaced before exp as well: an infinite one's gradient would be NaN.
    weights = jnp.where(mask, jnp.exp(jnp.where(mask, scores - top, 0)), 0)
    total = weights.sum(axis=0)
    return weights / jnp.where(total > 0, total, 1)

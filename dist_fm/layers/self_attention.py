"""Multi-head self-attention over the fields, as AutoInt uses it. A is the width of all heads together."""

import dataclasses
import math

import jax
from flax import nnx

from dist_fm.layers.dense import dense
from dist_fm.layers.dropout import drop, keep_mask
from dist_fm.layers.products import dot_general

RESIDUALS = ("projected", "identity", "none")
NORM_EPSILON = 1e-5  # torch.nn.LayerNorm's


@dataclasses.dataclass(frozen=True)
class Heads:
    """What the attention layers of a model have in common: ``num_heads`` for F = ``num_fields``, together A wide.

    ``scale`` divides attention scores by the root of a head's width, ``dropout`` falls on the attention weights.
    """

    num_fields: int
    width: int
    num_heads: int
    scale: bool
    dropout: float
    layer_init: str


class SelfAttention(nnx.Module):
    """Pools the fields' values for each field, in several heads side by side: [B, F, in] -> [B, F, A].

    Of each head y_m = sum_k a_mk V x_k, a_m = softmax over k of <Q x_m, K x_k> (Song et al. 2019, eq. 5 to 7).
    """

    def __init__(self, in_features: int, heads: Heads, *, use_bias: bool, rngs: nnx.Rngs):
        self.num_heads, self.dropout = heads.num_heads, heads.dropout
        self.factor = 1 / math.sqrt(heads.width // heads.num_heads) if heads.scale else 1.0
        self.weights_shape = (heads.num_heads, heads.num_fields, heads.num_fields)
        self.floats = heads.num_fields * (4 * heads.width + heads.num_heads * heads.num_fields)  # made for one sample
        self.query, self.key, self.value = (
            dense(in_features, heads.width, use_bias=use_bias, layer_init=heads.layer_init, rngs=rngs) for _ in range(3)
        )

    def keep_mask(self, samples: int, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array | None:
        """Which a_mk dropout leaves: bool [B, heads, F, F], or None where it takes none."""
        return keep_mask((samples, *self.weights_shape), self.dropout, train=train, rngs=rngs)

    def __call__(self, x: jax.Array, keep: jax.Array | None) -> jax.Array:
        batch, fields, _ = x.shape
        heads = lambda y: y.reshape(batch, fields, self.num_heads, -1)
        query, key, value = (heads(layer(x)) for layer in (self.query, self.key, self.value))
        scores = dot_general(query * self.factor, key, (((3,), (3,)), ((0, 2), (0, 2))))  # [B, heads, F, F]
        weights = drop(jax.nn.softmax(scores, axis=-1), keep, self.dropout)
        pooled = dot_general(weights, value, (((3,), (1,)), ((0, 1), (0, 2))))  # [B, heads, F, A / heads]
        return pooled.swapaxes(1, 2).reshape(batch, fields, -1)


class Residual(nnx.Module):
    """Adds a layer's input x [..., in] to its output y [..., out].

    ``projected``: y + W x; ``identity``: y + x where the widths agree, else projected; ``none``: y.
    """

    def __init__(
        self, kind: str, in_features: int, out_features: int, *, use_bias: bool, layer_init: str, rngs: nnx.Rngs
    ):
        self.adds = kind != "none"
        is_projected = kind == "projected" or (kind == "identity" and in_features != out_features)
        self.projection = (
            dense(in_features, out_features, use_bias=use_bias, layer_init=layer_init, rngs=rngs)
            if is_projected
            else None
        )

    def __call__(self, y: jax.Array, x: jax.Array) -> jax.Array:
        if not self.adds:
            return y
        return y + (x if self.projection is None else self.projection(x))


class StackedAttention(nnx.Module):
    """torchfm's form: x -> A, attention layers with biases and an output layer each, one residual, ReLU at the end."""

    def __init__(self, in_features: int, heads: Heads, *, num_layers: int, residual: str, rngs: nnx.Rngs):
        width, layer_init = heads.width, heads.layer_init
        self.input = dense(in_features, width, layer_init=layer_init, rngs=rngs)
        self.attentions: nnx.List[SelfAttention] = nnx.List([])
        self.outputs: nnx.List[nnx.Linear] = nnx.List([])
        for _ in range(num_layers):
            self.attentions.append(SelfAttention(width, heads, use_bias=True, rngs=rngs))
            self.outputs.append(dense(width, width, layer_init=layer_init, rngs=rngs))
        self.residual = Residual(residual, in_features, width, use_bias=True, layer_init=layer_init, rngs=rngs)

    def __call__(self, x: jax.Array, keep: list[jax.Array | None]) -> jax.Array:
        """[B, F, in] -> [B, F, A]; ``keep`` has each layer's `SelfAttention.keep_mask`."""
        y = self.input(x)
        for attention, output, mask in zip(self.attentions, self.outputs, keep, strict=True):
            y = output(attention(y, mask))
        return jax.nn.relu(self.residual(y, x))


class InteractingLayers(nnx.Module):
    """The paper's form: ReLU(attention(x) + W x) in every layer, no biases (Song et al. 2019, eq. 5 to 8).

    ``layer_norm`` normalises each field's sum before the ReLU.
    """

    def __init__(
        self, in_features: int, heads: Heads, *, num_layers: int, residual: str, layer_norm: bool, rngs: nnx.Rngs
    ):
        width = heads.width
        self.attentions: nnx.List[SelfAttention] = nnx.List([])
        self.residuals: nnx.List[Residual] = nnx.List([])
        self.norms: nnx.List[nnx.LayerNorm] | None = nnx.List([]) if layer_norm else None
        for i in range(num_layers):
            inputs = width if i else in_features
            self.attentions.append(SelfAttention(inputs, heads, use_bias=False, rngs=rngs))
            self.residuals.append(
                Residual(residual, inputs, width, use_bias=False, layer_init=heads.layer_init, rngs=rngs)
            )
            if self.norms is not None:
                self.norms.append(nnx.LayerNorm(width, epsilon=NORM_EPSILON, use_fast_variance=False, rngs=rngs))

    def __call__(self, x: jax.Array, keep: list[jax.Array | None]) -> jax.Array:
        """[B, F, in] -> [B, F, A]; ``keep`` has each layer's `SelfAttention.keep_mask`."""
        for i, (attention, residual, mask) in enumerate(zip(self.attentions, self.residuals, keep, strict=True)):
            y = residual(attention(x, mask), x)
            x = jax.nn.relu(y if self.norms is None else self.norms[i](y))
        return x

"""The multi-layer perceptron that the deep models share."""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.errors import UserError
from dist_fm.layers.batch_norm import BatchNorm
from dist_fm.layers.dense import dense
from dist_fm.layers.dropout import dropout

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "linear": lambda x: x}


class MLPConfig(Protocol):
    """What a model's configuration says of its MLP."""

    @property
    def mlp_dims(self) -> tuple[int, ...]: ...
    @property
    def dropout(self) -> float: ...
    @property
    def batch_norm(self) -> bool: ...
    @property
    def layer_init(self) -> str: ...


class MLP(nnx.Module):
    """[dense -> BatchNorm -> activation -> dropout] for each of ``dims``, then, with ``output``, a dense layer to one.

    Maps [B, in_features] to logits [B], or to [B, dims[-1]] when ``output`` is false.
    """

    def __init__(
        self,
        in_features: int,
        dims: Sequence[int],
        *,
        dropout: float,
        batch_norm: bool = True,
        activation: str = "relu",
        output: bool = True,
        layer_init: str = "torch",
        rngs: nnx.Rngs,
    ):
        if not dims:
            raise UserError("the MLP has no hidden layer: give its sizes, as in --model.mlp_dims=16,16")
        self.dropout = dropout
        self.activation = activation
        sizes = (in_features, *dims)
        self.hidden = nnx.List(
            [dense(a, b, layer_init=layer_init, rngs=rngs) for a, b in zip(sizes, dims, strict=False)]
        )
        self.norms = nnx.List([BatchNorm(size) for size in dims]) if batch_norm else None
        self.output = dense(sizes[-1], 1, layer_init=layer_init, rngs=rngs) if output else None

    @classmethod
    def of(cls, config: MLPConfig, in_features: int, *, rngs: nnx.Rngs, **more: Any) -> "MLP":
        """The MLP that ``config`` describes; ``more`` as for the class."""
        return cls(
            in_features,
            config.mlp_dims,
            dropout=config.dropout,
            batch_norm=config.batch_norm,
            layer_init=config.layer_init,
            rngs=rngs,
            **more,
        )

    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.after_first(self.first(x), mask, train=train, rngs=rngs)

    @property
    def first(self) -> nnx.Linear:
        """The first dense layer, which treats each sample by itself: [B, in_features] -> [B, dims[0]]."""
        return self.hidden[0]

    def after_first(self, x: jax.Array, mask: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        """The rest, from the first layer's [B, dims[0]] on."""
        for i, hidden in enumerate(self.hidden):
            x = hidden(x) if i else x
            if self.norms is not None:
                x = self.norms[i](x, mask, train=train)
            x = ACTIVATIONS[self.activation](x)
            x = dropout(x, self.dropout, train=train, rngs=rngs)
        return x if self.output is None else self.output(x)[:, 0]

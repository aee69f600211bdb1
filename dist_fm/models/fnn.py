"""Factorization-machine supported neural network."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.dense import FirstOrder
from dist_fm.layers.mlp import MLP
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, factor_column, flatten_fields, linear_column
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class FNNConfig(ModelConfig):
    """``embed_dim`` factors K into an MLP of ``mlp_dims`` hidden units with ``dropout``.

    torchfm's form reads the factors alone. The paper's is ``first_order`` (the MLP also reads w0 and every w_f, so that
    it can start from a trained FM), ``activation = "tanh"`` and no ``batch_norm``.
    """

    embed_dim: int = 16
    mlp_dims: tuple[int, ...] = (16, 16)
    dropout: float = 0.2
    batch_norm: bool = True
    activation: str = dataclasses.field(default="relu", metadata={"choices": ("relu", "tanh")})
    first_order: bool = False


class FNN(Model):
    """An MLP over an FM's weights.

    Zhang et al. 2016, "Deep Learning over Multi-field Categorical Data", eq. 1 to 5.
    """

    Config = FNNConfig
    config: FNNConfig

    def __init__(self, config: FNNConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        features = schema.num_fields * config.embed_dim
        if config.first_order:
            self.linear = FirstOrder()  # its w0, by the name it has in an FM
            features += schema.num_fields + 1
        self.mlp = MLP.of(config, features, activation=config.activation, rngs=rngs)

    def columns(self, schema: Schema) -> dict[str, Column]:
        factors = {"factors": factor_column(self.config, schema, self.config.embed_dim)}
        return {"linear": linear_column(self.config), **factors} if self.config.first_order else factors

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, network, _):
            x = flatten_fields(rows["factors"])
            if not self.config.first_order:
                return network(x)
            linear, mlp = network
            bias = jnp.broadcast_to(linear.bias[...], (x.shape[0], 1))
            fields = flatten_fields(jnp.concatenate([rows["linear"], rows["factors"]], axis=-1))
            return mlp(jnp.concatenate([bias, fields], axis=-1))

        first = self.mlp.first
        hidden = rows.map(enter, (self.linear, first) if self.config.first_order else first)
        return self.mlp.after_first(hidden, batch.mask, train=train, rngs=rngs)

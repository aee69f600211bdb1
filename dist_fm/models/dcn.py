"""Deep & Cross network."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.cross import CrossNetwork, VectorCross
from dist_fm.layers.dense import dense
from dist_fm.layers.mlp import MLP
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, factor_column, flatten_fields
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class DCNConfig(ModelConfig):
    """``embed_dim`` factors K into ``cross_layers`` cross layers and, beside them, an MLP of ``mlp_dims`` hidden units.

    ``dropout`` and ``batch_norm`` are the MLP's; with ``mlp_dims = ()`` there is the cross network alone.
    """

    embed_dim: int = 16
    cross_layers: int = 3
    mlp_dims: tuple[int, ...] = (16, 16)
    dropout: float = 0.2
    batch_norm: bool = True


class DCN(Model):
    """w . [cross(x); MLP(x)], x all factors.

    Wang et al. 2017, "Deep & Cross Network for Ad Click Predictions", eq. 5.
    """

    Config = DCNConfig
    config: DCNConfig

    def __init__(self, config: DCNConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        width = schema.num_fields * config.embed_dim
        self.cross = CrossNetwork(
            VectorCross(width, layer_init=config.layer_init, rngs=rngs) for _ in range(config.cross_layers)
        )
        self.mlp = MLP.of(config, width, output=False, rngs=rngs) if config.mlp_dims else None
        self.output = dense(width + sum(config.mlp_dims[-1:]), 1, layer_init=config.layer_init, rngs=rngs)

    def columns(self, schema: Schema) -> dict[str, Column]:
        return {"factors": factor_column(self.config, schema, self.config.embed_dim)}

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, network, _):
            cross, first = network
            x = flatten_fields(rows["factors"])
            return cross(x), None if first is None else first(x)

        crossed, hidden = rows.map(enter, (self.cross, None if self.mlp is None else self.mlp.first))
        if self.mlp is None:
            return self.output(crossed)[:, 0]
        deep = self.mlp.after_first(hidden, batch.mask, train=train, rngs=rngs)
        return self.output(jnp.concatenate([crossed, deep], axis=-1))[:, 0]

"""Wide & Deep."""

import dataclasses

import jax
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.dense import FirstOrder
from dist_fm.layers.mlp import MLP
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, flatten_fields, linear_and_factors
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class WideDeepConfig(ModelConfig):
    """``embed_dim`` factors K into an MLP of ``mlp_dims`` hidden units with ``dropout``."""

    embed_dim: int = 16
    mlp_dims: tuple[int, ...] = (16, 16)
    dropout: float = 0.2
    batch_norm: bool = True


class WideDeep(Model):
    """A linear model and an MLP, summed (Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems", eq. 3).

    As in torchfm the wide part is first-order; the paper's crossed features would be fields of the data set.
    """

    Config = WideDeepConfig
    config: WideDeepConfig

    def __init__(self, config: WideDeepConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        self.linear = FirstOrder()
        self.mlp = MLP.of(config, schema.num_fields * config.embed_dim, rngs=rngs)

    def columns(self, schema: Schema) -> dict[str, Column]:
        return linear_and_factors(self.config, schema, self.config.embed_dim)

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, network, _):
            linear, mlp = network
            return linear(rows["linear"]), mlp(flatten_fields(rows["factors"]))

        wide, hidden = rows.map(enter, (self.linear, self.mlp.first))
        return wide + self.mlp.after_first(hidden, batch.mask, train=train, rngs=rngs)

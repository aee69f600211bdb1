"""Neural factorization machine."""

import dataclasses

import jax
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.batch_norm import BatchNorm
from dist_fm.layers.dense import FirstOrder
from dist_fm.layers.dropout import dropout
from dist_fm.layers.fm import bi_interaction
from dist_fm.layers.mlp import MLP
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, linear_and_factors
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class NFMConfig(ModelConfig):
    """``embed_dim`` factors K, pooled to one vector, into an MLP of ``mlp_dims`` hidden units.

    ``interaction_dropout`` falls on the pooled vector, ``dropout`` on the hidden units. ``batch_norm`` normalises both.
    """

    embed_dim: int = 64
    mlp_dims: tuple[int, ...] = (64,)
    interaction_dropout: float = 0.2
    dropout: float = 0.2
    batch_norm: bool = True


class NFM(Model):
    """w0 + sum_f w_f + MLP(sum_{i<j} v_i * v_j).

    He & Chua 2017, "Neural Factorization Machines for Sparse Predictive Analytics", section 3.1.
    """

    Config = NFMConfig
    takes_slots = True
    config: NFMConfig

    def __init__(self, config: NFMConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        self.linear = FirstOrder()
        self.norm = BatchNorm(config.embed_dim) if config.batch_norm else None
        self.mlp = MLP.of(config, config.embed_dim, rngs=rngs)

    def columns(self, schema: Schema) -> dict[str, Column]:
        return linear_and_factors(self.config, schema, self.config.embed_dim)

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, linear, _):
            return linear(rows["linear"]), bi_interaction(rows["factors"])

        first_order, pooled = rows.map(enter, self.linear)
        if self.norm is not None:
            pooled = self.norm(pooled, batch.mask, train=train)
        pooled = dropout(pooled, self.config.interaction_dropout, train=train, rngs=rngs)
        return first_order + self.mlp(pooled, batch.mask, train=train, rngs=rngs)

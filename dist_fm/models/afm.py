"""Attentional factorization machine."""

import dataclasses

import jax
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.attention import PairAttention
from dist_fm.layers.dense import FirstOrder, dense
from dist_fm.layers.dropout import dropout
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, linear_and_factors
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class AFMConfig(ModelConfig):
    """``embed_dim`` factors K, ``attention_dim`` hidden units of the attention.

    ``attention_dropout`` falls on the attention scores, ``dropout`` on the pooled pairs. ``projection_bias`` gives the
    paper's vectors h and p a bias each, as torchfm does; the published form has neither bias nor attention dropout.
    """

    embed_dim: int = 16
    attention_dim: int = 16
    attention_dropout: float = 0.2
    dropout: float = 0.2
    projection_bias: bool = True


class AFM(Model):
    """w0 + sum_f w_f + p . sum_{i<j} a_ij (v_i * v_j), a by attention over all pairs.

    Xiao et al. 2017, "Attentional Factorization Machines", eq. 6.
    """

    Config = AFMConfig
    takes_slots = True
    min_fields = 2  # one pair
    config: AFMConfig

    def __init__(self, config: AFMConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        self.linear = FirstOrder()
        self.attention = PairAttention(
            schema.num_inputs,
            config.embed_dim,
            config.attention_dim,
            dropout=config.attention_dropout,
            use_bias=config.projection_bias,
            layer_init=config.layer_init,
            rngs=rngs,
        )
        self.output = dense(
            config.embed_dim, 1, use_bias=config.projection_bias, layer_init=config.layer_init, rngs=rngs
        )

    def columns(self, schema: Schema) -> dict[str, Column]:
        return linear_and_factors(self.config, schema, self.config.embed_dim)

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, network, samples):
            linear, attention = network
            return linear(rows["linear"]), attention(rows["factors"], *samples)

        samples = self.attention.keep_mask(batch.mask.shape[0], train=train, rngs=rngs), rows.filled
        first_order, pooled = rows.map(enter, (self.linear, self.attention), samples, floats=self.attention.floats)
        pooled = dropout(pooled, self.config.dropout, train=train, rngs=rngs)
        return first_order + self.output(pooled)[:, 0]

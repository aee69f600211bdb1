"""Field-aware factorization machine."""

import dataclasses

import jax
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.dense import FirstOrder
from dist_fm.layers.field_aware import field_aware_pair_sum, partner_vectors
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, linear_and_factors
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class FFMConfig(ModelConfig):
    """``embed_dim`` factors K for each partner field."""

    embed_dim: int = 4


class FFM(Model):
    """w0 + sum_f w_f + sum_{i<j} <v_i,fj, v_j,fi> (Juan et al. 2016, "Field-aware Factorization Machines", eq. 4).

    The paper has no w0 and w_f; torchfm adds them. Field i's vector for field i itself is never used.
    """

    Config = FFMConfig
    config: FFMConfig

    def __init__(self, config: FFMConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        self.linear = FirstOrder()

    def columns(self, schema: Schema) -> dict[str, Column]:
        return linear_and_factors(self.config, schema, self.config.embed_dim, copies=schema.num_fields)

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def logits(rows, linear, _):
            return linear(rows["linear"]) + field_aware_pair_sum(partner_vectors(rows["factors"]))

        return rows.map(logits, self.linear)

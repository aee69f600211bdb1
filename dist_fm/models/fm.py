"""Factorization machine."""

import dataclasses

import jax
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.dense import FirstOrder
from dist_fm.layers.fm import pair_sum
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, linear_and_factors
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class FMConfig(ModelConfig):
    """``embed_dim`` factors K."""

    embed_dim: int = 16


class FM(Model):
    """Factorization machine, w0 + sum_f w_f + sum_{i<j} <v_i, v_j> (Rendle 2010, "Factorization Machines", eq. 1)."""

    Config = FMConfig
    takes_slots = True
    config: FMConfig

    def __init__(self, config: FMConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        self.linear = FirstOrder()

    def columns(self, schema: Schema) -> dict[str, Column]:
        return linear_and_factors(self.config, schema, self.config.embed_dim)

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        return rows.map(lambda rows, linear, _: linear(rows["linear"]) + pair_sum(rows["factors"]), self.linear)

"""Logistic regression."""

import dataclasses

import jax
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.dense import FirstOrder
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, linear_column
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class LRConfig(ModelConfig):
    """Nothing of its own."""


class LR(Model):
    """Logistic regression: w0 + sum_f w_f."""

    Config = LRConfig
    takes_slots = True

    def __init__(self, config: LRConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        self.linear = FirstOrder()

    def columns(self, schema: Schema) -> dict[str, Column]:
        return {"linear": linear_column(self.config)}

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        return rows.map(lambda rows, linear, _: linear(rows["linear"]), self.linear)

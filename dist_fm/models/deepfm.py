"""DeepFM."""

import dataclasses

import jax
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.dense import FirstOrder
from dist_fm.layers.fm import half_square, less_squares
from dist_fm.layers.mlp import MLP
from dist_fm.layers.products import sum_and_product
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, linear_and_factors
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class DeepFMConfig(ModelConfig):
    """``embed_dim`` factors K, shared by the FM and an MLP of ``mlp_dims`` hidden units with ``dropout``."""

    embed_dim: int = 16
    mlp_dims: tuple[int, ...] = (16, 16)
    dropout: float = 0.2
    batch_norm: bool = True


class DeepFM(Model):
    """An FM and an MLP over the same factors, summed (Guo et al. 2017, "DeepFM", eq. 1)."""

    Config = DeepFMConfig
    config: DeepFMConfig

    def __init__(self, config: DeepFMConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        self.linear = FirstOrder()
        self.mlp = MLP.of(config, schema.num_fields * config.embed_dim, rngs=rngs)

    def columns(self, schema: Schema) -> dict[str, Column]:
        return linear_and_factors(self.config, schema, self.config.embed_dim)

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, network, _):
            linear, first = network
            total, hidden = sum_and_product(rows["factors"], first.kernel[...])
            return linear(rows["linear"]), total, hidden + first.bias[...]

        # The sum is squared out here: its gradient would want the sum again, and every slice of the rows for it.
        linear, total, hidden = rows.map(enter, (self.linear, self.mlp.first), per_row=less_squares)
        return linear + half_square(total) + self.mlp.after_first(hidden, batch.mask, train=train, rngs=rngs)

"""Higher-order factorization machine."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.errors import UserError
from dist_fm.layers.anova import anova_kernels
from dist_fm.layers.dense import FirstOrder
from dist_fm.layers.fm import pair_sum
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, linear_and_factors
from dist_fm.tables.spec import Column

HIGHEST_ORDER = 7


@dataclasses.dataclass(frozen=True)
class HOFMConfig(ModelConfig):
    """``embed_dim`` factors K for each order of interactions from 2 to ``order``; with ``reuse`` the same for all."""

    embed_dim: int = 16
    order: int = 3
    reuse: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not 2 <= self.order <= HIGHEST_ORDER:
            raise UserError(f"model.order = {self.order}: must be from 2 to {HIGHEST_ORDER}")


class HOFM(Model):
    """w0 + sum_f w_f + sum over orders t of the sum over all sets of t fields of sum_k prod_f v^t_fk.

    Blondel et al. 2016, "Higher-Order Factorization Machines", which has both own and shared factors of the orders.
    """

    Config = HOFMConfig
    takes_slots = True
    config: HOFMConfig

    def __init__(self, config: HOFMConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        self.linear = FirstOrder()

    def columns(self, schema: Schema) -> dict[str, Column]:
        orders = 1 if self.config.reuse else self.config.order - 1
        return linear_and_factors(self.config, schema, self.config.embed_dim * orders)

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        return rows.map(
            lambda rows, linear, _: linear(rows["linear"]) + self._interactions(rows["factors"]), self.linear
        )

    def _interactions(self, factors: jax.Array) -> jax.Array:
        """Those of all orders: [B, F, width] -> [B]."""
        width = self.config.embed_dim
        if self.config.reuse:
            _, *kernels = anova_kernels(factors, self.config.order)
            return jnp.concatenate(kernels, axis=1).sum(axis=1)
        total = pair_sum(factors[:, :, :width])
        for order in range(3, self.config.order + 1):
            own = factors[:, :, (order - 2) * width : (order - 1) * width]
            total += anova_kernels(own, order)[-1].sum(axis=1)
        return total

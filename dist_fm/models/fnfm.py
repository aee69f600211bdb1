"""Field-aware neural factorization machine."""

import dataclasses

import jax
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.batch_norm import BatchNorm
from dist_fm.layers.dense import FirstOrder
from dist_fm.layers.dropout import dropout
from dist_fm.layers.field_aware import field_aware_products, partner_vectors
from dist_fm.layers.mlp import MLP
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, flatten_fields, linear_and_factors
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class FNFMConfig(ModelConfig):
    """``embed_dim`` factors K for each partner field; all P*K products into an MLP of ``mlp_dims`` hidden units.

    ``interaction_dropout`` falls on the products, ``dropout`` on the hidden units.
    """

    embed_dim: int = 4
    mlp_dims: tuple[int, ...] = (64,)
    interaction_dropout: float = 0.2
    dropout: float = 0.2


class FNFM(Model):
    """w0 + sum_f w_f + MLP([v_i,fj * v_j,fi for all i < j]).

    Zhang et al. 2019, "Field-aware Neural Factorization Machine for Click-Through Rate Prediction".
    """

    Config = FNFMConfig
    min_fields = 2  # one pair
    config: FNFMConfig

    def __init__(self, config: FNFMConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        features = schema.num_fields * (schema.num_fields - 1) // 2 * config.embed_dim
        self.linear = FirstOrder()
        self.norm = BatchNorm(features)
        self.mlp = MLP(features, config.mlp_dims, dropout=config.dropout, layer_init=config.layer_init, rngs=rngs)

    def columns(self, schema: Schema) -> dict[str, Column]:
        return linear_and_factors(self.config, schema, self.config.embed_dim, copies=schema.num_fields)

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, linear, _):
            products = field_aware_products(partner_vectors(rows["factors"]))
            return linear(rows["linear"]), flatten_fields(products)

        first_order, products = rows.map(enter, self.linear)
        products = self.norm(products, batch.mask, train=train)
        products = dropout(products, self.config.interaction_dropout, train=train, rngs=rngs)
        return first_order + self.mlp(products, batch.mask, train=train, rngs=rngs)

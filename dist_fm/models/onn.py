"""Operation-aware neural network."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.field_aware import field_aware_inner_products, own_vectors, partner_vectors
from dist_fm.layers.mlp import MLP
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, factor_column, flatten_fields
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class ONNConfig(ModelConfig):
    """``embed_dim`` factors K for each operation; an MLP of ``mlp_dims`` hidden units with ``dropout``."""

    embed_dim: int = 4
    mlp_dims: tuple[int, ...] = (64,)
    dropout: float = 0.2
    batch_norm: bool = True


class ONN(Model):
    """MLP([v_i,i for all fields; <v_i,j, v_j,i> for all i < j]).

    Yang et al. 2019, "Operation-aware Neural Networks for User Response Prediction", section 3: a value has one vector
    for the operation of being copied, here v_i,i, and one for each field that it is multiplied with.
    """

    Config = ONNConfig
    min_fields = 2  # one pair
    config: ONNConfig

    def __init__(self, config: ONNConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        fields = schema.num_fields
        self.mlp = MLP.of(config, fields * config.embed_dim + fields * (fields - 1) // 2, rngs=rngs)

    def columns(self, schema: Schema) -> dict[str, Column]:
        return {"factors": factor_column(self.config, schema, self.config.embed_dim, copies=schema.num_fields)}

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, mlp, _):
            vectors = partner_vectors(rows["factors"])
            copies, products = flatten_fields(own_vectors(vectors)), field_aware_inner_products(vectors)
            return mlp(jnp.concatenate([copies, products], axis=1))

        return self.mlp.after_first(rows.map(enter, self.mlp.first), batch.mask, train=train, rngs=rngs)

"""FiBiNET."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.errors import UserError
from dist_fm.layers.bilinear import BILINEAR, BilinearProducts, FieldGates
from dist_fm.layers.fm import pair_firsts, pair_seconds
from dist_fm.layers.mlp import MLP
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, flatten_fields, linear_and_factors
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class FiBiNETConfig(ModelConfig):
    """``embed_dim`` factors K; their ``bilinear`` products, plain and gated, into an MLP of ``mlp_dims`` hidden units.

    ``bilinear``: one matrix for all pairs, one a field, or one a pair. The gates lead all fields through
    F / ``reduction_ratio`` numbers.
    """

    embed_dim: int = 16
    bilinear: str = dataclasses.field(default="field_interaction", metadata={"choices": BILINEAR})
    reduction_ratio: int = 3
    mlp_dims: tuple[int, ...] = (16, 16)
    dropout: float = 0.2
    batch_norm: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.reduction_ratio < 1:
            raise UserError(f"model.reduction_ratio = {self.reduction_ratio}: must be at least 1")


class FiBiNET(Model):
    """sum_f w_f + MLP([p_ij; q_ij for all pairs]), p bilinear products of factors v_i, q of a_i v_i, a a SENET's gates.

    Huang et al. 2019, "FiBiNET: Combining Feature Importance and Bilinear feature Interaction for Click-Through Rate
    Prediction", section 3. p and q share their matrices. w0 is the MLP's output bias.
    """

    Config = FiBiNETConfig
    min_fields = 2  # one pair
    config: FiBiNETConfig

    def __init__(self, config: FiBiNETConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        fields = schema.num_fields
        self.gates = FieldGates(fields, config.reduction_ratio, layer_init=config.layer_init, rngs=rngs)
        self.products = BilinearProducts(
            fields, config.embed_dim, config.bilinear, layer_init=config.layer_init, rngs=rngs
        )
        self.features = fields * (fields - 1) * config.embed_dim
        self.mlp = MLP.of(config, self.features, rngs=rngs)

    def columns(self, schema: Schema) -> dict[str, Column]:
        return linear_and_factors(self.config, schema, self.config.embed_dim)

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, network, _):
            gates_of, products_of, mlp = network
            factors = rows["factors"]
            gates, plain = gates_of(factors)[:, :, None], products_of(factors)
            # A gate is one number a field: ((a_i v_i) W) * (a_j v_j) = a_i a_j ((v_i W) * v_j).
            gated = pair_firsts(gates, gates.shape[1]) * pair_seconds(gates) * plain
            hidden = mlp(flatten_fields(jnp.concatenate([plain, gated], axis=1)))
            return rows["linear"].sum(axis=(1, 2)), hidden

        network = (self.gates, self.products, self.mlp.first)
        first_order, hidden = rows.map(enter, network, floats=self.features)
        return first_order + self.mlp.after_first(hidden, batch.mask, train=train, rngs=rngs)

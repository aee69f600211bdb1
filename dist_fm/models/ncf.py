"""Neural collaborative filtering."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.dense import dense
from dist_fm.layers.mlp import MLP
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, factor_column, flatten_fields
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class NCFConfig(ModelConfig):
    """``embed_dim`` factors K for the user-item product, an MLP of ``mlp_dims`` hidden units with ``dropout``.

    ``variant = "torchfm"``: the MLP reads the same factors, of all fields, with BatchNorm. ``"neumf"``, the paper's:
    the MLP reads the user and the item alone, from factors of its own (``mlp_embed_dim`` a field, 0 = ``embed_dim``),
    without BatchNorm, and the output has no bias; ``dropout = 0`` and ``embed_std = 0.01`` are the paper's too.
    """

    embed_dim: int = 16
    mlp_dims: tuple[int, ...] = (16, 16)
    dropout: float = 0.2
    variant: str = dataclasses.field(default="torchfm", metadata={"choices": ("torchfm", "neumf")})
    mlp_embed_dim: int = 0


class NCF(Model):
    """h . [p_user * q_item; MLP(...)] (He et al. 2017, "Neural Collaborative Filtering", eq. 12).

    Needs one field with the role ``user`` and one with the role ``item``.
    """

    Config = NCFConfig
    config: NCFConfig

    def __init__(self, config: NCFConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        self.user, self.item = schema.field_with_role("user"), schema.field_with_role("item")
        self.is_neumf = config.variant == "neumf"
        self.mlp = MLP(
            2 * (config.mlp_embed_dim or config.embed_dim) if self.is_neumf else schema.num_fields * config.embed_dim,
            config.mlp_dims,
            dropout=config.dropout,
            batch_norm=not self.is_neumf,
            output=False,
            layer_init=config.layer_init,
            rngs=rngs,
        )
        self.output = dense(
            config.embed_dim + config.mlp_dims[-1],
            1,
            use_bias=not self.is_neumf,
            layer_init=config.layer_init,
            rngs=rngs,
        )

    def columns(self, schema: Schema) -> dict[str, Column]:
        config = self.config
        if not self.is_neumf:
            return {"factors": factor_column(config, schema, config.embed_dim)}
        return {
            "gmf": factor_column(config, schema, config.embed_dim),
            "mlp": factor_column(config, schema, config.mlp_embed_dim or config.embed_dim),
        }

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, mlp, _):
            if self.is_neumf:
                shared = rows["gmf"]
                deep = jnp.concatenate([rows["mlp"][:, self.user], rows["mlp"][:, self.item]], axis=-1)
            else:
                shared = rows["factors"]
                deep = flatten_fields(shared)
            return shared[:, self.user] * shared[:, self.item], mlp(deep)

        gmf, hidden = rows.map(enter, self.mlp.first)
        deep = self.mlp.after_first(hidden, batch.mask, train=train, rngs=rngs)
        return self.output(jnp.concatenate([gmf, deep], axis=-1))[:, 0]

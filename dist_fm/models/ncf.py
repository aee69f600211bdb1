"""Neural collaborative filtering."""

import dataclasses
import functools

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
    without BatchNorm, and the output has no bias; ``dropout = 0`` and ``embed_std = 0.01`` are the paper's too. Its
    halves by themselves are ``"gmf"`` and ``"mlp"``, from whose runs NeuMF can start (``--init_from=GMF,MLP``).
    """

    embed_dim: int = 16
    mlp_dims: tuple[int, ...] = (16, 16)
    dropout: float = 0.2
    variant: str = dataclasses.field(default="torchfm", metadata={"choices": ("torchfm", "neumf", "gmf", "mlp")})
    mlp_embed_dim: int = 0


class NCF(Model):
    """h . [p_user * q_item; MLP(...)] (He et al. 2017, "Neural Collaborative Filtering", eq. 12).

    Needs one field with the role ``user`` and one with the role ``item``.
    """

    Config = NCFConfig
    summed_layers = ("gmf_output", "mlp_output")
    config: NCFConfig

    def __init__(self, config: NCFConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        self.user, self.item = schema.field_with_role("user"), schema.field_with_role("item")
        self.is_torchfm = config.variant == "torchfm"
        output = functools.partial(dense, out_features=1, layer_init=config.layer_init, rngs=rngs)
        if config.variant != "gmf":
            own = 2 * (config.mlp_embed_dim or config.embed_dim)
            self.mlp = MLP(
                schema.num_fields * config.embed_dim if self.is_torchfm else own,
                config.mlp_dims,
                dropout=config.dropout,
                batch_norm=self.is_torchfm,
                output=False,
                layer_init=config.layer_init,
                rngs=rngs,
            )
        if self.is_torchfm:
            self.output = output(config.embed_dim + config.mlp_dims[-1])
            return
        # h, in two parts, so that each half has its own.
        if config.variant != "mlp":
            self.gmf_output = output(config.embed_dim, use_bias=False)
        if config.variant != "gmf":
            self.mlp_output = output(config.mlp_dims[-1], use_bias=False)

    def columns(self, schema: Schema) -> dict[str, Column]:
        config = self.config
        if self.is_torchfm:
            return {"factors": factor_column(config, schema, config.embed_dim)}
        halves = {
            "gmf": factor_column(config, schema, config.embed_dim),
            "mlp": factor_column(config, schema, config.mlp_embed_dim or config.embed_dim),
        }
        return halves if config.variant == "neumf" else {config.variant: halves[config.variant]}

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        product = lambda factors: factors[:, self.user] * factors[:, self.item]
        pair = lambda factors: jnp.concatenate([factors[:, self.user], factors[:, self.item]], axis=-1)
        if self.is_torchfm:
            enter = lambda rows, mlp, _: (product(rows["factors"]), mlp(flatten_fields(rows["factors"])))
        elif self.config.variant == "neumf":
            enter = lambda rows, mlp, _: (product(rows["gmf"]), mlp(pair(rows["mlp"])))
        elif self.config.variant == "gmf":
            return self.gmf_output(rows.map(lambda rows, network, _: product(rows["gmf"])))[:, 0]
        else:
            enter = lambda rows, mlp, _: ((), mlp(pair(rows["mlp"])))

        gmf, hidden = rows.map(enter, self.mlp.first)
        deep = self.mlp.after_first(hidden, batch.mask, train=train, rngs=rngs)
        if self.is_torchfm:
            return self.output(jnp.concatenate([gmf, deep], axis=-1))[:, 0]
        logits = self.mlp_output(deep)[:, 0]
        return logits + self.gmf_output(gmf)[:, 0] if self.config.variant == "neumf" else logits

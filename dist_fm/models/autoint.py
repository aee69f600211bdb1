"""AutoInt."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.errors import UserError
from dist_fm.layers.dense import FirstOrder, dense
from dist_fm.layers.mlp import MLP
from dist_fm.layers.self_attention import RESIDUALS, Heads, InteractingLayers, StackedAttention
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, factor_column, flatten_fields, linear_column
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class AutoIntConfig(ModelConfig):
    """``embed_dim`` factors K into ``attention_layers`` of ``num_heads`` heads, ``attention_dim`` wide together.

    ``variant = "torchfm"``: factors are first mapped to that width, layers have biases and an output layer, and the
    ``residual`` and the ReLU come once, at the end. ``"paper"``: they come in every layer, after ``layer_norm`` if
    wished, and there are no biases. ``residual``: a ``projected`` input is added, the input itself (``identity``; where
    its width is another, projected), or ``none``. ``scale`` divides attention scores by the root of a head's width.
    ``linear`` adds first-order weights, an MLP of ``mlp_dims`` hidden units, if there are any, its own logit.
    ``attention_dropout`` falls on the attention weights, ``dropout`` and ``batch_norm`` are the MLP's.
    """

    embed_dim: int = 16
    attention_dim: int = 64
    attention_layers: int = 3
    num_heads: int = 2
    variant: str = dataclasses.field(default="torchfm", metadata={"choices": ("torchfm", "paper")})
    residual: str = dataclasses.field(default="projected", metadata={"choices": RESIDUALS})
    scale: bool = True
    layer_norm: bool = False
    linear: bool = True
    mlp_dims: tuple[int, ...] = (400, 400)
    attention_dropout: float = 0.0
    dropout: float = 0.0
    batch_norm: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.attention_dim % self.num_heads:
            raise UserError(
                f"model.attention_dim = {self.attention_dim} is the width of all heads together: "
                f"model.num_heads = {self.num_heads} must divide it"
            )
        if self.layer_norm and self.variant != "paper":
            raise UserError('model.layer_norm = true: layers are normalised in the form model.variant = "paper" only')


class AutoInt(Model):
    """w0 + sum_f w_f + w . attention(v) + MLP(v).

    Song et al. 2019, "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks", eq. 5 to 9.
    """

    Config = AutoIntConfig
    config: AutoIntConfig

    def __init__(self, config: AutoIntConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        self.linear = FirstOrder() if config.linear else None
        heads = Heads(
            num_fields=schema.num_fields,
            width=config.attention_dim,
            num_heads=config.num_heads,
            scale=config.scale,
            dropout=config.attention_dropout,
            layer_init=config.layer_init,
        )
        layers: dict[str, Any] = {"num_layers": config.attention_layers, "residual": config.residual, "rngs": rngs}
        self.attention: StackedAttention | InteractingLayers
        if config.variant == "torchfm":
            self.attention = StackedAttention(config.embed_dim, heads, **layers)
        else:
            self.attention = InteractingLayers(config.embed_dim, heads, layer_norm=config.layer_norm, **layers)
        self.output = dense(schema.num_fields * config.attention_dim, 1, layer_init=config.layer_init, rngs=rngs)
        self.mlp = MLP.of(config, schema.num_fields * config.embed_dim, rngs=rngs) if config.mlp_dims else None

    def columns(self, schema: Schema) -> dict[str, Column]:
        factors = {"factors": factor_column(self.config, schema, self.config.embed_dim)}
        return {"linear": linear_column(self.config), **factors} if self.config.linear else factors

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, network, keep):
            linear, attention, output = network
            factors = rows["factors"]
            logits = output(flatten_fields(attention(factors, keep)))[:, 0]
            # Attention makes the slices small: the MLP's first layer is better one product over the batch.
            return logits if linear is None else logits + linear(rows["linear"]), flatten_fields(factors)

        layers = self.attention.attentions
        keep = [layer.keep_mask(batch.mask.shape[0], train=train, rngs=rngs) for layer in layers]
        floats = sum(layer.floats for layer in layers)
        logits, x = rows.map(enter, (self.linear, self.attention, self.output), keep, floats=floats)
        return logits if self.mlp is None else logits + self.mlp(x, batch.mask, train=train, rngs=rngs)

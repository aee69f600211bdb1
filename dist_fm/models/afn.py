"""Adaptive factorization network."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.errors import UserError
from dist_fm.layers.dense import FirstOrder, dense
from dist_fm.layers.log_neurons import LogNeurons
from dist_fm.layers.mlp import MLP
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, factor_column, flatten_fields, linear_column
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class AFNConfig(ModelConfig):
    """``embed_dim`` factors K into ``log_neurons`` and an MLP of ``mlp_dims`` hidden units with ``dropout``.

    ``variant = "torchfm"``: neurons by log1p and expm1, and ReLU. ``"paper"``, as its authors compute them: by the
    logarithm of sizes of ``log_floor`` or more, and by exp, with BatchNorm after both. ``linear`` adds first-order
    weights. With ``dnn_dims``, a second MLP with ``dnn_dropout`` reads factors of its own, and the logit is a weighted
    sum of both (AFN+). ``batch_norm`` is the MLPs'.
    """

    embed_dim: int = 16
    log_neurons: int = 1500
    variant: str = dataclasses.field(default="torchfm", metadata={"choices": ("torchfm", "paper")})
    log_floor: float = 1e-4
    linear: bool = True
    mlp_dims: tuple[int, ...] = (400, 400, 400)
    dropout: float = 0.0
    dnn_dims: tuple[int, ...] = ()
    dnn_dropout: float = 0.0
    batch_norm: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.log_floor <= 0:
            raise UserError(f"model.log_floor = {self.log_floor}: must be above 0, which has no logarithm")


class AFN(Model):
    """w0 + sum_f w_f + MLP([prod_i |v_i| ^ w_ij for all neurons j]).

    Cheng et al. 2020, "Adaptive Factorization Network: Learning Adaptive-Order Feature Interactions".
    """

    Config = AFNConfig
    config: AFNConfig

    def __init__(self, config: AFNConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        self.linear = FirstOrder() if config.linear else None
        self.neurons = LogNeurons(
            schema.num_fields,
            config.log_neurons,
            floor=config.log_floor if config.variant == "paper" else 0.0,
            layer_init=config.layer_init,
            rngs=rngs,
        )
        self.mlp = self._mlp(config.log_neurons * config.embed_dim, config.mlp_dims, config.dropout, rngs)
        deep = config.dnn_dims
        features = schema.num_fields * config.embed_dim
        self.dnn = self._mlp(features, deep, config.dnn_dropout, rngs) if deep else None
        self.ensemble = dense(2, 1, layer_init=config.layer_init, rngs=rngs) if deep else None

    def _mlp(self, in_features: int, dims: tuple[int, ...], dropout: float, rngs: nnx.Rngs) -> MLP:
        return MLP(
            in_features,
            dims,
            dropout=dropout,
            batch_norm=self.config.batch_norm,
            layer_init=self.config.layer_init,
            rngs=rngs,
        )

    def columns(self, schema: Schema) -> dict[str, Column]:
        factors = factor_column(self.config, schema, self.config.embed_dim)
        columns = {"linear": linear_column(self.config)} if self.config.linear else {}
        columns["factors"] = factors
        return {**columns, "dnn_factors": factors} if self.config.dnn_dims else columns

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, network, _):
            linear, dnn = network
            first_order = None if linear is None else linear(rows["linear"])
            hidden = None if dnn is None else dnn(flatten_fields(rows["dnn_factors"]))
            return first_order, hidden, self.neurons.logs(rows["factors"])

        first_order, hidden, logs = rows.map(enter, (self.linear, None if self.dnn is None else self.dnn.first))
        # Thousands of neurons are better one product over the batch than cut into slices.
        products = self.neurons(logs, batch.mask, train=train)
        logits = self.mlp(products, batch.mask, train=train, rngs=rngs)
        if self.dnn is not None and self.ensemble is not None:
            deep = self.dnn.after_first(hidden, batch.mask, train=train, rngs=rngs)
            logits = self.ensemble(jnp.stack([logits, deep], axis=1))[:, 0]
        return logits if first_order is None else logits + first_order

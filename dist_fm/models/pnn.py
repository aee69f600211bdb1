"""Product-based neural network."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.fm import pair_products
from dist_fm.layers.mlp import MLP
from dist_fm.layers.outer import KERNELS, OuterProducts
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, factor_column, flatten_fields
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class PNNConfig(ModelConfig):
    """``embed_dim`` factors K and the products of all pairs, into an MLP of ``mlp_dims`` hidden units with ``dropout``.

    ``product``: ``inner`` ones (IPNN), ``outer`` ones (OPNN) weighted by a pair's ``kernel``, which is a matrix, a
    vector or a number, or ``both``.
    """

    embed_dim: int = 16
    product: str = dataclasses.field(default="inner", metadata={"choices": ("inner", "outer", "both")})
    kernel: str = dataclasses.field(default="mat", metadata={"choices": KERNELS})
    mlp_dims: tuple[int, ...] = (16,)
    dropout: float = 0.2
    batch_norm: bool = True


class PNN(Model):
    """MLP([v; <v_i, v_j> for all pairs; v_i^T M_ij v_j for all pairs]).

    Qu et al. 2016, "Product-based Neural Networks for User Response Prediction", in the form of its extension of 2018
    and of torchfm, whose table of first-order weights has no part in the logit and is left out.
    """

    Config = PNNConfig
    min_fields = 2  # one pair
    config: PNNConfig

    def __init__(self, config: PNNConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        fields = schema.num_fields
        kinds = 2 if config.product == "both" else 1
        self.outer = (
            None
            if config.product == "inner"
            else OuterProducts(fields, config.embed_dim, config.kernel, layer_init=config.layer_init, rngs=rngs)
        )
        self.mlp = MLP.of(config, fields * config.embed_dim + kinds * fields * (fields - 1) // 2, rngs=rngs)

    def columns(self, schema: Schema) -> dict[str, Column]:
        return {"factors": factor_column(self.config, schema, self.config.embed_dim)}

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, network, _):
            outer, mlp = network
            factors = rows["factors"]
            features = [flatten_fields(factors)]
            if self.config.product != "outer":
                features.append(pair_products(factors).sum(axis=2))
            if outer is not None:
                features.append(outer(factors))
            return mlp(jnp.concatenate(features, axis=1))

        floats = 0 if self.outer is None else self.outer.floats
        hidden = rows.map(enter, (self.outer, self.mlp.first), floats=floats)
        return self.mlp.after_first(hidden, batch.mask, train=train, rngs=rngs)

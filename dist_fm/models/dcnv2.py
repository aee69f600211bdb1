"""DCN V2."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.errors import UserError
from dist_fm.layers.cross import CrossNetwork, ExpertsCross, MatrixCross
from dist_fm.layers.dense import dense
from dist_fm.layers.mlp import MLP
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, factor_column, flatten_fields
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class DCNv2Config(ModelConfig):
    """``embed_dim`` factors K into ``cross_layers`` cross layers and an MLP of ``mlp_dims`` hidden units.

    A layer's matrix has ``low_rank`` (0: it is full), or each of its ``num_experts`` has (DCN-Mix). ``structure``: the
    MLP reads the factors beside the cross network (``parallel``), or what comes out of it (``stacked``); with
    ``mlp_dims = ()`` there is no MLP. ``dropout`` and ``batch_norm`` are the MLP's.
    """

    embed_dim: int = 16
    cross_layers: int = 3
    low_rank: int = 0
    num_experts: int = 1
    structure: str = dataclasses.field(default="parallel", metadata={"choices": ("parallel", "stacked")})
    mlp_dims: tuple[int, ...] = (16, 16)
    dropout: float = 0.2
    batch_norm: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.low_rank < 0:
            raise UserError(f"model.low_rank = {self.low_rank}: must be at least 0, which is a full matrix")
        if self.num_experts > 1 and self.low_rank == 0:
            raise UserError(f"model.num_experts = {self.num_experts}: experts are of low rank; give model.low_rank")


class DCNv2(Model):
    """w . [cross(x); MLP(x)] or w . MLP(cross(x)), x all factors.

    Wang et al. 2021, "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
    Systems", section 3.
    """

    Config = DCNv2Config
    config: DCNv2Config

    def __init__(self, config: DCNv2Config, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        width = schema.num_fields * config.embed_dim
        self.cross = CrossNetwork(self._cross_layer(width, rngs) for _ in range(config.cross_layers))
        self.mlp = MLP.of(config, width, output=False, rngs=rngs) if config.mlp_dims else None
        self.is_stacked = self.mlp is not None and config.structure == "stacked"
        features = sum(config.mlp_dims[-1:]) + (0 if self.is_stacked else width)
        self.output = dense(features, 1, layer_init=config.layer_init, rngs=rngs)

    def _cross_layer(self, width: int, rngs: nnx.Rngs) -> MatrixCross | ExpertsCross:
        config = self.config
        if config.num_experts == 1:
            return MatrixCross(width, low_rank=config.low_rank, layer_init=config.layer_init, rngs=rngs)
        return ExpertsCross(
            width, low_rank=config.low_rank, num_experts=config.num_experts, layer_init=config.layer_init, rngs=rngs
        )

    def columns(self, schema: Schema) -> dict[str, Column]:
        return {"factors": factor_column(self.config, schema, self.config.embed_dim)}

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, network, _):
            cross, first = network
            x = flatten_fields(rows["factors"])
            crossed = cross(x)
            return crossed, None if first is None else first(crossed if self.is_stacked else x)

        crossed, hidden = rows.map(enter, (self.cross, None if self.mlp is None else self.mlp.first))
        if self.mlp is None:
            return self.output(crossed)[:, 0]
        deep = self.mlp.after_first(hidden, batch.mask, train=train, rngs=rngs)
        return self.output(deep if self.is_stacked else jnp.concatenate([crossed, deep], axis=-1))[:, 0]

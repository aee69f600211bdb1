"""xDeepFM."""

import dataclasses

import jax
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.layers.cin import CIN
from dist_fm.layers.dense import FirstOrder, dense
from dist_fm.layers.mlp import MLP
from dist_fm.models.base import Batch, Model, ModelConfig, Rows, flatten_fields, linear_and_factors
from dist_fm.tables.spec import Column


@dataclasses.dataclass(frozen=True)
class XDeepFMConfig(ModelConfig):
    """``embed_dim`` factors K into a CIN of ``cross_layer_sizes`` maps and an MLP of ``mlp_dims`` hidden units.

    ``split_half``: half of a CIN layer's maps is output, the other half feeds the next layer. ``cin_activation``:
    ``linear`` was the paper's best. ``dropout`` and ``batch_norm`` are the MLP's.
    """

    embed_dim: int = 16
    cross_layer_sizes: tuple[int, ...] = (16, 16)
    split_half: bool = False
    cin_activation: str = dataclasses.field(default="relu", metadata={"choices": ("relu", "linear")})
    mlp_dims: tuple[int, ...] = (16, 16)
    dropout: float = 0.2
    batch_norm: bool = True


class XDeepFM(Model):
    """A linear model, a compressed interaction network and an MLP, summed (Lian et al. 2018, "xDeepFM", eq. 9)."""

    Config = XDeepFMConfig
    config: XDeepFMConfig

    def __init__(self, config: XDeepFMConfig, schema: Schema, *, rngs: nnx.Rngs):
        self.config = config
        self.linear = FirstOrder()
        self.cin = CIN(
            schema.num_fields,
            config.cross_layer_sizes,
            split_half=config.split_half,
            activation=config.cin_activation,
            layer_init=config.layer_init,
            rngs=rngs,
        )
        self.cin_output = dense(self.cin.features, 1, layer_init=config.layer_init, rngs=rngs)
        self.mlp = MLP.of(config, schema.num_fields * config.embed_dim, rngs=rngs)

    def columns(self, schema: Schema) -> dict[str, Column]:
        return linear_and_factors(self.config, schema, self.config.embed_dim)

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        def enter(rows, network, _):
            linear, cin, mlp = network
            factors = rows["factors"]
            return linear(rows["linear"]), self.cin.apply(cin, factors), mlp(flatten_fields(factors))

        network = (self.linear, self.cin.weights(), self.mlp.first)
        first_order, maps, hidden = rows.map(enter, network, floats=self.cin.floats(self.config.embed_dim))
        implicit = self.mlp.after_first(hidden, batch.mask, train=train, rngs=rngs)
        return first_order + self.cin_output(maps)[:, 0] + implicit

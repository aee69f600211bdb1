"""The contract of a model: it states the columns it wants per table row, and receives the rows already looked up."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax
from flax import nnx

from dist_fm.data.schema import Schema
from dist_fm.errors import UserError
from dist_fm.layers.dense import LAYER_INITS
from dist_fm.tables.spec import Column, Initializer, PerRow, PerSample, normal, uniform, zeros


class Rows(Protocol):
    """The table rows of a batch: [B, F, width] a column, F inputs, which are fields or slots of an unpooled one."""

    @property
    def filled(self) -> jax.Array | None:
        """Which inputs are there, bool [B, F]; None: all of them. One that is not there is a row of zeros."""
        ...

    def map(
        self, function: PerSample, network: Any = (), samples: Any = (), *, floats: int = 0, per_row: PerRow = dict
    ) -> Any:
        """``function(rows, network, samples)`` over the samples, in slices that stay in the cache.

        In the function ``rows[name]`` is [b, F, width], b samples of the batch; ``network`` is what it needs of the
        model (layers, weights), ``samples`` arrays [b, ...] cut from [B, ...], such as dropout's masks. It must treat
        each sample by itself and close over no array. Returns its outputs, [B, ...]. ``floats``: numbers it makes for
        one sample at a time, where these are more than its rows. ``per_row`` makes the columns that the function gets,
        of the same names and widths, of an input's, [..., width] each; where inputs are table rows, once for each such
        row, of a sharded table by the device that owns it.
        """
        ...


class GivenRows:
    """Rows at hand, [B, F, width] by column name: what a model gets without an engine."""

    def __init__(self, rows: Mapping[str, jax.Array], filled: jax.Array | None = None):
        self.rows, self.filled = rows, filled

    def map(
        self, function: PerSample, network: Any = (), samples: Any = (), *, floats: int = 0, per_row: PerRow = dict
    ) -> Any:
        """As `Rows.map`, all samples at once."""
        return function(per_row(self.rows), network, samples)


class Batch(Protocol):
    """What a model may read of a batch besides its rows."""

    @property
    def mask(self) -> jax.Array:
        """float [B]: 0 where a sample is padding."""
        ...


SIZES = ("_dim", "_dims", "_sizes", "_layers", "_heads", "_experts", "_neurons")  # how names of sizes end


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters every model has.

    ``init``: ``default`` starts first-order weights at zero and factors Xavier-uniform as torchfm 0.7.0 does;
    ``torchfm`` also draws first-order weights from N(0, 1), as torchfm does. ``embed_std`` > 0 draws factors from
    N(0, embed_std^2) instead. ``layer_init``: dense layers start as torch.nn.Linear's (``torch``), or with
    Xavier-normal kernels and zero biases (``xavier_normal``).
    """

    init: str = dataclasses.field(default="default", metadata={"choices": ("default", "torchfm")})
    embed_std: float = 0.0
    layer_init: str = dataclasses.field(default="torch", metadata={"choices": LAYER_INITS})

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            smallest = 0 if name == "mlp_embed_dim" else 1
            sizes = value if isinstance(value, tuple) else (value,)
            if name.endswith("dropout") and not 0 <= value < 1:
                raise UserError(f"model.{name} = {value}: must be at least 0 and below 1")
            if name.endswith(SIZES) and any(size < smallest for size in sizes):
                raise UserError(f"model.{name} = {value}: must be at least {smallest}")
            if name == "embed_std" and value < 0:
                raise UserError(f"model.{name} = {value}: must be at least 0")


class Model(nnx.Module):
    """Base of all models: rows in, logits out.

    A subclass sets ``Config``, builds its network in ``__init__(config, schema, *, rngs)``, states its table columns
    in ``columns(schema)`` and computes ``__call__(rows, batch, *, train, rngs)``.

    The network's arrays are ``nnx.Param`` (trained) and ``nnx.BatchStat`` (BatchNorm's running statistics), nothing
    else. Weights that L2 may shrink are called ``kernel`` and have two axes or more; ``bias`` and ``scale`` have one.

    ``takes_slots`` says that it treats all inputs alike and heeds which are there, so that the slots of a field may
    come unpooled; F is then the schema's ``num_inputs``. ``summed_layers`` names layers whose outputs are parts of the
    logit, each of which may be trained by itself first, as in `dist_fm.training.warm_start`.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    min_fields: ClassVar[int] = 1
    takes_slots: ClassVar[bool] = False
    summed_layers: ClassVar[tuple[str, ...]] = ()
    config: ModelConfig

    def __init__(self, config: ModelConfig, schema: Schema, *, rngs: nnx.Rngs):
        raise NotImplementedError

    def columns(self, schema: Schema) -> dict[str, Column]:
        """The columns this model wants per table row, by name."""
        raise NotImplementedError

    def __call__(self, rows: Rows, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Logits [B] from the batch's ``rows``; ``rngs.dropout`` is read only when ``train``.

        What concerns one sample at a time goes into ``rows.map``; BatchNorm, dropout and what follows them do not.
        """
        raise NotImplementedError


def linear_column(config: ModelConfig) -> Column:
    """First-order weights: one number a row, zero at first (N(0, 1) with ``init = "torchfm"``)."""
    return Column(1, normal(1.0) if config.init == "torchfm" else zeros)


def factor_column(config: ModelConfig, schema: Schema, width: int, *, copies: int = 1) -> Column:
    """``copies`` factors of ``width`` numbers a row, each Xavier-uniform over [rows, width] unless ``embed_std`` > 0.

    Field-aware models ask for one copy a partner field.
    """
    return Column(width * copies, factor_init(config, schema, width), parts=copies)


def linear_and_factors(config: ModelConfig, schema: Schema, width: int, *, copies: int = 1) -> dict[str, Column]:
    """The columns of most models: first-order weights, and factors as ``factor_column`` has them."""
    return {"linear": linear_column(config), "factors": factor_column(config, schema, width, copies=copies)}


def factor_init(config: ModelConfig, schema: Schema, width: int) -> Initializer:
    if config.embed_std > 0:
        return normal(config.embed_std)
    return uniform((6.0 / (schema.num_rows + width)) ** 0.5)


def flatten_fields(rows: jax.Array) -> jax.Array:
    """[B, F, K] -> [B, F*K], what an MLP reads."""
    return rows.reshape(rows.shape[0], -1)

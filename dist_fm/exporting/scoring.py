"""A trained model as one function from a batch's ids to predictions, computed as evaluation does."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dist_fm.models.base import GivenRows
from dist_fm.tables.per_sample import pooled
from dist_fm.training.state import Network, TrainState
from dist_fm.training.step import Engine

ZEROS_AROUND = ((1, 1), (0, 0))  # a row of zeros before a table's and one after them, which ids outside it read


def in_float32(engine: Engine) -> Engine:
    """``engine``, computing in float32 what it was trained to compute in bfloat16 (``train.bf16``).

    Other runtimes round to bfloat16 at other places, and one such difference is larger than what exports may differ by.
    """
    train = dataclasses.replace(engine.config.train, bf16=False)
    return Engine(dataclasses.replace(engine.config, train=train), engine.schema, engine.mesh)


class Weights(NamedTuple):
    """What a model has learnt, as NumPy arrays; a pytree."""

    table: dict[str, np.ndarray]  # by column, float32 [R + 2, width]: zeros, the logical rows in order, zeros
    params: Network
    stats: Network  # BatchNorm's running statistics


class RealSamples(NamedTuple):
    """What a model may read of a batch, none of whose samples is padding."""

    mask: jax.Array


class Scoring:
    """The function that is exported, and its inputs and output by name; S slots, R rows of the table."""

    def __init__(self, engine: Engine, weights: Weights):
        self.engine, self.weights = engine, weights
        self.schema = engine.schema
        self.inputs = {"ids": np.dtype("int32")} | ({"values": np.dtype("float32")} if self.schema.has_values else {})
        self.output = "prediction" if engine.config.train.loss == "mse" else "probability"

    @classmethod
    def of(cls, engine: Engine, state: TrainState) -> "Scoring":
        """The function of a state, whose table may lie on several devices of this host."""
        physical = engine.spec.physical(np.arange(engine.spec.rows))
        table = engine.spec.numbers(state.table)
        logical = lambda part: np.pad(table[physical, part].astype(np.float32), ZEROS_AROUND)
        by_column = {name: logical(part) for name, part in engine.layout.slices.items()}
        return cls(engine, Weights(by_column, *jax.tree.map(np.asarray, (state.params, state.stats))))

    @property
    def num_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(array.nbytes for array in jax.tree.leaves(self.weights))

    def abstract_inputs(self) -> list[jax.ShapeDtypeStruct]:
        """The inputs with any number of rows, ``batch`` in number: [batch, S] each."""
        (batch,) = jax.export.symbolic_shape("batch")
        return [jax.ShapeDtypeStruct((batch, self.schema.num_slots), dtype) for dtype in self.inputs.values()]

    def __call__(self, weights: Weights, ids: jax.Array, values: jax.Array | None = None) -> jax.Array:
        """Predictions float32 [B] for logical rows ``ids`` int32 [B, S] and, if the schema has them, ``values`` [B, S].

        An id that is no row of the table, such as an empty slot's, adds nothing.
        """
        places = jnp.expand_dims(jnp.minimum(jnp.maximum(ids, -1), self.schema.num_rows) + 1, 2)
        columns = {name: _rows(jnp.asarray(part), places) for name, part in weights.table.items()}
        given = GivenRows(pooled(columns, values, self.schema.slot_inputs), self.schema.filled_inputs(values))
        samples = RealSamples(jnp.ones(ids.shape[:1], jnp.float32))
        logits, _ = self.engine.logits_of(given, weights.params, weights.stats, samples)
        return logits if self.output == "prediction" else jax.nn.sigmoid(logits)

    def of_inputs(self, *inputs: Any) -> jax.Array:
        """``__call__`` with the weights as constants."""
        return self(self.weights, *inputs)


def _rows(column: jax.Array, places: jax.Array) -> jax.Array:
    """Rows [B, S, width] of ``column`` at ``places`` [B, S, 1]: by one plain gather, which each format has."""
    numbers = jax.lax.GatherDimensionNumbers(offset_dims=(2,), collapsed_slice_dims=(0,), start_index_map=(0,))
    return jax.lax.gather(column, places, numbers, (1, column.shape[1]), mode="promise_in_bounds")

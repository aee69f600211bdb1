"""What a model asks of the embedding table (columns), and how they lie in one physical row."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]

# function(rows by column name, each [..., width]) -> columns of the same rows, names and widths
PerRow = Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]]
# function(rows by column name, each [b, F, width]; the network; arrays by sample) -> arrays with b in front
PerSample = Callable[[Mapping[str, jax.Array], Any, Any], Any]


def uniform(bound: float) -> Initializer:
    """Draws from U(-bound, bound)."""
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def normal(std: float) -> Initializer:
    """Draws from N(0, std^2)."""
    return lambda key, shape, dtype: jax.random.normal(key, shape, dtype) * jnp.asarray(std, dtype)


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """All zeros."""
    return jnp.zeros(shape, dtype)


@dataclasses.dataclass(frozen=True)
class Column:
    """``width`` floats per table row, with ``init(key, [rows, width], dtype)`` for their first values.

    They are ``parts`` vectors, one after the other, each with a row-wise state of its own.
    """

    width: int
    init: Initializer
    parts: int = 1


@dataclasses.dataclass(frozen=True)
class RowLayout:
    """Where each column lies in the physical row: ``slices`` by name, ``width`` floats in all."""

    columns: Mapping[str, Column]

    @property
    def width(self) -> int:
        return sum(column.width for column in self.columns.values())

    @property
    def slices(self) -> dict[str, slice]:
        slices, start = {}, 0
        for name, column in self.columns.items():
            slices[name] = slice(start, start + column.width)
            start += column.width
        return slices


COARSE, FINE, FINE_BELOW = 40_320, 5_040, 400_000
NEIGHBOURS = 8  # rows that stay together; a power of two
INIT_BLOCK = 16_384  # rows drawn at a time


@dataclasses.dataclass(frozen=True)
class TableSpec:
    """One physical table: ``rows`` logical rows spread over ``padded_rows`` physical ones, one layout for any mesh.

    Popular ids are small, so each group of 8 neighbours is put elsewhere: group g becomes (g x ``multiplier``) mod
    ``padded_rows`` / 8. The rule depends on the table alone, and gives every shard of a contiguous split its part of
    the popular rows, of which a memory page and often a cache line still hold several (a DeepFM step is 6 % shorter
    than with rows spread one by one). ``padded_rows`` divides by every device count up to 10 (5,040, and 40,320 from
    400,000 rows on, have many divisors). Padding rows are zero.
    """

    rows: int
    layout: RowLayout
    dtype: Any = jnp.float32

    @property
    def stored(self) -> Any:
        """The type of the table's array: that of its numbers, but uint16 for the bits of bfloat16 (`as_stored`)."""
        return jnp.uint16 if self.dtype == jnp.bfloat16 else self.dtype

    def numbers(self, table: Any) -> np.ndarray:
        """The numbers of a table's array, on the host."""
        return np.asarray(table).view(np.dtype(self.dtype))

    @functools.cached_property
    def padded_rows(self) -> int:
        multiple = FINE if self.rows < FINE_BELOW else COARSE
        return -(-self.rows // multiple) * multiple

    @functools.cached_property
    def multiplier(self) -> int:
        """The number nearest above 0.618 x the groups that is coprime to them, so that the rule is a permutation."""
        groups = self.padded_rows // NEIGHBOURS
        candidate = int(groups * 0.6180339887)
        while math.gcd(candidate, groups) != 1:
            candidate += 1
        return candidate

    def physical(self, rows: np.ndarray) -> np.ndarray:
        """Physical rows of logical ``rows``, any shape; int32. Negative (empty) rows are not allowed."""
        groups = self.padded_rows // NEIGHBOURS
        product = rows.astype(np.int64) // NEIGHBOURS * self.multiplier
        # Remainders by way of a quotient and of bits: NumPy's own operator takes several times as long.
        group = product - product // groups * groups
        return (group * NEIGHBOURS + (rows & (NEIGHBOURS - 1))).astype(np.int32)

    def padding(self) -> np.ndarray:
        """The physical rows that hold no logical row: int32 [padded_rows - rows]."""
        return self.physical(np.arange(self.rows, self.padded_rows))

    def init(self, key: jax.Array, first: jax.Array | int = 0, rows: int | None = None) -> jax.Array:
        """First values [rows, width] of the physical rows from ``first`` on (all of them by default).

        A row is drawn from (key, column, physical row) alone, so any shard can be made by itself; and in blocks, so
        that the random bits in the making stay small beside the table.
        """
        rows = self.padded_rows if rows is None else rows
        block = _largest_divisor(rows, INIT_BLOCK)

        def fill(i: jax.Array, table: jax.Array) -> jax.Array:
            values = as_stored(self._draw(key, first + i * block + jnp.arange(block)))
            return jax.lax.dynamic_update_slice(table, values, (i * block, 0))

        table = jax.lax.fori_loop(0, rows // block, fill, jnp.zeros((rows, self.layout.width), self.stored))
        padding = self.padding() - first
        return table.at[jnp.where(padding < 0, rows, padding)].set(0, mode="drop")

    def _draw(self, key: jax.Array, physical: jax.Array) -> jax.Array:
        columns = []
        for name, column in self.layout.columns.items():
            stream = jax.random.fold_in(key, zlib.crc32(name.encode()))
            draw = lambda row, stream=stream, column=column: column.init(
                jax.random.fold_in(stream, row), (column.width,), self.dtype
            )
            columns.append(jax.vmap(draw)(physical))
        return jnp.concatenate(columns, 1)


def as_stored(rows: jax.Array) -> jax.Array:
    """``rows`` as the table's array holds them: bfloat16 as its bits.

    XLA's CPU backend scatters bfloat16 by way of the whole table in float32.
    """
    return jax.lax.bitcast_convert_type(rows, jnp.uint16) if rows.dtype == jnp.bfloat16 else rows


def as_numbers(stored: jax.Array) -> jax.Array:
    """The numbers of what ``as_stored`` made, or of rows of slots."""
    return jax.lax.bitcast_convert_type(stored, jnp.bfloat16) if stored.dtype == jnp.uint16 else stored


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)

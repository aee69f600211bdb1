"""What a model asks of the embedding table (columns), and how they lie in one physical row."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]


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
    """``width`` floats per table row, with ``init(key, [rows, width], dtype)`` for their first values."""

    width: int
    init: Initializer


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

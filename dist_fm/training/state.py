"""Everything a training step changes, as one pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """``step`` batches have been learnt from; it is also the data position."""

    step: jax.Array  # int32 scalar
    table: jax.Array  # [R', W]
    slots: dict[str, jax.Array] | None  # [R', w] each, of the row optimizers; None where there are none
    params: nnx.State  # the network
    stats: nnx.State  # BatchNorm's running statistics
    optimizer: Any  # optax's state
    lr_scale: jax.Array  # scalar, lowered on plateaus

    @classmethod
    def create(
        cls,
        table: jax.Array,
        slots: dict[str, jax.Array] | None,
        params: nnx.State,
        stats: nnx.State,
        optimizer: Any,
    ) -> "TrainState":
        return cls(jnp.zeros((), jnp.int32), table, slots, params, stats, optimizer, jnp.ones((), jnp.float32))


def named(state: nnx.State) -> dict[str, jax.Array]:
    """The arrays of a network by name: `mlp.layers.0.kernel`."""
    return {_name(path): array for path, array in jax.tree_util.tree_leaves_with_path(state)}


def unnamed(like: nnx.State, arrays: dict[str, jax.Array]) -> nnx.State:
    """``named``'s inverse."""
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[_name(path)], like)


def _name(path: tuple) -> str:
    keys = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    return ".".join(key for key in keys if key != "value")

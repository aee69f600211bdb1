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

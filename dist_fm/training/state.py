"""Everything a training step changes, as one pytree."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Network = dict[Any, Any]  # arrays by the model's attributes, nested: {"mlp": {"hidden": {0: {"kernel": ...}}}}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """``step`` batches have been learnt from; it is also the data position.

    Of plain dicts and arrays alone: what flax has of its own in their place costs every step a quarter of a millisecond
    of Python.
    """

    step: jax.Array  # int32 scalar
    table: jax.Array  # [R', W]
    slots: dict[str, jax.Array] | None  # [R', w] each, of the row optimizers; None where there are none
    params: Network
    stats: Network  # BatchNorm's running statistics
    optimizer: Any  # optax's state
    lr_scale: jax.Array  # scalar, lowered on plateaus

    @classmethod
    def create(
        cls,
        table: jax.Array,
        slots: dict[str, jax.Array] | None,
        params: Network,
        stats: Network,
        optimizer: Any,
    ) -> "TrainState":
        return cls(jnp.zeros((), jnp.int32), table, slots, params, stats, optimizer, jnp.ones((), jnp.float32))


def network_of(model: nnx.Module) -> tuple[Network, Network]:
    """The parameters of ``model``, and its running statistics."""
    params, stats = (nnx.to_pure_dict(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat))
    return params, stats


def named(network: Network) -> dict[str, jax.Array]:
    """The arrays of a network by name: `mlp.hidden.0.kernel`."""
    return {_name(path): array for path, array in jax.tree_util.tree_leaves_with_path(network)}


def unnamed(like: Network, arrays: Mapping[str, Any]) -> Network:
    """``named``'s inverse."""
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[_name(path)], like)


def _name(path: tuple) -> str:
    return ".".join(str(key.key) for key in path)

"""From a batch's unique ids to the rows a model receives, and the gradient's way back. Table: replicated."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from dist_fm.tables.spec import RowLayout


def gather_unique(table: jax.Array, unique: jax.Array) -> jax.Array:
    """Rows [U, W] of ``table`` [R', W]; an out-of-range id reads zeros (JAX's default, NaN, times 0 would be NaN)."""
    return table.at[unique].get(mode="fill", fill_value=0, unique_indices=True, indices_are_sorted=True)


def spread(
    unique_rows: jax.Array, inverse: jax.Array, values: jax.Array | None, slot_fields: np.ndarray, mesh: Mesh
) -> jax.Array:
    """Field rows [B, F, W]: for each field the sum over its slots of value x row.

    ``unique_rows`` [U, W] are on every device, ``inverse`` [B, S] and ``values`` [B, S] split by samples. Its transpose
    sums a row's duplicates on each device, then once over devices: U x W floats travel, never the table.
    """

    def local(unique_rows, inverse, values):
        rows = unique_rows[inverse]
        if values is not None:
            rows = rows * values[:, :, None].astype(rows.dtype)
        return _sum_slots(rows, slot_fields)

    split = P(mesh.axis_names)
    if values is None:
        return jax.shard_map(lambda u, i: local(u, i, None), mesh=mesh, in_specs=(P(), split), out_specs=split)(
            unique_rows, inverse
        )
    return jax.shard_map(local, mesh=mesh, in_specs=(P(), split, split), out_specs=split)(unique_rows, inverse, values)


def _sum_slots(rows: jax.Array, slot_fields: np.ndarray) -> jax.Array:
    """[B, S, W] -> [B, F, W]; the identity when every field has one slot."""
    fields = int(slot_fields[-1]) + 1
    if len(slot_fields) == fields:
        return rows
    bounds = np.searchsorted(slot_fields, np.arange(fields + 1))
    parts = [rows[:, a:b].sum(1, keepdims=True) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    return jnp.concatenate(parts, 1)


def columns(rows: jax.Array, layout: RowLayout) -> dict[str, jax.Array]:
    """Cuts physical rows [..., W] into the model's columns by name."""
    return {name: rows[..., part] for name, part in layout.slices.items()}


def set_unique(table: jax.Array, unique: jax.Array, rows: jax.Array) -> jax.Array:
    """``table`` [R', W] with ``rows`` [U, W] at ``unique`` [U]; out-of-range ids are dropped."""
    return table.at[unique].set(rows, mode="drop", unique_indices=True, indices_are_sorted=True)


def scatter_unique(gradient: jax.Array, unique: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The dense gradient [R', W] of unique-row gradients [U, W]."""
    return set_unique(jnp.zeros(shape, gradient.dtype), unique, gradient)

"""Some rows of a table by their numbers, wherever they lie: to copy tables, not to train. O(rows asked for) travels."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dist_fm.tables.lookup import DEVICE, HOST, Lookup


@functools.partial(jax.jit, static_argnums=0)
def take(lookup: Lookup, table: jax.Array, numbers: jax.Array) -> jax.Array:
    """Physical rows ``numbers`` [N] of ``table`` [R', W], on every device; zeros for a number out of range."""
    if not lookup.sharded:
        return _take(table, numbers)

    def local(table: jax.Array, numbers: jax.Array) -> jax.Array:
        return jax.lax.psum(_take(table, _in_shard(lookup, numbers)), (HOST, DEVICE))

    return jax.shard_map(local, mesh=lookup.mesh, in_specs=(lookup.table, P()), out_specs=P(), check_vma=False)(
        table, numbers
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def put(lookup: Lookup, table: jax.Array, numbers: jax.Array, rows: jax.Array) -> jax.Array:
    """``table`` with ``rows`` [N, W] at distinct ``numbers`` [N]; those out of range are dropped."""

    def local(table: jax.Array, numbers: jax.Array, rows: jax.Array) -> jax.Array:
        numbers = _in_shard(lookup, numbers) if lookup.sharded else numbers
        return table.at[numbers].set(rows.astype(table.dtype), mode="drop", unique_indices=True)

    new = jax.shard_map(
        local, mesh=lookup.mesh, in_specs=(lookup.table, P(), P()), out_specs=lookup.table, check_vma=False
    )(table, numbers, rows)
    return jax.lax.with_sharding_constraint(new, NamedSharding(lookup.mesh, lookup.table))


def _take(table: jax.Array, numbers: jax.Array) -> jax.Array:
    return table.at[numbers].get(mode="fill", fill_value=0)


def _in_shard(lookup: Lookup, numbers: jax.Array) -> jax.Array:
    """``numbers`` from the start of this device's shard; distinct ones past the table for those of other shards."""
    size = lookup.spec.padded_rows // lookup.mesh.size
    mine = numbers - jax.lax.axis_index((HOST, DEVICE)) * size
    elsewhere = lookup.spec.padded_rows + jnp.arange(len(numbers))
    return jnp.where((mine >= 0) & (mine < size), mine, elsewhere)

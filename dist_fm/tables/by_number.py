"""Some rows of a table by their numbers, wherever they lie: to copy tables, not to train. O(rows asked for) travels."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from dist_fm.tables.lookup import DEVICE, HOST, Lookup, read_rows, write_rows


@functools.partial(jax.jit, static_argnums=0)
def take(lookup: Lookup, table: jax.Array, numbers: jax.Array) -> jax.Array:
    """Physical rows ``numbers`` [N] of ``table`` [R', W], on every device; zeros for a number out of range."""
    if not lookup.sharded:
        return read_rows(table, numbers)

    def local(table: jax.Array, numbers: jax.Array, first: jax.Array) -> jax.Array:
        return jax.lax.psum(read_rows(table, _in_shard(lookup, numbers, first)), (HOST, DEVICE))

    return lookup.on_shards(local, lookup.table, P(), out=P())(table, numbers)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def put(lookup: Lookup, table: jax.Array, numbers: jax.Array, rows: jax.Array) -> jax.Array:
    """``table`` with ``rows`` [N, W] at distinct ``numbers`` [N]; those out of range are dropped."""

    def local(table: jax.Array, numbers: jax.Array, rows: jax.Array, first: jax.Array) -> jax.Array:
        numbers = _in_shard(lookup, numbers, first) if lookup.sharded else numbers
        return write_rows(table, numbers, rows.astype(lookup.spec.dtype), False)

    return lookup.on_shards(local, lookup.table, P(), P())(table, numbers, rows)


def _in_shard(lookup: Lookup, numbers: jax.Array, first: jax.Array) -> jax.Array:
    """``numbers`` from the start of this device's shard; distinct ones past the table for those of other shards."""
    size = lookup.spec.padded_rows // lookup.mesh.size
    mine = numbers - first
    elsewhere = lookup.spec.padded_rows + jnp.arange(len(numbers))
    return jnp.where((mine >= 0) & (mine < size), mine, elsewhere)

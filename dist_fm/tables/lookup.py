"""From a batch's unique ids to the rows a model receives, the gradient's way back, and the write of updated rows.

Axes: H hosts of D devices, n = H x D; U unique rows of a host, C of them at most owned by one device; B samples,
S slots, F inputs of the model, W floats a row. Replicated: every device holds the table; a host's ``unique`` is [U].
Sharded: device (h, d) owns rows (h D + d) R'/n and on, R'/n of them; and of host h's unique rows it brings in those
that the devices (0, d) ... (H-1, d) own: its ``unique`` is [H, C], flattened. Nothing of the table's size travels
between devices, nor anything of the batch's.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from dist_fm.tables.duplicates import sum_duplicates
from dist_fm.tables.per_sample import inputs_are_rows, map_samples, of_each_row, slice_size
from dist_fm.tables.spec import PerRow, PerSample, TableSpec, as_numbers, as_stored
from dist_fm.tables.unique import Found, UniqueLayout, fill_unique, find_unique

HOST, DEVICE = "host", "device"


class Lookup:
    """How the table of ``spec`` is held by ``mesh``, whose axes are ("host", "device"), and read and written there."""

    def __init__(self, spec: TableSpec, mesh: Mesh, *, sharded: bool, unique_in_step: bool = False):
        self.spec, self.mesh, self.sharded, self.unique_in_step = spec, mesh, sharded, unique_in_step
        self.hosts = mesh.shape[HOST]
        everyone = P((HOST, DEVICE))
        self.table = everyone if sharded else P()  # how table and slots lie
        self.unique = everyone if sharded else P(HOST)  # how a batch's unique ids lie
        self._touched = everyone if sharded else P()
        here = 1 if jax.process_count() > 1 else self.hosts
        self.layout = UniqueLayout(self.hosts, mesh.shape[DEVICE], sharded, here)
        self.is_cpu = mesh.devices.flat[0].platform == "cpu"
        self.sorts = not self.is_cpu  # a gather's transpose adds atomically on a GPU: a run would differ from itself

    @property
    def placement(self) -> str:
        """How the table lies, as ``tables.placement`` names it."""
        return "sharded" if self.sharded else "replicated"

    def find(self, batches: np.ndarray) -> list[Found]:
        """The first half of what a step needs of each of ``batches`` [N, B, S] of (this host's) logical rows.

        The second half, ``fill``, waits for what all hosts need.
        """
        return find_unique(batches, self.spec, self.layout)

    def fill(self, found: Found, need: int) -> tuple[np.ndarray, np.ndarray]:
        """``unique`` and ``inverse`` int32 [B, S] of this host's rows, once ``need`` is agreed."""
        return fill_unique(found, need, self.spec, self.layout)

    def init(self, key: jax.Array) -> jax.Array:
        """The first table [R', W]; a device draws its own shard alone."""
        if not self.sharded:
            return self.spec.init(key)
        return self.on_shards(lambda key, first: self.spec.init(key, first, self._shard_rows), P())(key)

    def requests(self, unique: jax.Array) -> jax.Array:
        """The ids every owner is asked for, from the hosts' ``unique``; sharded, they count from the shard's start."""
        if not self.sharded or self.hosts == 1:
            return unique
        return self.on_shards(lambda ids, first: _exchange(ids, self.hosts), self.unique)(unique)

    def read(self, table: jax.Array, ids: jax.Array) -> jax.Array:
        """Rows [N, W] of ``ids`` [N] by their owners; an out-of-range id reads zeros."""
        if not self.sharded:
            return read_rows(table, ids)
        return self.on_shards(lambda table, ids, first: read_rows(table, ids), self.table, self.unique)(table, ids)

    def rows(
        self,
        owned: jax.Array,
        inverse: jax.Array,
        values: jax.Array | None,
        slot_inputs: np.ndarray,
        filled: jax.Array | None = None,
    ) -> "LookedUp":
        """A global batch's rows, from those its owners read, [N, W]; ``inverse`` and ``values`` are [B, S].

        ``slot_inputs`` int [S], ascending, says which of the model's inputs a slot is summed into; ``filled`` bool
        [B, F], which of them are there (None: all).
        """
        return LookedUp(self, owned, inverse, values, slot_inputs, filled)

    def _deliver(self, rows: jax.Array) -> jax.Array:
        """Owners' rows back to the hosts that asked, and there to every device."""
        if not self.sharded:
            return rows
        rows = _exchange(rows, self.hosts) if self.hosts > 1 else rows
        return jax.lax.all_gather(rows, DEVICE, tiled=True)

    def merge(self, ids: jax.Array, rows: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Every touched row once, with its gradient summed over the hosts; that of ids out of range is zero."""
        if self.hosts == 1:
            limit = self._shard_rows if self.sharded else self.spec.padded_rows
            # Empty slots read such a row: what they would change in it must not count in the norm, by which is clipped.
            return ids, rows, jnp.where((ids < limit)[:, None], gradient, 0)
        if self.sharded:
            local = lambda ids, rows, gradient, first: sum_duplicates(ids, rows, gradient, self._shard_rows)
            return self.on_shards(local, self.unique, self.unique, self.unique, outputs=3)(ids, rows, gradient)
        everywhere = jax.sharding.NamedSharding(self.mesh, P())
        ids, rows, gradient = jax.lax.with_sharding_constraint((ids, rows, gradient), everywhere)
        return sum_duplicates(ids, rows, gradient, self.spec.padded_rows)

    def write(self, table: jax.Array, ids: jax.Array, rows: jax.Array) -> jax.Array:
        """``table`` with ``rows`` [N, W] at distinct ``ids`` [N] (of ``merge``); out-of-range ids are dropped."""
        one = self.hosts == 1  # else ids come merged, which leaves gaps in their order
        if not self.sharded:
            return write_rows(table, ids, rows, one)
        local = lambda table, ids, rows, first: write_rows(table, ids, rows, one)
        return self.on_shards(local, self.table, self._touched, self._touched)(table, ids, rows)

    def dense_gradient(self, gradient: jax.Array, ids: jax.Array) -> jax.Array:
        """The gradient [R', W] of the whole table from those of its touched rows."""
        return self.write(jnp.zeros((self.spec.padded_rows, gradient.shape[1]), gradient.dtype), ids, gradient)

    def physical(self, ids: jax.Array) -> jax.Array:
        """Physical rows of ``ids``, which count from the start of a shard where sharded."""
        if not self.sharded:
            return ids
        return self.on_shards(lambda ids, first: ids + first, self._touched)(ids)

    @property
    def _shard_rows(self) -> int:
        return self.spec.padded_rows // self.mesh.size

    def on_shards(self, function, *specs, outputs: int = 1, out: P | None = None):
        """``function(*local parts, first row of the shard)`` on every shard; results lie as ``out``, or the table."""

        def local(*parts):
            shard = jax.lax.axis_index((HOST, DEVICE))
            return function(*parts, shard * self._shard_rows)

        one = self.table if out is None else out
        every = one if outputs == 1 else (one,) * outputs
        # Nothing is differentiated through these, so JAX need not follow which values differ between devices.
        return jax.shard_map(local, mesh=self.mesh, in_specs=specs, out_specs=every, check_vma=False)


class LookedUp:
    """The rows of a global batch, as a model gets them: spread to the samples where it maps over them."""

    def __init__(
        self,
        lookup: Lookup,
        owned: jax.Array,
        inverse: jax.Array,
        values: jax.Array | None,
        slot_inputs: np.ndarray,
        filled: jax.Array | None,
    ):
        self.lookup, self.owned, self.inverse, self.values = lookup, owned, inverse, values
        self.slot_inputs, self.filled = slot_inputs, filled

    def map(
        self, function: PerSample, network: Any = (), samples: Any = (), *, floats: int = 0, per_row: PerRow = dict
    ) -> Any:
        """``function(rows, network, samples)`` of every sample, by slices of each device's samples.

        The gradient's way back sums a row's duplicates on each device, then over the devices of a host. ``floats`` is
        what the function makes of one sample, where that is more than its rows; ``per_row`` is as `Rows.map` has it.
        """
        lookup, split = self.lookup, P((HOST, DEVICE))
        slots = self.inverse.shape[1]
        # Rows that travel are made so before, by their owners, each its part. Others once they are cut into columns:
        # to join these again costs more than it saves.
        by_owner = lookup.sharded and per_row is not dict and inputs_are_rows(self.values, self.slot_inputs)

        def local(owned: jax.Array, network: Any, inverse: jax.Array, values: jax.Array | None, samples: Any) -> Any:
            if by_owner:
                owned = of_each_row(per_row, owned, lookup.spec.layout)
            floats_each = max(floats, slots * lookup.spec.layout.width)
            return map_samples(
                function,
                lookup._deliver(owned),
                network,
                inverse,
                values,
                samples,
                slot_inputs=self.slot_inputs,
                layout=lookup.spec.layout,
                size=slice_size(len(inverse), floats_each) if lookup.is_cpu else len(inverse),
                sort=lookup.sorts,
                per_row=dict if by_owner else per_row,
            )

        if lookup.mesh.size == 1:  # XLA would keep the sums over one device, and copy for them
            return local(self.owned, network, self.inverse, self.values, samples)
        specs = (lookup.unique, P(), split, split, split)
        mapped = jax.shard_map(local, mesh=lookup.mesh, in_specs=specs, out_specs=split, check_vma=False)
        return mapped(self.owned, network, self.inverse, self.values, samples)


def _exchange(parts: jax.Array, hosts: int) -> jax.Array:
    """[H C, ...] on every device: part h goes to host h, and its answer takes its place; its own inverse."""
    cut = parts.reshape(hosts, -1, *parts.shape[1:])
    return jax.lax.all_to_all(cut, HOST, split_axis=0, concat_axis=0).reshape(parts.shape)


def read_rows(table: jax.Array, ids: jax.Array) -> jax.Array:
    # Out of range reads zero: JAX's default, NaN, times the 0 of an empty slot would be NaN. Each use of the rows would
    # look anew which they are, but for the barrier: a tenth of a DeepFM step on a CPU.
    return as_numbers(jax.lax.optimization_barrier(table.at[ids].get(mode="fill", fill_value=0)))


def write_rows(table: jax.Array, ids: jax.Array, rows: jax.Array, is_sorted: bool) -> jax.Array:
    return table.at[ids].set(as_stored(rows), mode="drop", unique_indices=True, indices_are_sorted=is_sorted)

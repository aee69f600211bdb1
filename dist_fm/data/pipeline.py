"""From a source to batches on the mesh: Grain reads and prepares in threads, one thread places them on the devices."""

import collections
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import grain
import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dist_fm.data.source import HostBatch

READ_AHEAD = 16  # batches that Grain's threads hold ready
PLACE_AHEAD = 2  # batches already on the devices


class Batch(NamedTuple):
    """One global batch on the devices: B samples, S slots, U unique table rows.

    ``mask`` is 0 where a sample is padding. ``unique`` is on every device, the rest is split by samples.
    """

    labels: jax.Array  # [B]
    weights: jax.Array  # [B]
    mask: jax.Array  # [B]
    unique: jax.Array  # int32 [U] physical rows, sorted; ids past the table fill it up
    inverse: jax.Array  # int32 [B, S] where in `unique` each slot's row is
    values: jax.Array | None = None  # [B, S]


class Source(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> HostBatch: ...


def batches(
    source: Source, prepare: Callable[[HostBatch], dict[str, Any]], mesh: Mesh, *, start: int = 0, threads: int = 2
) -> Generator[Batch, None, None]:
    """Batches ``start``, ``start + 1``, ... of ``source``, each through ``prepare`` (in the threads), on ``mesh``."""
    dataset = grain.MapDataset.source(source)[start:].map(prepare)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=READ_AHEAD)
    iterator = iter(dataset.to_iter_dataset(options))
    with ThreadPoolExecutor(1, "place") as pool:
        waiting: collections.deque[Future] = collections.deque()

        def place_next() -> Batch | None:
            prepared = next(iterator, None)
            return None if prepared is None else place(prepared, mesh)

        try:
            waiting.extend(pool.submit(place_next) for _ in range(PLACE_AHEAD))
            while (batch := waiting.popleft().result()) is not None:
                waiting.append(pool.submit(place_next))
                yield batch
        finally:
            for future in waiting:
                future.cancel()
            if hasattr(iterator, "close"):
                iterator.close()


def place(prepared: dict[str, Any], mesh: Mesh) -> Batch:
    """Puts a prepared host batch on the devices of ``mesh``."""
    samples, everywhere = NamedSharding(mesh, P(mesh.axis_names)), NamedSharding(mesh, P())
    shardings = {name: everywhere if name == "unique" else samples for name in prepared}
    return Batch(**jax.device_put(prepared, shardings))

"""From a source to batches on the mesh: Grain reads and prepares in threads, one thread places them on the devices."""

import collections
import functools
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dist_fm.data.records import READ_AHEAD, HostBatch

PLACE_AHEAD = 2  # batches already on the devices
SLOTS_TOGETHER, MOST_TOGETHER = 32_768, 8  # in batches that a thread reads and prepares at a time


class Batch(NamedTuple):
    """One global batch: B samples, S slots, U unique table rows.

    Two arrays, not six: each array put on the devices costs a fixed time, more than its bytes. ``samples`` holds label,
    weight and mask (the bits of a float32 each) and, for each slot, where in ``unique`` its row is. It is split by
    samples; ``unique`` as `dist_fm.tables.lookup` lays it out: by host, and by owner where the table is sharded.
    """

    samples: jax.Array  # int32 [B, 3 + S]
    unique: jax.Array | None  # int32 [U]; None where the step makes it: ``inverse`` is then of physical rows
    values: jax.Array | None = None  # float32 [B, S], split by samples; None where every filled slot counts 1

    @classmethod
    def pack(cls, batch: HostBatch, unique: np.ndarray | None, inverse: np.ndarray) -> "Batch":
        """A batch on the host."""
        samples = np.empty((len(inverse), 3 + inverse.shape[1]), np.int32)
        for column, name in enumerate(("labels", "weights", "mask")):
            samples[:, column] = batch[name].view(np.int32)
        samples[:, 3:] = inverse
        return cls(samples, unique, batch.get("values"))  # type: ignore[arg-type]

    def with_inverse(self, inverse: jax.Array) -> "Batch":
        """The batch with another ``inverse``."""
        return self._replace(samples=jnp.concatenate([self.samples[:, :3], inverse], axis=1))

    @property
    def labels(self) -> jax.Array:
        """float32 [B]."""
        return self.samples[:, 0].view("float32")

    @property
    def weights(self) -> jax.Array:
        """float32 [B]."""
        return self.samples[:, 1].view("float32")

    @property
    def mask(self) -> jax.Array:
        """float32 [B]: 0 where a sample is padding."""
        return self.samples[:, 2].view("float32")

    @property
    def inverse(self) -> jax.Array:
        """int32 [B, S]."""
        return self.samples[:, 3:]


class Unsized(NamedTuple):
    """This host's part of a batch, before the hosts agreed for how many unique rows it must have room."""

    need: int  # room that this host needs
    fill: Callable[[int], Batch]  # the batch, with as much room


class Source(Protocol):
    @property
    def batch_size(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> HostBatch: ...


class Placer(Protocol):
    """Who puts batches on devices: the training engine."""

    mesh: Mesh

    def place(self, batch: Batch) -> Batch:
        """A prepared batch on the devices."""
        ...


class Groups:
    """Batches of a source, ``slots`` ids a sample, from batch ``start`` on: where they are small, several at a time.

    One by one, small batches (4,096 ids) took Grain, NumPy and the interpreter's lock longer than the step.
    """

    def __init__(self, source: Source, slots: int, start: int = 0):
        self.size = max(1, min(MOST_TOGETHER, SLOTS_TOGETHER // (source.batch_size * slots)))
        self._source, self._steps = source, range(start, len(source))

    def __len__(self) -> int:
        return -(-len(self._steps) // self.size)

    def __getitem__(self, group: int) -> list[HostBatch]:
        with jax.profiler.TraceAnnotation("read"):
            return [self._source[step] for step in self._steps[group * self.size : (group + 1) * self.size]]


def read(
    groups: Groups, prepare: Callable[[list[HostBatch]], list[Any]], *, threads: int = 2
) -> Generator[Any, None, None]:
    """The batches of ``groups``, in order, each group read and prepared in one of ``threads``."""
    # Here, so that what only steps (benchmarks on machines without Grain) need not have it; and not in the generator,
    # as it takes seconds, with which the first batch would be timed.
    import grain

    prepare = jax.profiler.annotate_function(prepare, name="prepare")
    dataset = grain.MapDataset.source(groups).map(prepare)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, READ_AHEAD // groups.size))
    return _closed_at_the_end(dataset.to_iter_dataset(options))


def _closed_at_the_end(dataset: Iterable[list[Any]]) -> Generator[Any, None, None]:
    iterator = iter(dataset)
    try:
        for group in iterator:
            yield from group
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


def placed(prepared: Iterator[Batch], placer: Placer) -> Iterator[Batch]:
    """``prepared`` batches on the placer's devices, each put there before it is needed."""
    if placer.mesh.size == 1 and placer.mesh.devices.flat[0].platform == "cpu":
        return prepared  # the call of the step takes the host's arrays as they are
    return _placed_ahead(prepared, placer)


def _placed_ahead(prepared: Iterator[Batch], placer: Placer) -> Iterator[Batch]:
    """Puts batches on the devices in a thread, ``PLACE_AHEAD`` before they are needed."""
    waiting: collections.deque[Future] = collections.deque()

    def place_next() -> Batch | None:
        batch = next(prepared, None)
        return None if batch is None else placer.place(batch)

    with ThreadPoolExecutor(1, "place") as pool:
        try:
            waiting.extend(pool.submit(place_next) for _ in range(PLACE_AHEAD))
            while (batch := waiting.popleft().result()) is not None:
                waiting.append(pool.submit(place_next))
                yield batch
        finally:
            for future in waiting:
                future.cancel()


@functools.partial(jax.profiler.annotate_function, name="place")
def place(batch: Batch, mesh: Mesh, unique: P) -> Batch:
    """A batch on the devices of ``mesh``, its unique ids laid out as ``unique`` says; of several hosts, this one's."""
    samples = NamedSharding(mesh, P(mesh.axis_names))
    lie = (samples, NamedSharding(mesh, unique), samples)
    if jax.process_count() == 1:
        shardings = [None if part is None else at for part, at in zip(batch, lie, strict=True)]
        return Batch(*jax.device_put(list(batch), shardings))
    join = lambda part, at: None if part is None else jax.make_array_from_process_local_data(at, part)
    return Batch(*map(join, batch, lie))  # type: ignore[arg-type]

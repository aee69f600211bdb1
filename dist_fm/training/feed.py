"""Batches on the devices; with several hosts, of sizes that they agree on a few steps ahead.

The unique rows of a batch are padded to one of a few sizes, which must be the same on all hosts. So, before a batch is
padded, hosts tell each other what they need, for ``GROUP`` batches at a time, with a small collective that the main
thread sends between steps, at the same place on every host, and whose answer it reads a group later. What hosts are
asked from outside (`dist_fm.training.requests`) travels with it.
"""

import collections
import itertools
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from data_tools.workers import cores
from dist_fm.data.pipeline import Batch, Groups, Source, Unsized, placed, read
from dist_fm.training.requests import Requests
from dist_fm.training.step import Engine

GROUP = 4
READ_THREADS = 1 if cores() <= 2 else 2  # a step keeps two cores busy: beside a second thread it took 4 to 9 % longer


def batches(
    source: Source, engine: Engine, *, start: int = 0, threads: int = 0, requests: Requests | None = None
) -> Generator[Batch, None, None]:
    """Batches ``start``, ``start + 1``, ... of ``source``, prepared in threads, on the engine's devices.

    ``threads`` is as ``data.read_threads``.
    """
    groups = Groups(source, engine.schema.num_slots, start)
    prepared = read(groups, engine.prepare_all, threads=threads or READ_THREADS)
    return _fed(prepared, engine, requests or Requests())


def _fed(prepared: Generator, engine: Engine, requests: Requests) -> Generator[Batch, None, None]:
    try:
        yield from _agreed(prepared, engine, requests) if jax.process_count() > 1 else placed(prepared, engine)
    finally:
        prepared.close()


def _agreed(prepared: Iterator[Unsized], engine: Engine, requests: Requests) -> Iterator[Batch]:
    """Placed a group ahead of their use, by a thread; told of two groups ahead."""
    tell = _Telling(engine)
    told: collections.deque[tuple[list[Unsized], jax.Array]] = collections.deque()

    def send() -> None:
        group = list(itertools.islice(prepared, GROUP))
        if group:
            needs = [batch.need for batch in group]
            told.append((group, tell([*needs, *[0] * (GROUP - len(group)), *requests.tell()])))

    with ThreadPoolExecutor(1, "place") as pool:

        def receive() -> list[Future[Batch]]:
            if not told:
                return []
            group, answer = told.popleft()
            numbers = np.asarray(answer).tolist()
            requests.hear(numbers[GROUP:])
            put = lambda batch, need: engine.place(batch.fill(need))
            return [pool.submit(put, batch, need) for batch, need in zip(group, numbers, strict=False)]

        send()
        send()
        group = receive()
        while group:
            send()
            following = receive()
            for batch in group:
                yield batch.result()
            group = following


class _Telling:
    """The largest of each number that the hosts bring, on every host, by a collective over the mesh."""

    def __init__(self, engine: Engine):
        mesh = engine.mesh
        self._by_host = NamedSharding(mesh, P("host"))
        self._largest = jax.jit(lambda numbers: numbers.max(axis=0), out_shardings=NamedSharding(mesh, P()))

    def __call__(self, numbers: list[int]) -> jax.Array:
        mine = np.array([numbers], np.int32)
        return self._largest(jax.make_array_from_process_local_data(self._by_host, mine))

"""A bound on the programs in flight: over 31 on a multi-device CPU mesh deadlock, and a NaN should show soon."""

import collections
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax

LIMIT = 4
T = TypeVar("T")


def bounded(results: Iterable[T], limit: int = LIMIT) -> Iterator[T]:
    """Passes ``results`` of jitted calls on, each finished: the call for item t + ``limit`` waits for item t."""
    waiting: collections.deque[T] = collections.deque()
    for result in results:
        waiting.append(result)
        if len(waiting) > limit:
            yield jax.block_until_ready(waiting.popleft())
    while waiting:
        yield jax.block_until_ready(waiting.popleft())

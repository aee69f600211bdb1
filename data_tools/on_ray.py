"""Work spread over a Ray cluster, the machines of which share the file system that the data set is built on."""

import collections
from collections.abc import Callable, Generator, Iterable
from typing import Any

from data_tools.errors import DataError
from data_tools.workers import AHEAD, Result, Task


def ordered_map(
    function: Callable[[Any, Task], Result], shared: Any, tasks: Iterable[Task], workers: int
) -> Generator[Result, None, None]:
    """As `data_tools.workers.ordered_map`, on the running cluster, or on one of this machine's ``workers`` cores.

    Ray runs a task again, elsewhere, whose machine is lost. Raises ``DataError`` if Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise DataError("--engine=ray needs Ray: pip install 'dist_fm[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False)
        except ConnectionError:
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    here = ray.put(shared)
    remote = ray.remote(function)
    most = AHEAD * max(int(ray.cluster_resources().get("CPU", 1)), 1)
    waiting: collections.deque[Any] = collections.deque()
    try:
        for task in tasks:
            waiting.append(remote.remote(here, task))
            if len(waiting) > most:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        for unneeded in waiting:
            ray.cancel(unneeded, force=True)

"""Work spread over processes: results come in the order of the tasks, so that any number of workers gives the same."""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from data_tools.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")
AHEAD = 2  # tasks a worker has waiting: what bounds the memory of those under way

_shared: Any = None


def cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[Any, Task], Result], shared: Any, tasks: Iterable[Task], workers: int
) -> Generator[Result, None, None]:
    """``function(shared, task)`` for each task, in order; ``shared`` reaches every worker once.

    With one worker all is done in this process. Raises ``DataError`` if a worker is killed.
    """
    if workers == 1:
        for task in tasks:
            yield function(shared, task)
        return
    # Forked, a worker starts in milliseconds and shares its parent's memory; nothing here has threads that hold locks.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start, (shared,)) as pool:
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(_work, function, task))
                if len(waiting) > AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError("a worker process was killed; was memory short? --workers=1 needs least") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(shared: Any) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends them
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent tells its workers nothing; without this they would wait for tasks forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(function: Callable, task: Any) -> Any:
    return function(_shared, task)

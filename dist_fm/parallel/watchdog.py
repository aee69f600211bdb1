"""Notices a process that gets no further: one that waits for a host that hangs, or for a disk that does not answer."""

import faulthandler
import sys
import threading
import time

from dist_fm.parallel.hosts import leave_at_once

STALLED = 70  # the exit code
_last = time.monotonic()


def alive() -> None:
    """Says that something was just finished: a step, a batch of an evaluation, a checkpoint."""
    global _last
    _last = time.monotonic()


class Watchdog:
    """Ends the process with exit code 70, showing where its threads are, after ``stall_s`` seconds without ``alive``.

    A context manager; ``stall_s`` 0: never.
    """

    def __init__(self, stall_s: float):
        self._stall_s = stall_s
        self._done = threading.Event()

    def __enter__(self) -> "Watchdog":
        alive()
        if self._stall_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._stall_s / 4)):
            waited = time.monotonic() - _last
            if waited > self._stall_s:
                faulthandler.dump_traceback(sys.stderr)
                print(
                    f"error: nothing was finished in {waited:.0f} s (--run.stall_s={self._stall_s:g}): this host, or "
                    "one that it waits for, hangs; its threads are shown above",
                    file=sys.stderr,
                )
                leave_at_once(STALLED)

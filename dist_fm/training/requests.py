"""What a run is asked from outside while it trains: to stop (SIGTERM), and to save (so many minutes have passed)."""

import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType

import jax

from dist_fm.errors import Preempted
from dist_fm.parallel.hosts import is_first


class Requests:
    """Asked of any host, obeyed by all at the same step: hosts ``tell`` each other, and obey what they ``hear``.

    A context manager: within it SIGTERM asks to stop. ``save_minutes`` 0: never asks to save.
    """

    def __init__(self, save_minutes: float = 0.0):
        self._save_s = save_minutes * 60
        self._stop = False  # asked of this process
        self._heard = [0, 0]  # of all hosts
        self._saved = time.monotonic()
        self._told = False  # to save: once until it is done, as hosts hear of it two groups of steps later

    def tell(self) -> list[int]:
        """What this host is asked: to stop, to save. Minutes are those of the first host's clock."""
        late = 0 < self._save_s < time.monotonic() - self._saved and is_first() and not self._told
        self._told = late and jax.process_count() > 1 or self._told
        return [int(self._stop), int(late)]

    def hear(self, numbers: Sequence[int]) -> None:
        """Takes in the largest of what all hosts told."""
        self._heard = [max(old, int(new)) for old, new in zip(self._heard, numbers, strict=True)]

    @property
    def stop(self) -> bool:
        return bool(self._asked()[0])

    @property
    def save(self) -> bool:
        return bool(self._asked()[1])

    def _asked(self) -> list[int]:
        return self.tell() if jax.process_count() == 1 else self._heard

    def saved(self) -> None:
        """A checkpoint was just begun."""
        self._saved, self._heard[1], self._told = time.monotonic(), 0, False

    def stop_if_asked(self) -> None:
        """Raises ``Preempted`` when all hosts are to stop."""
        if self.stop:
            raise Preempted("asked to stop")

    def __enter__(self) -> "Requests":
        self._before = None
        if threading.current_thread() is threading.main_thread():  # Python gives signals to no other
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = True

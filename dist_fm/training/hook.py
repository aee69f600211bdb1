"""What training tells whoever listens. None of it changes a number."""

from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
Listener = Callable[[Event], None]


class Hook:
    """What training tells of: steps sent and finished, every evaluation, that it is about to save, the end."""

    def before_step(self, step: int) -> None:
        pass

    def on_step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        pass

    def on_event(self, event: Event) -> None:
        pass

    def on_save(self) -> None:
        pass

    def on_result(self, event: Event) -> None:
        """The last event: the test metrics of the best step, with the whole ``result``."""

    def close(self) -> None:
        pass

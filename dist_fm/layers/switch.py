"""Switches that code reads while it is traced."""

import contextlib
import contextvars
from collections.abc import Iterator


class Switch:
    """Off, but for what is traced inside ``set(True)``."""

    def __init__(self, name: str):
        self._on = contextvars.ContextVar(name, default=False)

    def __bool__(self) -> bool:
        return self._on.get()

    @contextlib.contextmanager
    def set(self, on: bool) -> Iterator[None]:
        """On or off inside, and as before afterwards."""
        token = self._on.set(on)
        try:
            yield
        finally:
            self._on.reset(token)

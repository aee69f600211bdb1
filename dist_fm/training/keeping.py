"""Where the training loop puts states and the best step's weights: on disk (`dist_fm.checkpoint`), or in memory."""

import dataclasses
from typing import Any, Protocol

import jax
import numpy as np

from dist_fm.training.state import TrainState


class Keeper(Protocol):
    def latest_step(self) -> int | None:
        """The step of the last state that was saved; None when there is none."""

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Keeps ``state`` and ``progress``, to go on from."""

    def save_best(self, state: TrainState) -> None:
        """Keeps the weights of ``state``."""

    def wait(self) -> None:
        """Blocks until everything is kept."""


class KeptInMemory:
    """The best step's weights alone, in the host's memory: there is no going on after an end."""

    def __init__(self) -> None:
        self._best: dict[str, Any] = {}

    def latest_step(self) -> None:
        return None

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        pass

    def save_best(self, state: TrainState) -> None:
        # Copies: the next step is given the state's own memory.
        copied = lambda part: jax.tree.map(lambda array: np.array(array, copy=True), part)
        self._best = {name: copied(getattr(state, name)) for name in ("table", "params", "stats")}

    def wait(self) -> None:
        pass

    def best(self, state: TrainState) -> TrainState:
        """``state`` with the best step's weights, but its own optimizer."""
        return dataclasses.replace(state, **self._best)

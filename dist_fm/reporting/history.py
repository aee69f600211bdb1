"""What a run wrote while it trained, as numbers by step. Axes: E events."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from dist_fm.run_dir import RunDir

POINTS = 500  # of a curve


@dataclasses.dataclass(frozen=True)
class Line:
    """A quantity over steps: [E] each."""

    steps: np.ndarray
    values: np.ndarray

    def thinned(self, points: int = POINTS) -> "Line":
        """Means over neighbouring events, where there are more than ``points``."""
        if len(self.steps) <= points:
            return self
        mean = lambda array: np.array([part.mean() for part in np.array_split(array, points)])
        return Line(mean(self.steps), mean(self.values))


@dataclasses.dataclass(frozen=True)
class History:
    """The quantities of training and validation by their keys in metrics.jsonl; empty where there are none."""

    train: Mapping[str, Line]
    valid: Mapping[str, Line]

    @classmethod
    def read(cls, run: RunDir) -> "History":
        events = run.events()
        return cls(*(_lines([event for event in events if event["split"] == split]) for split in ("train", "valid")))


def _lines(events: list[dict[str, Any]]) -> dict[str, Line]:
    numbers: dict[str, list[tuple[int, float]]] = {}
    for event in events:
        for key, value in event.items():
            if isinstance(value, int | float) and key not in ("step", "epoch"):
                numbers.setdefault(key, []).append((event["step"], value))
    return {key: Line(*np.array(pairs, np.float64).T) for key, pairs in numbers.items()}

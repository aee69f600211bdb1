"""Rows on their way into a data set: parsed once, kept on disk until splits and vocabularies are known.

A portion is what one piece of a file held, a pickle in a file of its own: memory holds portions, never all rows.
"""

import dataclasses
import pathlib
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_tools.formats import Chunk


@dataclasses.dataclass(frozen=True)
class Portion:
    """Consecutive good rows [N]: raw ``columns``, ``labels`` and ``weights`` (None: without a column) float32."""

    columns: dict[str, Any]  # Tokens or Entries
    labels: np.ndarray
    weights: np.ndarray | None

    @classmethod
    def of(cls, chunk: Chunk, columns: Sequence[str]) -> "Portion":
        assert chunk.labels is not None
        return cls({name: chunk.columns[name].small() for name in columns}, chunk.labels, chunk.weights)

    def save(self, path: pathlib.Path) -> None:
        with open(path, "wb") as file:
            pickle.dump(self, file, protocol=5)

    @classmethod
    def load(cls, path: pathlib.Path) -> "Portion":
        with open(path, "rb") as file:
            return pickle.load(file)

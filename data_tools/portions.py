"""Rows on their way into a data set: parsed once, kept on disk until splits and vocabularies are known.

A portion is what one piece of a file held, a pickle in a file of its own: memory holds portions, never all rows.
"""

import dataclasses
import pathlib
import pickle
from collections.abc import Sequence

import numpy as np

from data_tools.formats import Chunk
from data_tools.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class Portion:
    """Consecutive good rows [N]: raw ``columns``, ``labels`` and ``weights`` (None: without a column) float32."""

    columns: dict[str, Tokens]
    labels: np.ndarray
    weights: np.ndarray | None

    @classmethod
    def of(cls, chunk: Chunk, columns: Sequence[str]) -> "Portion":
        assert chunk.labels is not None
        return cls({name: _small(chunk.columns[name]) for name in columns}, chunk.labels, chunk.weights)

    def save(self, path: pathlib.Path) -> None:
        with open(path, "wb") as file:
            pickle.dump(self, file, protocol=5)

    @classmethod
    def load(cls, path: pathlib.Path) -> "Portion":
        with open(path, "rb") as file:
            return pickle.load(file)

    def counts(self, column: str, rows: np.ndarray) -> np.ndarray:
        """How many of ``rows``, a mask [N], hold each of the column's values: int64 [U]."""
        tokens = self.columns[column]
        return np.bincount(tokens.codes[rows], minlength=len(tokens.values))


def _small(tokens: Tokens) -> Tokens:
    """With codes of as few bytes as will do."""
    return Tokens(tokens.codes.astype(np.min_scalar_type(len(tokens.values))), tokens.values)

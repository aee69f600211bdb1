"""Rows on their way into a data set: parsed once, kept on disk until splits and vocabularies are known.

A portion is what one piece of a file held, a pickle in a file of its own: memory holds portions, never all rows.
"""

import dataclasses
import pathlib
import pickle
from typing import Any

import numpy as np

from data_tools.formats import Parsed


@dataclasses.dataclass(frozen=True)
class Portion:
    """Consecutive good rows [N]: their raw ``columns`` and ``labels`` float32."""

    columns: dict[str, Any]  # Tokens or Entries
    labels: np.ndarray

    @classmethod
    def of(cls, parsed: Parsed, columns: list[str]) -> "Portion":
        assert parsed.labels is not None
        return cls({name: parsed.columns[name].small() for name in columns}, parsed.labels)

    def save(self, path: pathlib.Path) -> None:
        with open(path, "wb") as file:
            pickle.dump(self, file, protocol=5)

    @classmethod
    def load(cls, path: pathlib.Path) -> "Portion":
        with open(path, "rb") as file:
            return pickle.load(file)

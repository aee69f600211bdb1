"""Some rows of a split, and some of a table. Axes: N records, R table rows, S slots, W floats a table row."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from dist_fm.data.records import RecordLayout
from dist_fm.data.store import BlockStore
from dist_fm.errors import UserError
from dist_fm.tables.by_number import take
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine

AT_ONCE = 1 << 16  # table rows that are fetched at a time
_LEAST = 1 << 10


@dataclasses.dataclass(frozen=True)
class SomeRows:
    """Records int32 [N, words] in memory, read like a store's; ``of`` says how many the split has."""

    words: np.ndarray
    layout: RecordLayout
    of: int

    @classmethod
    def draw(cls, store: BlockStore, limit: int, seed: int = 0) -> "SomeRows":
        """All rows of ``store``, or ``limit`` of them, drawn from ``seed``, in stored order; ``UserError`` for none."""
        if not store.rows:
            raise UserError(f"{store.path} has no rows")
        chosen = np.arange(store.rows)
        if store.rows > limit:
            chosen = np.sort(np.random.default_rng(seed).choice(store.rows, limit, replace=False))
        return cls(store.gather(chosen), store.layout, store.rows)

    def fewer(self, limit: int, seed: int = 0) -> "SomeRows":
        """``limit`` of these rows, drawn from ``seed``, in order; all, if they are no more."""
        if self.rows <= limit:
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(self.rows, limit, replace=False))
        return dataclasses.replace(self, words=self.words[chosen])

    @property
    def rows(self) -> int:
        return len(self.words)

    def slice(self, start: int, stop: int) -> np.ndarray:
        return self.words[start:stop]

    @property
    def ids(self) -> np.ndarray:
        """Table rows int32 [N, S], ``EMPTY`` in an empty slot."""
        return self.layout.ids(self.words)

    @property
    def values(self) -> np.ndarray:
        """float32 [N, S]; 1 where the records have none, 0 in an empty slot."""
        values = self.layout.values(self.words)
        filled = (self.ids >= 0).astype(np.float32)
        return filled if values is None else values * filled

    @property
    def weights(self) -> np.ndarray:
        """float32 [N]; 1 where the records have none."""
        weights = self.layout.weights(self.words)
        return np.ones(self.rows, np.float32) if weights is None else weights


def table_rows(engine: Engine, state: TrainState, rows: np.ndarray) -> np.ndarray:
    """The trained float32 [R, W] of logical table ``rows`` [R], on every host; no more than these leave the devices."""
    found = []
    for first in range(0, len(rows), AT_ONCE):
        part = rows[first : first + AT_ONCE]
        size = max(_LEAST, 1 << (len(part) - 1).bit_length())  # few sizes, as each is compiled
        numbers = np.full(size, np.iinfo(np.int32).max, np.int32)
        numbers[: len(part)] = engine.spec.physical(part)
        taken = take(engine.lookup, state.table, jnp.asarray(numbers))
        found.append(np.asarray(taken.astype(jnp.float32))[: len(part)])
    return np.concatenate([np.zeros((0, engine.layout.width), np.float32), *found])

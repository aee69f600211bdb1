"""Batches as random-access sources: element t of the training source is global batch t, whoever asks.

The global batch at step t is a pure function of (data, seed, t), so the data position in a checkpoint is one integer,
and any number of hosts sees the same global batches: a host reads its slice of each.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from dist_fm.data.negatives import Draws, WithNegatives
from dist_fm.data.records import HostBatch, RecordLayout
from dist_fm.data.schema import EMPTY, Schema
from dist_fm.data.shuffle import ExactShuffle, Parts, Shuffle, WindowShuffle
from dist_fm.data.streams import UNSEEN, generator
from dist_fm.data.windows import RowStore, Windows

_STEPS_A_DRAW = 8  # as a draw for one step of 2,048 rows would cost more than reading them


class BatchSource:
    """Cuts rows of a store into batches: what training, evaluation and prediction have in common.

    ``batch_size`` is the global batch, padded to ``padded_size`` with masked rows so that the devices divide it.
    """

    def __init__(self, schema: Schema, batch_size: int, *, padded_size: int, host: int = 0, hosts: int = 1):
        if padded_size < batch_size or padded_size % hosts:
            raise ValueError(f"padded size {padded_size} must hold {batch_size} rows and divide by {hosts} hosts")
        self.schema, self.batch_size, self.padded_size = schema, batch_size, padded_size
        self.host, self.hosts = host, hosts
        self.layout = RecordLayout.for_schema(schema)
        self._empty = np.zeros((1, self.layout.words), "<i4")
        self.layout.ids(self._empty)[...] = EMPTY

    def host_part(self, rows: int) -> slice:
        """The part of a global batch of ``rows`` places that this host reads."""
        share = self.padded_size // self.hosts
        return slice(min(self.host * share, rows), min((self.host + 1) * share, rows))

    def join(self, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
        """This host's rows of a batch, with padding where there are none, int32 [share, words]; and the mask."""
        share = self.padded_size // self.hosts
        mask = np.ones(share, np.float32)
        if len(parts) == 1 and len(parts[0][1]) == share and parts[0][1].flags.writeable:
            words = parts[0][1]
        else:
            words = np.empty((share, self.layout.words), "<i4")
            if sum(len(rows) for _, rows in parts) < share:
                words[...] = self._empty
                mask[:] = 0
                for place, rows in parts:
                    mask[place : place + len(rows)] = 1
            for place, rows in parts:
                words[place : place + len(rows)] = rows
        return words, mask

    def batch(self, words: np.ndarray, mask: np.ndarray) -> HostBatch:
        """A batch of joined rows, as views of them."""
        weights, values = self.layout.weights(words), self.layout.values(words)
        batch = {"labels": self.layout.labels(words), "mask": mask, "rows": self.layout.ids(words)}
        batch["weights"] = mask.copy() if weights is None else weights
        if values is not None:
            batch["values"] = np.ascontiguousarray(values)  # is put on devices as it is
        return batch


class TrainSource(BatchSource):
    """Global training batches by step: every epoch all rows in another order, exactly shuffled, or by ``windows``.

    The last batch of an epoch is short (masked), never dropped. ``unseen_rate`` of the categorical ids are replaced by
    their field's unseen row, so that it learns what to say of values it will not know: a pure function of (seed, step).
    Of a store ``WithNegatives`` the rows are all samples, and the negatives' items a pure function of (seed, step) too.
    """

    def __init__(
        self,
        store: RowStore,
        schema: Schema,
        batch_size: int,
        *,
        seed: int,
        steps: int,
        unseen_rate: float,
        windows: Windows | None = None,
        **parts,
    ):
        super().__init__(schema, batch_size, **parts)
        self.store, self.seed, self.steps, self.unseen_rate, self.windows = store, seed, steps, unseen_rate, windows
        self.steps_per_epoch = math.ceil(store.rows / batch_size)
        self._places = self.host_part(batch_size)
        self.shuffle: Shuffle
        if windows is None:
            self.shuffle = ExactShuffle(store, batch_size, self._places, seed)
        elif windows.readers % self.hosts:
            raise ValueError(f"{windows.readers} readers cannot be shared evenly by {self.hosts} hosts")
        else:
            self.shuffle = WindowShuffle(store, batch_size, self._places, seed, windows)
        self._negatives = None
        if isinstance(store, WithNegatives):
            self._negatives = Draws(store, seed, batch_size, self._places)
        kinds = np.array([field.kind for field in schema.fields])[schema.slot_fields]
        self._unseen = functools.lru_cache(maxsize=2)(self._draw_unseen)  # two, as threads may be a draw apart
        self._may_be_unseen = kinds != "numeric"
        self._unseen_rows = schema.slot_offsets

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> HostBatch:
        words, mask = self.join(self.shuffle.read(*divmod(step, self.steps_per_epoch)))
        if self._negatives is not None:
            self._negatives.fill(words, mask, step)
        if self.unseen_rate:
            self._forget(words, step)
        return self.batch(words, mask)

    def _forget(self, words: np.ndarray, step: int) -> None:
        """Makes ids unseen in this host's rows [share, words] of the global batch."""
        draw, number = divmod(step, _STEPS_A_DRAW)
        at, unseen = self._unseen(draw)[number]
        flat = words.reshape(-1)
        ids = flat[at]
        flat[at] = np.where(ids == EMPTY, EMPTY, unseen)

    def _draw_unseen(self, draw: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Which words of this host's rows become unseen rows, and of which field, in each of some steps' batches."""
        slots, width = self.schema.num_slots, self.layout.words
        rows = _STEPS_A_DRAW * self.batch_size
        chosen = _chosen(generator(UNSEEN, self.seed, draw), rows * slots, self.unseen_rate)
        row = chosen // slots
        slot = chosen - row * slots
        if not self._may_be_unseen.all():
            kept = self._may_be_unseen[slot]
            row, slot = row[kept], slot[kept]
        at, unseen = row * width + self.layout.first_id + slot, self._unseen_rows[slot]
        steps = []
        for first in range(self._places.start, rows, self.batch_size):
            begin, end = np.searchsorted(row, [first, first + self._places.stop - self._places.start])
            steps.append((at[begin:end] - first * width, unseen[begin:end]))
        return steps


def _chosen(random: np.random.Generator, count: int, rate: float) -> np.ndarray:
    """Positions, up to ``count`` or more, each chosen with probability ``rate``: by the gaps between, which are few."""
    if rate >= 1:
        return np.arange(count)
    expected = count * rate
    positions = np.cumsum(_gaps(random, rate, int(expected + 6 * expected**0.5 + 16))) - 1
    while positions[-1] < count:
        positions = np.append(positions, positions[-1] + np.cumsum(_gaps(random, rate, 64)))
    return positions


def _gaps(random: np.random.Generator, rate: float, count: int) -> np.ndarray:
    """Geometric numbers, 1 on: whole parts of exponential ones, in a fifth of the time of NumPy's ``geometric``."""
    return (random.standard_exponential(count) / -np.log1p(-rate)).astype(np.int64) + 1


@dataclasses.dataclass(frozen=True)
class MemoryStore:
    """Rows int32 [N, words] in memory, laid out as ``layout`` says, read like a store of one block."""

    words: np.ndarray
    layout: RecordLayout

    @classmethod
    def of(
        cls,
        schema: Schema,
        ids: np.ndarray,
        values: np.ndarray | None,
        labels: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> "MemoryStore":
        """Rows of table rows ``ids`` [N, S] and ``values`` [N, S]; ``labels`` [N] are 0, ``weights`` [N] 1 by default.

        Where the schema has groups, they are all in one.
        """
        layout = RecordLayout.for_schema(schema)
        labels = np.zeros(len(ids), np.float32) if labels is None else labels
        if weights is None and schema.has_weights:
            weights = np.ones(len(ids), np.float32)
        groups = 0 * ids[:, 0] if schema.has_groups else None
        return cls(layout.pack(labels, ids, values, weights, groups), layout)

    @property
    def rows(self) -> int:
        return len(self.words)

    @property
    def groups(self) -> np.ndarray | None:
        return self.layout.groups(self.words)

    @property
    def block_starts(self) -> np.ndarray:
        return np.array([0, self.rows])

    def will_need(self, blocks: Iterable[int]) -> None:
        pass

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """The rows at ``indices``, copied: int32 [N, words]."""
        return self.words[indices]

    def slice(self, start: int, stop: int) -> np.ndarray:
        return self.words[start:stop]


class StoredRows(Protocol):
    """Rows int32 [rows, words] that are read by their places: a store's, or some in memory."""

    @property
    def rows(self) -> int: ...

    def slice(self, start: int, stop: int) -> np.ndarray: ...


class EvalSource(BatchSource):
    """A split in stored order, every row exactly once; the last batch is short (masked)."""

    def __init__(self, store: StoredRows, schema: Schema, batch_size: int, **parts):
        super().__init__(schema, batch_size, **parts)
        self.store = store

    def __len__(self) -> int:
        return math.ceil(self.store.rows / self.batch_size)

    def __getitem__(self, index: int) -> HostBatch:
        start = index * self.batch_size
        part = self.host_part(min(self.batch_size, self.store.rows - start))
        return self.batch(*self.join([(0, self.store.slice(start + part.start, start + part.stop))]))

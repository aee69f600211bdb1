"""Batches as random-access sources: element t of the training source is global batch t, whoever asks.

The global batch at step t is a pure function of (data, seed, t), so the data position in a checkpoint is one integer,
and any number of hosts sees the same global batches: a host reads its slice of each.
"""

import dataclasses
import functools
import math

import numpy as np

from dist_fm.data.records import HostBatch, RecordLayout
from dist_fm.data.schema import EMPTY, Schema
from dist_fm.data.store import BlockStore

# What a random stream is for; it goes into the generator's counter, so that streams of equal keys never meet.
_SHUFFLE, _UNSEEN = 1, 2


def _generator(stream: int, seed: int, index: int) -> np.random.Generator:
    key, counter = np.array([seed, index], np.uint64), np.array([0, 0, 0, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


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
        self._slots = schema.num_slots

    def host_part(self, rows: int) -> slice:
        """The part of a global batch of ``rows`` real rows that this host reads."""
        share = self.padded_size // self.hosts
        return slice(min(self.host * share, rows), min((self.host + 1) * share, rows))

    def batch(self, words: np.ndarray) -> HostBatch:
        """A padded batch from this host's gathered rows [n, words]."""
        share, count = self.padded_size // self.hosts, len(words)
        batch = {name: np.zeros(share, np.float32) for name in ("labels", "weights", "mask")}
        batch["labels"][:count] = self.layout.labels(words)
        weights = self.layout.weights(words)
        batch["weights"][:count] = 1 if weights is None else weights
        batch["mask"][:count] = 1
        batch["rows"] = np.full((share, self._slots), EMPTY, np.int32)
        batch["rows"][:count] = self.layout.ids(words)
        values = self.layout.values(words)
        if values is not None:
            batch["values"] = np.zeros((share, self._slots), np.float32)
            batch["values"][:count] = values
        return batch


class TrainSource(BatchSource):
    """Global training batches by step: every epoch an exact global permutation drawn from (seed, epoch).

    The last batch of an epoch is short (masked), never dropped. ``unseen_rate`` of the categorical ids are replaced by
    their field's unseen row, so that it learns what to say of values it will not know: a pure function of (seed, step).
    """

    def __init__(
        self, store: BlockStore, schema: Schema, batch_size: int, *, seed: int, steps: int, unseen_rate: float, **parts
    ):
        super().__init__(schema, batch_size, **parts)
        self.store, self.seed, self.steps, self.unseen_rate = store, seed, steps, unseen_rate
        self.steps_per_epoch = math.ceil(store.rows / batch_size)
        self._permutation = functools.lru_cache(maxsize=2)(self._draw_permutation)
        kinds = np.array([field.kind for field in schema.fields])[schema.slot_fields]
        self._may_be_unseen = kinds != "numeric"
        self._unseen_rows = schema.slot_offsets

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> HostBatch:
        epoch, at = divmod(step, self.steps_per_epoch)
        indices = self._permutation(epoch)[at * self.batch_size : (at + 1) * self.batch_size]
        part = self.host_part(len(indices))
        batch = self.batch(self.store.gather(indices[part].astype(np.int64)))
        self._forget(batch["rows"], step, part, len(indices))
        return batch

    def _draw_permutation(self, epoch: int) -> np.ndarray:
        # Half the memory where it fits: at 1e9 rows an order of int64 would be 8 GB.
        dtype = np.int32 if self.store.rows < 2**31 else np.int64
        order = np.arange(self.store.rows, dtype=dtype)
        _generator(_SHUFFLE, self.seed, epoch).shuffle(order)
        return order

    def _forget(self, rows: np.ndarray, step: int, part: slice, total: int) -> None:
        """Makes ids unseen in ``rows`` [share, S], which holds rows ``part`` of the ``total`` in the global batch."""
        if not self.unseen_rate:
            return
        slots = rows.shape[1]
        chosen = _chosen(_generator(_UNSEEN, self.seed, step), total * slots, self.unseen_rate)
        chosen = chosen[(chosen >= part.start * slots) & (chosen < part.stop * slots)] - part.start * slots
        row, slot = np.divmod(chosen, slots)
        keep = self._may_be_unseen[slot] & (rows[row, slot] != EMPTY)
        row, slot = row[keep], slot[keep]
        rows[row, slot] = self._unseen_rows[slot]


def _chosen(generator: np.random.Generator, count: int, rate: float) -> np.ndarray:
    """Positions in [0, count), each chosen with probability ``rate``: by the gaps between them, which are few."""
    if rate >= 1:
        return np.arange(count)
    expected = count * rate
    positions = np.cumsum(generator.geometric(rate, int(expected + 6 * expected**0.5 + 16))) - 1
    while positions[-1] < count:
        positions = np.append(positions, positions[-1] + np.cumsum(generator.geometric(rate, 64)))
    return positions[positions < count]


@dataclasses.dataclass(frozen=True)
class MemoryStore:
    """Rows int32 [N, words] in memory, read like a store."""

    words: np.ndarray

    @classmethod
    def of(cls, schema: Schema, ids: np.ndarray, values: np.ndarray | None) -> "MemoryStore":
        """Unlabelled rows of table rows ``ids`` [N, S] and ``values`` [N, S]."""
        layout = RecordLayout.for_schema(schema)
        ones = np.ones(len(ids), np.float32)
        groups = 0 * ids[:, 0] if schema.has_groups else None
        return cls(layout.pack(0 * ones, ids, values, ones if schema.has_weights else None, groups))

    @property
    def rows(self) -> int:
        return len(self.words)

    def slice(self, start: int, stop: int) -> np.ndarray:
        return self.words[start:stop]


class EvalSource(BatchSource):
    """A split in stored order, every row exactly once; the last batch is short (masked)."""

    def __init__(self, store: BlockStore | MemoryStore, schema: Schema, batch_size: int, **parts):
        super().__init__(schema, batch_size, **parts)
        self.store = store

    def __len__(self) -> int:
        return math.ceil(self.store.rows / self.batch_size)

    def __getitem__(self, index: int) -> HostBatch:
        start = index * self.batch_size
        part = self.host_part(min(self.batch_size, self.store.rows - start))
        return self.batch(self.store.slice(start + part.start, start + part.stop))

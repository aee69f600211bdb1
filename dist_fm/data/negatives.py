"""Negatives for training rows that are all positive, drawn anew in every epoch (He et al. 2017, "NCF").

A negative is its positive's row with the label 0 and another item, uniform among those that the user has no training
row of. Axes: P positives, K negatives of each, U user rows, I items, W words of a row that say which item it is.
"""

import functools
from collections.abc import Iterable

import numpy as np

from dist_fm.data.records import RecordLayout
from dist_fm.data.schema import Field, Schema
from dist_fm.data.store import BlockStore
from dist_fm.data.streams import NEGATIVES, generator

_STEPS_A_DRAW = 8  # as a draw for one step of 256 samples would cost as much as the rest of it


class NegativesError(ValueError):
    """Negatives that cannot be sampled."""


class Others:
    """The items that each user is in no pair with, by number: found by one search, however many a user has.

    ``keys`` int64: user x ``num_items`` + item of each pair, in any order, repeats allowed. They are sorted in place.
    """

    def __init__(self, keys: np.ndarray, num_users: int, num_items: int):
        keys.sort()
        keys = keys[np.diff(keys, prepend=-1) > 0]
        self._num_items = num_items
        self._starts = np.searchsorted(keys, np.arange(num_users + 1) * num_items)
        known = np.diff(self._starts)
        self.counts = num_items - known  # int64 [U]
        # Before a user's items i_0 < i_1 < ... lie i_0 - 0, i_1 - 1, ... others. As these ascend, those of them up to r
        # are as many as the user's items before other r.
        keys -= np.arange(len(keys)) - np.repeat(self._starts[:-1], known)
        self._others_before = keys

    def pick(self, users: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Of each of ``users`` the other of one of ``numbers``, 0 to below its count: items, int64, shaped alike."""
        passed = np.searchsorted(self._others_before, users * self._num_items + numbers, "right")
        return numbers + passed - self._starts[users]


class WithNegatives:
    """A store of positives with ``count`` negatives each, read like a store: rows n (1 + K) on are positive n, and then
    its negatives, whose items are still to be drawn (``Draws``).

    Items are those of the training rows; where ids are taken as they are, as in the paper's files, all up to the
    largest. Making it reads the store once, and it holds 8 bytes a pair of user and item, and 16 a row of the user's
    field. Raises ``NegativesError``, or ``SchemaError`` without a user and an item.
    """

    def __init__(self, store: BlockStore, schema: Schema, count: int):
        _check_positive(store, schema)
        self._store, self._each, self.layout = store, 1 + count, store.layout
        self.rows, self.block_starts = store.rows * self._each, store.block_starts * self._each
        user, item = _single(schema, "user"), _single(schema, "item")
        self.item_fields = item_fields(schema, item)
        self._user_column, self._user_offset = self.layout.first_id + _slots(schema, user)[0], user.offset
        self._columns = _item_columns(schema, self.layout, item, self.item_fields)
        keys, words = self._read_pairs(user, item)
        ids = keys % item.rows
        is_item = np.full(item.rows, "add" in item.transform and len(self.item_fields) == 1)
        is_item[ids] = True
        is_item[0] = False  # unseen: it stands for any number of items
        self.items = words[is_item]  # int32 [I, W]
        known = is_item[ids]
        numbers = np.cumsum(is_item) - 1
        keys = keys[known] // item.rows * len(self.items) + numbers[ids[known]]
        self._others = Others(keys, user.rows, len(self.items))
        if not self._others.counts.all():
            id_ = int(np.argmin(self._others.counts))
            raise NegativesError(
                f"{user.name} number {id_} (row {user.offset + id_} of the table) has training rows of all "
                f"{len(self.items):,} items, so that it can have no negatives"
            )

    def _read_pairs(self, user: Field, item: Field) -> tuple[np.ndarray, np.ndarray]:
        """user x item.rows + item of each row, by ids in their fields, int64 [P]; each id's words [item.rows, W]."""
        store, columns = self._store, self._columns
        keys = np.empty(store.rows, np.int64)
        words = np.zeros((item.rows, len(columns)), np.int32)
        words[:, 0] = item.offset + np.arange(item.rows)
        for start in range(0, store.rows, store.block_rows):
            rows = store.slice(start, min(start + store.block_rows, store.rows))
            items = rows[:, columns[0]] - item.offset
            users = rows[:, self._user_column].astype(np.int64) - user.offset
            keys[start : start + len(rows)] = users * item.rows + items
            if len(columns) > 1:
                words[items] = rows[:, columns]
        return keys, words

    def will_need(self, blocks: Iterable[int]) -> None:
        """As of a store."""
        self._store.will_need(blocks)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """The rows at ``indices``, copied, int32 [N, words]: a negative has the label 0, and its positive's item."""
        positives = indices // self._each
        words = self._store.gather(positives)
        self.layout.labels(words)[indices != positives * self._each] = 0
        return words

    def fill(self, words: np.ndarray, at: np.ndarray, numbers: np.ndarray) -> None:
        """Gives the rows ``at`` of ``words`` other items, by ``numbers`` [len(at)] from 0 to below 1."""
        users = words[at, self._user_column].astype(np.int64) - self._user_offset
        items = self._others.pick(users, (numbers * self._others.counts[users]).astype(np.int64))
        words[at[:, None], self._columns] = self.items[items]


class Draws:
    """Draws the items of negatives: those of global batch ``step`` from (seed, step) and the place in the batch."""

    def __init__(self, store: WithNegatives, seed: int, batch_size: int, places: slice):
        self._store, self._seed, self._batch_size, self._places = store, seed, batch_size, places
        self._numbers = functools.lru_cache(maxsize=2)(self._draw)  # two, as threads may be a draw apart

    def fill(self, words: np.ndarray, mask: np.ndarray, step: int) -> None:
        """Gives the negatives of this host's rows [share, words] of batch ``step`` their items."""
        draw, number = divmod(step, _STEPS_A_DRAW)
        at = np.flatnonzero(mask > self._store.layout.labels(words))  # not padding, whose label is 0 too
        self._store.fill(words, at, self._numbers(draw)[number, at])

    def _draw(self, draw: int) -> np.ndarray:
        """Numbers from 0 to below 1 for this host's places in each of some steps' batches."""
        shape = _STEPS_A_DRAW, self._batch_size
        return generator(NEGATIVES, self._seed, draw).random(shape)[:, self._places].copy()


def item_fields(schema: Schema, item: Field) -> list[Field]:
    """The fields that change with the item: it, its attributes, and what else is made of their columns alone.

    Raises ``NegativesError`` if one is also made of another column, so that it cannot be known for another item.
    """
    columns = {name for field in schema.fields if field.role in ("item", "item_side") for name in field.columns}
    found = [item]
    for field in schema.fields:
        if columns.issuperset(field.columns):
            found += [field] * (field != item)
        elif not columns.isdisjoint(field.columns):
            raise NegativesError(
                f"cannot know field {field.name!r}, a cross of {', '.join(field.columns)}, for another item: leave it "
                "out, or sample when the data set is built (build-lmdb --negatives)"
            )
    return found


def _check_positive(store: BlockStore, schema: Schema) -> None:
    if not schema.label.is_binary:
        what = "its labels are numbers"
    elif store.meta.positives < store.rows:
        what = f"{store.rows - store.meta.positives:,} of its {store.rows:,} have the label 0"
    else:
        return
    raise NegativesError(
        f"goes with training rows that are all positive, and of data set {schema.name!r} {what}: build it with "
        "--label=implicit, and without --negatives"
    )


def _single(schema: Schema, role: str) -> Field:
    """The field with ``role``, if a row holds one value of it."""
    field = schema.fields[schema.field_with_role(role)]
    if field.slots > 1 or field.kind == "numeric" or not {"split", "entries"}.isdisjoint(field.transform):
        raise NegativesError(f"needs as {role} a field of one category a row, which {field.name!r} is not")
    return field


def _slots(schema: Schema, field: Field) -> np.ndarray:
    return np.flatnonzero(schema.slot_fields == schema.fields.index(field))


def _item_columns(schema: Schema, layout: RecordLayout, item: Field, fields: list[Field]) -> np.ndarray:
    """The words of a row that hold ``fields``, the item's id first; its value, 1 in all rows, is none of them."""
    slots = np.concatenate([_slots(schema, field) for field in fields])
    values = slots[1:] + layout.slots if layout.has_values else slots[:0]
    return layout.first_id + np.concatenate([slots, values])

"""A valid split taken out of the training file: an item of each user, with negatives, like the NCF paper's test lines.

Axes: P rows of the training file, V users of whom an item is left out, K negatives of each.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_tools.errors import DataError
from data_tools.formats import Chunk, Rows
from data_tools.negatives import Items, are_positive, expand, join
from data_tools.numeric import parse_integer
from data_tools.split import uniform
from dist_fm.data.negatives import Others

RULE = "leave_one_out"
_NEGATIVES = 99  # as many as the paper's test lines have
_DRAWS = 1 << 62  # random numbers before it choose users' items, those from it on negatives


def parse_left_out(text: str | None) -> int | None:
    """The negatives of ``--valid=leave_one_out[:NEGATIVES]``; None for the path of a file, or for no text."""
    rule, colon, number = (text or "").partition(":")
    if rule.replace("-", "_") != RULE:
        return None
    count = parse_integer(number) if colon else _NEGATIVES
    if count is None or count < 1:
        raise DataError(f"--valid={text}: the number of negatives must be at least 1, as in --valid={RULE}:99")
    return count


def left_out(users: np.ndarray, items: np.ndarray, num_items: int, seed: int) -> np.ndarray:
    """Which of the pairs ``users`` and ``items`` [P] are left out: of each user with two items or more those of one,
    at random by ``seed``; bool [P]."""
    pairs, pair_of = np.unique(users * num_items + items, return_inverse=True)
    user_of = pairs // num_items
    order = np.lexsort((uniform(np.arange(len(pairs)), seed), user_of))  # each user's items in random order
    starts = np.flatnonzero(np.diff(user_of, prepend=-1))  # as they lie in ``order`` too
    starts = starts[np.diff(starts, append=len(pairs)) > 1]
    chosen = np.zeros(len(pairs), bool)
    chosen[order[starts]] = True
    return chosen[pair_of]


class _Read(NamedTuple):
    chunks: list[Chunk]
    users: np.ndarray  # codes [P] into user_names
    user_names: list[str]
    items: Items
    left_out: np.ndarray  # bool [P]


class _TrainingFile:
    """Rows of a file, all positive; see ``formats.Rows``. The whole file's codes are held in memory.

    ``user`` and ``items`` name columns, as in ``negatives.SampledNegatives``.
    """

    def __init__(self, rows: Rows, user: str, items: Sequence[str], seed: int):
        self._rows, self._user, self._items, self._seed = rows, user, items, seed
        self.total_bytes, self.text_bytes, self.has_times = rows.total_bytes, rows.text_bytes, rows.has_times

    @property
    def crc32(self) -> int:
        return self._rows.crc32

    def _read(self) -> _Read:
        chunks = list(self._rows)
        if not are_positive(chunks):
            raise DataError(f"--valid={RULE} goes with training rows that are all positive")
        users, names = join([chunk.columns[self._user] for chunk in chunks])
        items = Items(chunks, self._items)
        chosen = left_out(users, items.codes, items.count, self._seed)
        if not chosen.any():
            raise DataError(f"--valid={RULE}: no user has two items, so that one could be left out")
        return _Read(chunks, users, names, items, chosen)


class Remaining(_TrainingFile):
    """The rows that stay for training."""

    def __iter__(self) -> Iterator[Chunk]:
        read, start, row = self._read(), 0, 0
        for chunk in read.chunks:
            own = read.left_out[start : start + len(chunk.lines)]
            start += len(own)
            kept = dataclasses.replace(chunk.select(~own), first_row=row)
            row += kept.num_rows
            yield kept


class LeftOut(_TrainingFile):
    """The first row of each left-out pair, followed by up to ``count`` negatives: distinct items of the file that the
    user has no row of, and no positive row of in ``test``. Bad rows are the remaining ones' alone."""

    def __init__(self, rows: Rows, user: str, items: Sequence[str], seed: int, count: int, test: Rows | None):
        super().__init__(rows, user, items, seed)
        self._count, self._test = count, test

    def __iter__(self) -> Iterator[Chunk]:
        read = self._read()
        pairs = np.flatnonzero(read.left_out)
        rows = np.sort(pairs[np.unique(read.users[pairs], return_index=True)[1]])
        users, items = read.users[rows], read.items
        known = np.concatenate([read.users * items.count + items.codes, self._test_pairs(read.user_names, items)])
        others = Others(known, len(read.user_names), items.count)
        numbers = draw_distinct(others.counts[users], self._count, self._seed)
        drawn = np.where(numbers < 0, -1, others.pick(users[:, None], numbers))
        codes = np.column_stack([items.codes[rows], drawn])
        start = row = 0
        for chunk in read.chunks:
            first, end = np.searchsorted(rows, [start, start + len(chunk.lines)])
            chosen = dataclasses.replace(chunk.select(rows[first:end] - start), bad=[])
            expanded = expand(chosen, row, codes[first:end], items)
            start += len(chunk.lines)
            row += expanded.num_rows
            yield expanded

    def _test_pairs(self, user_names: list[str], items: Items) -> np.ndarray:
        """user x items + item of the positive rows of ``test``, where the training file has both."""
        user_of, item_of = ({name: code for code, name in enumerate(names)} for names in (user_names, items.names))
        found: list[int] = []
        for chunk in self._test or ():
            assert chunk.labels is not None
            positive = chunk.select(chunk.labels > 0).columns
            pairs = zip(np.asarray(positive[self._user]), np.asarray(positive[self._items[0]]), strict=True)
            found += [user_of[user] * items.count + item_of[item] for user, item in pairs
                      if user in user_of and item in item_of]  # fmt: skip
        return np.array(found, np.int64)


def draw_distinct(sizes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """For each of ``sizes`` [V], ``count`` distinct numbers below it, each set of them as likely as any other.

    int64 [V, count]; where a size is below ``count``, all numbers below it, and -1. By Floyd's algorithm.
    """
    drawn = np.full((len(sizes), count), -1, np.int64)
    for at in range(count):
        last = sizes - count + at
        random = uniform(_DRAWS + np.arange(len(sizes)) * count + at, seed)
        number = (random * (last + 1)).astype(np.int64)
        is_taken = (drawn[:, :at] == number[:, None]).any(axis=1)
        drawn[:, at] = np.where(last < 0, -1, np.where(is_taken, last, number))
    return drawn

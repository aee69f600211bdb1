"""Negatives for rows that are all positive: for each, some items that its user has no row of.

Items are drawn uniformly among those of the file, with replacement, as in the NCF paper, but once: a data set is fixed,
where the paper draws anew every epoch. Axes: P positives, K negatives of each, N = P (1 + K) rows.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from data_tools.formats import Chunk, Rows
from data_tools.split import uniform
from data_tools.tokens import Tokens

_ROUNDS = 8  # of drawing again where a user has the item; what is left then is drawn from the user's other items


class SampledNegatives:
    """The rows of a file, each followed by ``count`` negatives: the same row with another item and the label 0.

    See ``formats.Rows``. The whole file's codes are held in memory. A user who has every item gets no negatives, and
    neither does a file that has negatives already.
    """

    def __init__(self, rows: Rows, user: str, item: str, count: int, seed: int):
        self._rows, self._user, self._item, self._count, self._seed = rows, user, item, count, seed
        self.total_bytes, self.text_bytes, self.has_times = rows.total_bytes, rows.text_bytes, rows.has_times

    @property
    def crc32(self) -> int:
        return self._rows.crc32

    def __iter__(self) -> Iterator[Chunk]:
        chunks = list(self._rows)
        if not all(chunk.labels is not None and chunk.labels.all() for chunk in chunks):
            yield from chunks
            return
        users, _ = _joined([chunk.columns[self._user] for chunk in chunks])
        items, values = _joined([chunk.columns[self._item] for chunk in chunks])
        drawn = draw_negatives(users, items, len(values), self._count, self._seed)
        start = row = 0
        for chunk in chunks:
            part = slice(start, start + len(chunk.lines))
            start = part.stop
            expanded = self._expanded(chunk, row, np.column_stack([items[part], drawn[part]]), values)
            row += expanded.num_rows
            yield expanded

    def _expanded(self, chunk: Chunk, first_row: int, items: np.ndarray, values: list[str]) -> Chunk:
        """``items``: codes [P, 1 + K] into ``values``, the row's own first, -1 for none."""
        rows, drawn = np.nonzero(items >= 0)
        chosen = chunk.select(rows)
        columns = {**chosen.columns, self._item: Tokens(items[rows, drawn], values)}
        return dataclasses.replace(chosen, first_row=first_row, columns=columns, labels=(drawn == 0).astype(np.float32))


def draw_negatives(users: np.ndarray, items: np.ndarray, num_items: int, count: int, seed: int) -> np.ndarray:
    """For each pair of ``users`` and ``items`` [P], ``count`` items below ``num_items`` that the user has in no pair.

    int64 [P, count], a function of its arguments alone; -1 where the user has every item.
    """
    known = np.unique(users * num_items + items)
    drawn = np.full(len(users) * count, -1, np.int64)
    left = np.arange(len(drawn))
    for attempt in range(_ROUNDS):
        found = (uniform(left + attempt * len(drawn), seed) * num_items).astype(np.int64)
        is_known = _holds(known, users[left // count] * num_items + found)
        drawn[left[~is_known]] = found[~is_known]
        left = left[is_known]
    for at, number in zip(left.tolist(), uniform(left + _ROUNDS * len(drawn), seed).tolist(), strict=True):
        first = users[at // count] * num_items
        own = known[np.searchsorted(known, first) : np.searchsorted(known, first + num_items)] - first
        others = np.setdiff1d(np.arange(num_items), own, assume_unique=True)
        if len(others):
            drawn[at] = others[int(number * len(others))]
    return drawn.reshape(-1, count)


def _holds(known: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Which of ``keys`` are among ``known``, which is sorted and not empty: bool."""
    return known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys


def _joined(parts: list[Tokens]) -> tuple[np.ndarray, list[str]]:
    """One column of many: codes [P], and the distinct values that rows hold, by code, in an order of their own."""
    used = [np.unique(part.codes, return_inverse=True) for part in parts]
    held = [[part.values[code] for code in codes.tolist()] for part, (codes, _) in zip(parts, used, strict=True)]
    values = sorted(set().union(*held))
    code_of = {value: code for code, value in enumerate(values)}
    codes = [np.array([code_of[value] for value in own], np.int64)[inverse]
             for own, (_, inverse) in zip(held, used, strict=True)]  # fmt: skip
    return np.concatenate(codes), values

"""Negatives for rows that are all positive: for each, some items that its user has no row of.

Items are drawn uniformly among those of the file, with replacement, as in the NCF paper, but once: a data set is fixed.
Training can draw anew every epoch (``dist_fm.data.negatives``). Axes: P positives, K negatives of each, I items.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from data_tools.formats import Chunk, Rows
from data_tools.split import uniform
from data_tools.tokens import Tokens
from dist_fm.data.negatives import Others


class Items:
    """The items of a whole file: of each row the code, into ``names`` [I]; and what ``columns`` hold for each item.

    The first of ``columns`` is the item's own; what another holds for an item is what it holds in the item's first row.
    """

    def __init__(self, chunks: Sequence[Chunk], columns: Sequence[str]):
        joined = {name: join([chunk.columns[name] for chunk in chunks]) for name in columns}
        self.codes, self.names = joined[columns[0]]
        self.count = len(self.names)
        first = np.unique(self.codes, return_index=True)[1]
        self._columns = {name: Tokens(codes[first], values) for name, (codes, values) in joined.items()}

    def columns(self, codes: np.ndarray) -> dict[str, Tokens]:
        """The columns of rows of the items ``codes`` [N]."""
        return {name: of_items.select(codes) for name, of_items in self._columns.items()}


class SampledNegatives:
    """The rows of a file, each followed by ``count`` negatives: the same row with another item and the label 0.

    ``items`` are the columns that say which item a row has, its own first. See ``formats.Rows``. The whole file's codes
    are held in memory. A user who has every item gets no negatives, and neither does a file that has negatives already.
    """

    def __init__(self, rows: Rows, user: str, items: Sequence[str], count: int, seed: int):
        self._rows, self._user, self._items, self._count, self._seed = rows, user, items, count, seed
        self.total_bytes, self.text_bytes, self.has_times = rows.total_bytes, rows.text_bytes, rows.has_times

    @property
    def crc32(self) -> int:
        return self._rows.crc32

    def __iter__(self) -> Iterator[Chunk]:
        chunks = list(self._rows)
        if not are_positive(chunks):
            yield from chunks
            return
        users, _ = join([chunk.columns[self._user] for chunk in chunks])
        items = Items(chunks, self._items)
        drawn = draw_negatives(users, items.codes, items.count, self._count, self._seed)
        start = row = 0
        for chunk in chunks:
            part = slice(start, start + len(chunk.lines))
            start = part.stop
            expanded = expand(chunk, row, np.column_stack([items.codes[part], drawn[part]]), items)
            row += expanded.num_rows
            yield expanded


def expand(chunk: Chunk, first_row: int, codes: np.ndarray, items: Items) -> Chunk:
    """Each row of ``chunk`` with each of its items, ``codes`` [P, 1 + K], its own first, -1 for none."""
    rows, drawn = np.nonzero(codes >= 0)
    chosen = chunk.select(rows)
    columns = {**chosen.columns, **items.columns(codes[rows, drawn])}
    return dataclasses.replace(chosen, first_row=first_row, columns=columns, labels=(drawn == 0).astype(np.float32))


def draw_negatives(users: np.ndarray, items: np.ndarray, num_items: int, count: int, seed: int) -> np.ndarray:
    """For each pair of ``users`` and ``items`` [P], ``count`` items below ``num_items`` that the user has in no pair.

    int64 [P, count], a function of its arguments alone; -1 where the user has every item.
    """
    others = Others(users * num_items + items, int(users.max(initial=-1)) + 1, num_items)
    free = others.counts[users][:, None]
    numbers = uniform(np.arange(len(users) * count), seed).reshape(-1, count)
    drawn = others.pick(users[:, None], (numbers * free).astype(np.int64))
    return np.where(free > 0, drawn, -1)


def are_positive(chunks: Sequence[Chunk]) -> bool:
    """Whether all rows have the label 1."""
    return all(chunk.labels is not None and chunk.labels.all() for chunk in chunks)


def join(parts: Sequence[Tokens]) -> tuple[np.ndarray, list[str]]:
    """One column of many: codes [P], and the distinct values that rows hold, by code, in an order of their own."""
    used = [np.unique(part.codes, return_inverse=True) for part in parts]
    held = [[part.values[code] for code in codes.tolist()] for part, (codes, _) in zip(parts, used, strict=True)]
    values = sorted(set().union(*held))
    code_of = {value: code for code, value in enumerate(values)}
    codes = [np.array([code_of[value] for value in own], np.int64)[inverse]
             for own, (_, inverse) in zip(held, used, strict=True)]  # fmt: skip
    return np.concatenate(codes), values

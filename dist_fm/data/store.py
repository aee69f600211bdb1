"""Reading blocks of records from LMDB: from any thread, without copies or locks. Axes: N rows."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from dist_fm.data.records import BLOCK_HEADER_BYTES, RecordLayout
from dist_fm.data.store_map import StoreError, StoreMap, StoreMeta, open_map, view


class BlockStore:
    """The finished store at ``path``, or the shards of one in order, read-only; safe to share between threads, to fork
    and to pickle.

    Every shard but the last holds whole blocks alone, so that blocks, and rows, are numbered through all of them.
    Raises ``StoreError`` if one is no finished store, or unlike the first; reading raises it, naming file and block,
    when a block's checksum is wrong (checked the first time this process touches the block).
    Arrays keep the files mapped for as long as they live, so they stay valid after ``close()``.
    """

    def __init__(self, path: str | os.PathLike, *more: str | os.PathLike):
        self.paths = tuple(map(pathlib.Path, (path, *more)))
        self._maps: tuple[StoreMap, ...] = tuple(map(open_map, self.paths))
        self.meta = self._joined_meta()
        self._rows_at_byte, self._row_starts = _rows_at_byte(self._maps)
        self._first_blocks = np.cumsum([0, *(opened.meta.blocks for opened in self._maps)])
        self._is_checked = False

    def _joined_meta(self) -> StoreMeta:
        first, *others = (opened.meta for opened in self._maps)
        for path, meta in zip(self.paths[1:], others, strict=True):
            if (meta.layout, meta.block_rows) != (first.layout, first.block_rows):
                raise StoreError(
                    f"{path}: {meta.layout} in blocks of {meta.block_rows} rows, unlike {self.paths[0]}: "
                    f"{first.layout} in blocks of {first.block_rows}; build them again"
                )
        for opened in self._maps[:-1]:
            if opened.meta.rows % first.block_rows:
                raise StoreError(
                    f"{opened.path}: {opened.meta.rows} rows are not whole blocks of {first.block_rows}, as every "
                    "shard but the last must hold"
                )
        total = lambda name: sum(getattr(opened.meta, name) for opened in self._maps)
        sums = {name: total(name) for name in ("rows", "positives", "label_sum")}
        return dataclasses.replace(first, **sums)

    def __getstate__(self) -> dict:
        return {"paths": self.paths}

    def __setstate__(self, state: dict) -> None:
        self.__init__(*state["paths"])  # type: ignore[misc]

    def __enter__(self) -> "BlockStore":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __len__(self) -> int:
        return self.rows

    @property
    def path(self) -> pathlib.Path:
        """The first of ``paths``."""
        return self.paths[0]

    @property
    def layout(self) -> RecordLayout:
        return self.meta.layout

    @property
    def rows(self) -> int:
        return self.meta.rows

    @property
    def block_rows(self) -> int:
        return self.meta.block_rows

    @property
    def num_blocks(self) -> int:
        return self.meta.blocks

    @property
    def block_starts(self) -> np.ndarray:
        """The first row of each block, and the number of rows: int64 [blocks + 1]."""
        return np.minimum(np.arange(self.num_blocks + 1) * self.block_rows, self.rows)

    def block(self, number: int) -> np.ndarray:
        """The rows of one block, a read-only view int32 [N, words]."""
        if not 0 <= number < self.num_blocks:
            raise IndexError(f"{self.path} has {self.num_blocks} blocks; there is no block {number}")
        self._check(np.array([number]))
        opened, inside = self._find(number)
        return opened.block(inside)

    def where(self, number: int) -> str:
        """A block's name in messages: its file and its number there."""
        opened, inside = self._find(number)
        return opened.where(inside)

    def will_need(self, blocks: Iterable[int]) -> None:
        """Has the kernel read ``blocks`` from disk ahead of their use, unless they are in memory."""
        for number in blocks:
            opened, inside = self._find(number)
            opened.will_need(inside)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """The rows at ``indices`` (integers [N], any order, repeats allowed), copied: int32 [N, words]."""
        indices = np.asarray(indices, np.int64)
        if not len(indices):
            return np.empty((0, self.layout.words), "<i4")
        if indices.min() < 0 or indices.max() >= self.rows:
            raise IndexError(f"{self.path} has {self.rows} rows; asked for {indices.min()} .. {indices.max()}")
        blocks = indices // self.block_rows  # and not divmod, which takes many times longer
        self._check(blocks)
        at = self._row_starts[blocks] + (indices - blocks * self.block_rows) * (4 * self.layout.words)
        return self._rows_at_byte[at].view("<i4").reshape(len(indices), -1)

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` (exclusive), int32 [N, words]: a read-only view when they lie in one block."""
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"{self.path} has {self.rows} rows; asked for {start} to {stop}")
        first, last = start // self.block_rows, max(stop - 1, start) // self.block_rows
        if start == stop:
            return np.empty((0, self.layout.words), "<i4")
        begin = first * self.block_rows
        self.will_need(range(first, last + 1))
        parts = [self.block(number) for number in range(first, last + 1)]
        parts[-1] = parts[-1][: stop - last * self.block_rows]
        parts[0] = parts[0][start - begin :]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @functools.cached_property
    def groups(self) -> np.ndarray | None:
        """The group of every row, int32 [rows]; None when records have none."""
        if not self.layout.has_groups:
            return None
        found = np.empty(self.rows, np.int32)
        for number in range(self.num_blocks):
            start = number * self.block_rows
            found[start : start + self.block_rows] = self.layout.groups(self.block(number))  # type: ignore[assignment]
        return found

    def close(self) -> None:
        """Lets go of the files; they are unmapped once no store and no array of this process uses them."""
        self._maps = ()
        self._rows_at_byte = np.empty(0)

    def _find(self, number: int) -> tuple[StoreMap, int]:
        """The map that holds a block, and the block's number there."""
        self._check_open()
        shard = int(np.searchsorted(self._first_blocks, number, "right")) - 1
        return self._maps[shard], number - int(self._first_blocks[shard])

    def _check(self, blocks: np.ndarray) -> None:
        """Checks those of ``blocks`` that this process has not checked yet."""
        self._check_open()
        if self._is_checked:
            return
        touched = np.zeros(self.num_blocks, bool)
        touched[blocks] = True
        for opened, first in zip(self._maps, self._first_blocks[:-1], strict=True):
            opened.check(np.flatnonzero(touched[first : first + opened.meta.blocks]))
        self._is_checked = all(opened.is_checked for opened in self._maps)

    def _check_open(self) -> None:
        if not self._maps:
            raise StoreError(f"{self.path}: this store was closed")


def _rows_at_byte(maps: tuple[StoreMap, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An array with an element, a whole row, at *every* byte from the first block's to the last row's of all ``maps``;
    and where in it the first row of each block is, int64 [blocks].

    One fancy index of byte offsets (start of the block + row * row_bytes) then gathers rows of any blocks of any map at
    memcpy's speed, which a loop over thousands of blocks would not. What lies between the maps must not be touched.
    """
    addresses = np.concatenate([opened.addresses for opened in maps])
    row_bytes = maps[0].row_bytes
    if not len(addresses):
        return np.empty(0, f"V{row_bytes}"), addresses
    first = int(addresses.min())
    span = int((addresses + np.concatenate([opened.lengths for opened in maps])).max()) - first
    rows = np.ndarray((span - row_bytes + 1,), f"V{row_bytes}", view(first, span, maps), 0, (1,))
    return rows, addresses - first + BLOCK_HEADER_BYTES

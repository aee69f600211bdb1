"""A split of a data set on disk: one store, ``train.lmdb``, or shards, ``train-00000-of-00004.lmdb`` and so on."""

import os
import pathlib
import re
import shutil

import numpy as np

from dist_fm.data.records import RecordLayout
from dist_fm.data.store import BlockStore
from dist_fm.data.store_map import StoreError, StoreMeta
from dist_fm.data.store_writer import DEFAULT_BLOCK_ROWS, DEFAULT_MAP_SIZE, BlockWriter

MAX_SHARDS = 99_999  # five digits
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.lmdb")


def store_names(split: str, shards: int) -> list[str]:
    """The stores of a split in ``shards`` parts, in order."""
    return [f"{split}.lmdb"] if shards == 1 else [f"{split}-{n:05}-of-{shards:05}.lmdb" for n in range(shards)]


def find_split(directory: pathlib.Path, split: str) -> list[pathlib.Path]:
    """The stores of ``split`` in ``directory``, in order; raises ``StoreError`` for a shard too few or too many."""
    found = {path.name for path in directory.glob(f"{split}-*.lmdb") if _SHARD.fullmatch(path.name, len(split))}
    counts = {int(name[-10:-5]) for name in found} | ({1} if (directory / f"{split}.lmdb").exists() else set())
    if len(counts) > 1:
        listed = ", ".join(store_names(split, shards)[0] for shards in sorted(counts))
        raise StoreError(f"{directory}: several stores of the {split} split ({listed}); remove all but one")
    (shards,) = counts or {1}
    names = store_names(split, shards)
    missing = set(names) - found if found else set()
    further = found - set(names)
    if missing or further:
        what = "is missing" if missing else "is one too many"
        raise StoreError(f"{directory / min(missing or further)}: this shard of the {split} split {what}")
    return [directory / name for name in names]


def open_split(directory: str | os.PathLike, split: str) -> BlockStore:
    """The rows of ``split``, in one store or in shards; raises ``StoreError`` if they are not all there."""
    return BlockStore(*find_split(pathlib.Path(directory), split))


class SplitWriter:
    """Writes the ``rows`` rows of ``split``, in any portions, into ``shards`` stores of about as many blocks each.

    Used as a context manager it finishes them, or, on an error, removes them. Raises ``StoreError``.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        split: str,
        rows: int,
        layout: RecordLayout,
        *,
        shards: int = 1,
        block_rows: int = DEFAULT_BLOCK_ROWS,
        map_size: int = DEFAULT_MAP_SIZE,
    ):
        self._directory, self._layout, self._options = directory, layout, (block_rows, map_size)
        blocks = -(-rows // block_rows)
        ends = [min((number + 1) * blocks // shards * block_rows, rows) for number in range(shards)]
        self._waiting = list(zip(store_names(split, shards), np.diff(ends, prepend=0).tolist(), strict=True))
        self._finished: dict[pathlib.Path, StoreMeta] = {}
        self._open_next()

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
            return
        self._writer.abort()
        for path in self._finished:
            shutil.rmtree(path, ignore_errors=True)

    def append(self, rows: np.ndarray) -> None:
        """Adds rows int32 [N, words] behind those already added."""
        while len(rows) > self._room and self._waiting:
            self._writer.append(rows[: self._room])
            rows = rows[self._room :]
            self._finish()
            self._open_next()
        self._writer.append(rows)
        self._room -= len(rows)

    def close(self) -> dict[str, int]:
        """Finishes the last shard, and those that get no rows; counts of rows, positives and blocks."""
        self._finish()
        while self._waiting:
            self._open_next()
            self._finish()
        return {
            name: sum(getattr(meta, name) for meta in self._finished.values())
            for name in ("rows", "positives", "blocks")
        }

    def _open_next(self) -> None:
        name, self._room = self._waiting.pop(0)
        self._writer = BlockWriter(self._directory / name, self._layout, *self._options)

    def _finish(self) -> None:
        self._finished[self._writer.path] = self._writer.close()

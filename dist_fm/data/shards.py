"""A split of a data set on disk: one store, ``train.lmdb``, or shards, ``train-00000-of-00004.lmdb`` and so on."""

import os
import pathlib
import re

from dist_fm.data.store import BlockStore
from dist_fm.data.store_map import StoreError

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


def shard_ends(rows: int, shards: int, block_rows: int) -> list[int]:
    """Where each of the ``shards`` of ``rows`` rows ends: all but the last hold whole blocks, about as many each."""
    blocks = -(-rows // block_rows)
    return [min((number + 1) * blocks // shards * block_rows, rows) for number in range(shards)]

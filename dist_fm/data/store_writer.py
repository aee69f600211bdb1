"""Writing blocks of records into LMDB: once, in order.

Keys are 8-byte big-endian block numbers, ``index`` (where the blocks are, for opening without looking each up), and,
last, ``meta``: a store without it was never finished and does not open.
Every block holds ``block_rows`` rows, the last one the rest. Axes: N rows.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import zlib

import lmdb
import numpy as np

from dist_fm.data.records import RecordLayout, encode_block
from dist_fm.data.store_map import INDEX_KEY, META_KEY, StoreError, StoreMeta, address_of, block_key, drop_pages

DEFAULT_BLOCK_ROWS = 8192
DEFAULT_MAP_SIZE = 1 << 40  # address space, not disk: the file only grows as far as it is written
_COMMIT_BYTES = 64 << 20  # what one transaction may hold in memory


class BlockWriter:
    """Writes rows, in any portions, as blocks into a new store at ``path`` (a directory that must not exist yet).

    Used as a context manager it finishes the store, or, on an error, removes it. Raises ``StoreError`` when the disk
    or the map is full, having removed what it wrote.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        layout: RecordLayout,
        block_rows: int = DEFAULT_BLOCK_ROWS,
        map_size: int = DEFAULT_MAP_SIZE,
    ):
        if block_rows < 1:
            raise StoreError(f"block_rows must be at least 1, not {block_rows}")
        self.path = pathlib.Path(path)
        self.layout = layout
        self._block_rows = block_rows
        self._map_size = map_size
        self._pending = np.empty((block_rows, layout.words), "<i4")
        self._num_pending = 0
        self._rows = self._blocks = self._positives = self._uncommitted_bytes = 0
        self._label_sum = 0.0
        self._addresses: list[int] = []
        self._transaction: lmdb.Transaction | None = None
        self._meta: StoreMeta | None = None
        try:
            self.path.mkdir(parents=True)
            # sync=False: nothing is read back before close() syncs everything at once.
            self._env = lmdb.open(os.fspath(self.path), map_size=map_size, sync=False, lock=False)
        except (lmdb.Error, OSError) as error:
            if not isinstance(error, FileExistsError):
                shutil.rmtree(self.path, ignore_errors=True)
            raise StoreError(f"{self.path}: cannot create the store: {error}") from error

    def __enter__(self) -> "BlockWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def append(self, rows: np.ndarray) -> None:
        """Adds rows int32 [N, words] behind those already added."""
        if rows.ndim != 2 or rows.shape[1] != self.layout.words or rows.dtype != np.dtype("<i4"):
            raise StoreError(f"{self.path}: rows must be int32 [N, {self.layout.words}], not {rows.dtype} {rows.shape}")
        labels = self.layout.labels(rows)
        self._positives += int(np.count_nonzero(labels > 0))
        self._label_sum += float(labels.sum(dtype=np.float64))
        self._rows += len(rows)
        while len(rows):
            if not self._num_pending and len(rows) >= self._block_rows:
                self._put(rows[: self._block_rows])
                rows = rows[self._block_rows :]
                continue
            taken = rows[: self._block_rows - self._num_pending]
            self._pending[self._num_pending : self._num_pending + len(taken)] = taken
            self._num_pending += len(taken)
            rows = rows[len(taken) :]
            if self._num_pending == self._block_rows:
                self._put(self._pending)
                self._num_pending = 0

    def close(self) -> StoreMeta:
        """Writes the last block and the meta entry, and waits until everything is on disk. Again: does nothing."""
        if self._meta is not None:
            return self._meta
        if self._num_pending:
            self._put(self._pending[: self._num_pending])
        layout = dataclasses.asdict(self.layout)
        meta = StoreMeta(
            rows=self._rows,
            block_rows=self._block_rows,
            positives=self._positives,
            label_sum=self._label_sum,
            **layout,
        )
        try:
            # Smaller blocks lie in pages of the B-tree, which move; there, to look them all up reads little.
            if self._blocks > 1 and self._pending.nbytes >= self._env.stat()["psize"]:
                self._commit()
                self._put_entry(INDEX_KEY, _index(self._addresses))
            self._put_entry(META_KEY, json.dumps(dataclasses.asdict(meta)).encode())
            self._commit()
            self._env.sync(True)
            self._env.close()
            sync_directory(self.path)
            sync_directory(self.path.parent)
        except (lmdb.Error, OSError) as error:
            raise self._failure(error) from error
        self._meta = meta
        return meta

    def abort(self) -> None:
        """Removes the unfinished store."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None
        self._env.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def _put(self, rows: np.ndarray) -> None:
        try:
            self._put_entry(block_key(self._blocks), encode_block(rows))
            self._blocks += 1
            if self._uncommitted_bytes >= _COMMIT_BYTES:
                self._commit()
        except (lmdb.Error, OSError) as error:
            raise self._failure(error) from error

    def _put_entry(self, key: bytes, value: bytes) -> None:
        if self._transaction is None:
            self._transaction = self._env.begin(write=True)
        if not self._transaction.put(key, value, append=True):  # LMDB refuses an append out of order in silence
            raise StoreError(f"{self.path}: entry {key!r} is out of order")
        self._uncommitted_bytes += len(value)

    def _commit(self) -> None:
        if self._transaction is not None:
            self._transaction.commit()
            self._transaction = None
            with self._env.begin(buffers=True) as written:
                numbers = range(len(self._addresses), self._blocks)
                new = [address_of(written.get(block_key(number))) for number in numbers]
                if new:  # LMDB has read them, and would keep the whole file in memory in the end
                    drop_pages(min(new), max(new) - min(new) + self._pending.nbytes)
                self._addresses += new
        self._uncommitted_bytes = 0

    def _failure(self, error: Exception) -> StoreError:
        self.abort()
        if isinstance(error, lmdb.MapFullError):
            return StoreError(
                f"{self.path}: the map of {self._map_size:,} bytes is full after {self._blocks} blocks; "
                "give a larger --map_size (it is address space, not disk)"
            )
        return StoreError(
            f"{self.path}: writing failed after {self._blocks} blocks: {error}; free some disk space, or "
            "write to another disk with --output"
        )


def sync_directory(path: pathlib.Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _index(addresses: list[int]) -> bytes:
    """A CRC-32, and the bytes from the first block to each but the last, which may be so short that it moves."""
    offsets = (np.array(addresses[:-1], "<i8") - addresses[0]).tobytes()
    return zlib.crc32(offsets).to_bytes(4, "little") + offsets

"""A store's file mapped into memory: what BlockStore reads from, one for each file and process."""

import ctypes
import dataclasses
import json
import mmap
import os
import pathlib
import threading
import weakref
import zlib
from typing import Any

import lmdb
import numpy as np

from dist_fm.data.records import BLOCK_HEADER_BYTES, RecordError, RecordLayout, decode_block

INDEX_KEY, META_KEY = b"index", b"meta"  # sort behind every block number that can occur
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class StoreError(RuntimeError):
    """A store that cannot be written or opened, or whose blocks are damaged."""


@dataclasses.dataclass(frozen=True)
class StoreMeta:
    """What a finished store says about itself. ``positives`` counts the labels above 0."""

    rows: int
    block_rows: int
    slots: int
    has_values: bool
    has_weights: bool
    positives: int
    label_sum: float
    has_groups: bool = False

    @property
    def layout(self) -> RecordLayout:
        return RecordLayout(self.slots, self.has_values, self.has_weights, self.has_groups)

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.block_rows)


class StoreMap:
    """One mapped store of this process, and the ``addresses`` of its blocks' bytes.

    LMDB maps the file as one region. What ``block`` returns holds this object, and it the mapping, so that nothing is
    unmapped while an array can still be read.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._pid = os.getpid()
        self._env = lmdb.open(
            os.fspath(path), create=False, readonly=True, lock=False, readahead=False, meminit=False, max_spare_txns=0
        )
        # One read transaction for the life of the mapping: its pages' addresses stay valid, and threads need no lock.
        self._transaction = self._env.begin(buffers=True)
        self.meta = self._read_meta()
        self.row_bytes = 4 * self.meta.layout.words
        self.addresses, self.lengths = self._find_blocks()
        self._unchecked = np.ones(self.meta.blocks, bool)

    def __del__(self, getpid=os.getpid):  # bound here: `os` may be gone when the interpreter ends
        # A forked child inherits the mapping but must not touch the parent's environment.
        if hasattr(self, "_env") and self._pid == getpid():
            if hasattr(self, "_transaction"):
                self._transaction.abort()
            self._env.close()

    def block(self, number: int) -> np.ndarray:
        return decode_block(self._block_bytes(number), where=self.where(number), check=False)

    def check(self, blocks: np.ndarray) -> None:
        """Checks those of ``blocks`` (distinct numbers) that were not checked yet."""
        for number in blocks[self._unchecked[blocks]]:
            self.will_need(number)
            try:
                rows = decode_block(self._block_bytes(number), where=self.where(number))
            except RecordError as error:
                raise StoreError(str(error)) from error
            if 4 * rows.shape[1] != self.row_bytes:
                raise StoreError(f"{self.where(number)}: {rows.shape[1]} words a row, not {self.row_bytes // 4}")
            self._unchecked[number] = False

    @property
    def is_checked(self) -> bool:
        """Whether every block was checked."""
        return not self._unchecked.any()

    def will_need(self, number: int) -> None:
        """Has the kernel read a block from disk in large pieces, ahead of its use.

        LMDB has switched that off: rows are read in random order, and each would bring its neighbours along.
        """
        address = int(self.addresses[number])
        start = address - address % mmap.PAGESIZE
        _madvise(start, address + int(self.lengths[number]) - start, mmap.MADV_WILLNEED)

    def _block_bytes(self, number: int) -> memoryview:
        return view(int(self.addresses[number]), int(self.lengths[number]), self)

    def where(self, number: int) -> str:
        """A block's name in messages."""
        return f"{self.path}: block {number}"

    def _read_meta(self) -> StoreMeta:
        last_page = self._env.info()["last_pgno"]
        needed = (last_page + 1) * self._env.stat()["psize"]
        size = (self.path / "data.mdb").stat().st_size
        if size < needed:  # reading behind the end of a mapped file would kill the process
            raise StoreError(f"{self.path}: cut short: data.mdb has {size:,} of {needed:,} bytes; build it again")
        raw = self._transaction.get(META_KEY)
        if raw is None:
            raise StoreError(f"{self.path}: not a finished store: its writer was stopped; build it again")
        try:
            return StoreMeta(**json.loads(bytes(raw)))
        except (TypeError, ValueError) as error:
            raise StoreError(f"{self.path}: the store's meta entry is damaged: {error}") from error

    def _find_blocks(self) -> tuple[np.ndarray, np.ndarray]:
        meta = self.meta
        rows = np.full(meta.blocks, meta.block_rows)
        rows[-1:] = meta.rows - (meta.blocks - 1) * meta.block_rows
        lengths = BLOCK_HEADER_BYTES + rows * self.row_bytes
        found = self._env.stat()["entries"] - 1 - (self._transaction.get(INDEX_KEY) is not None)
        if found != meta.blocks:
            raise StoreError(f"{self.path}: {found} of {meta.blocks} blocks are there; build it again")
        addresses = self._noted_addresses(lengths)
        if addresses is None:
            addresses = np.fromiter(map(self._address, range(meta.blocks), lengths), np.int64, meta.blocks)
        return addresses, lengths

    def _noted_addresses(self, lengths: np.ndarray) -> np.ndarray | None:
        """Where the writer saw the blocks: to look one up has py-lmdb read all of it from disk.

        None where it noted nothing, as for small blocks, or where they lie otherwise, as in a compacted copy.
        """
        noted, last = self._transaction.get(INDEX_KEY), len(lengths) - 1
        if noted is None or zlib.crc32(noted[4:]) != int.from_bytes(noted[:4], "little"):
            return None
        addresses = np.frombuffer(noted, "<i8", offset=4) + self._address(0, lengths[0])
        if len(addresses) != last or self._address(last - 1, lengths[0]) != addresses[-1]:
            return None
        return np.append(addresses, self._address(last, lengths[last]))

    def _address(self, number: int, length: int) -> int:
        """Where a block of ``length`` bytes begins in memory."""
        value = self._transaction.get(block_key(number))
        if value is None:
            raise StoreError(f"{self.where(number)} is missing; build it again")
        if len(value) != length:
            raise StoreError(f"{self.where(number)}: {len(value)} bytes are not the {length} that its rows take")
        return address_of(value)


def drop_pages(address: int, length: int) -> None:
    """Takes the pages of a mapped file out of this process's memory; to read them again is to read the file."""
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    _madvise(first, max(address + length - first, 0) // mmap.PAGESIZE * mmap.PAGESIZE, mmap.MADV_DONTNEED)


def address_of(value: Any) -> int:
    """Where in memory a value of LMDB's begins."""
    return np.frombuffer(value, np.uint8).ctypes.data


def view(address: int, length: int, owner: object) -> memoryview:
    """Read-only bytes of memory, which hold ``owner``."""
    buffer = (ctypes.c_char * length).from_address(address)
    buffer.owner = owner  # type: ignore[attr-defined]
    return memoryview(buffer).toreadonly()


# LMDB allows a file to be open once in a process (a forked child included), so stores of one file share its map.
_maps: "weakref.WeakValueDictionary[tuple[int, int], StoreMap]" = weakref.WeakValueDictionary()
_maps_lock = threading.Lock()


def open_map(path: pathlib.Path) -> StoreMap:
    """The map of the store at ``path``; raises ``StoreError`` if there is no finished store."""
    try:
        status = (path / "data.mdb").stat()
    except OSError as error:
        raise StoreError(f"{path}: no such store (a store is a directory with a data.mdb)") from error
    with _maps_lock:
        opened = _maps.get((status.st_dev, status.st_ino))
        if opened is None:
            try:
                opened = StoreMap(path)
            except lmdb.Error as error:
                raise StoreError(f"{path}: cannot be opened: {error}; if it was damaged, build it again") from error
            _maps[(status.st_dev, status.st_ino)] = opened
        return opened


def block_key(number: int) -> bytes:
    """The LMDB key of a block."""
    return number.to_bytes(8, "big")

"""Records: how a row becomes 4-byte words, and how a few thousand rows become one block of bytes with a checksum.

A row is ``label float32 | [weight float32] | [group int32] | ids int32 x S | [values float32 x S]``, little-endian, so
that one gathered row is contiguous. Arrays of rows are int32 ``[N, words]``; the accessors are views, never copies.
Axes: N rows, S slots.
"""

import dataclasses
import struct
import zlib

import numpy as np

from dist_fm.data.schema import Schema

BLOCK_VERSION = 1
_MAGIC = b"DISTFMBK"
# magic, version, rows, words, CRC-32, zeros. 48 bytes: behind LMDB's page header of 16, rows start on a cache line.
_HEADER = struct.Struct("<8sIIII24x")
_CRC_AT, _CRC_END = 20, 24
BLOCK_HEADER_BYTES = _HEADER.size

READ_AHEAD = 16  # batches that the reading threads hold ready, and so may be apart
HostBatch = dict[str, np.ndarray]
"""labels, weights, mask float32 [B]; rows int32 [B, S] logical table rows or EMPTY; values float32 [B, S] if any."""


class RecordError(ValueError):
    """Bytes that should be a block of records and are not."""


@dataclasses.dataclass(frozen=True)
class RecordLayout:
    """Which words of a row hold what."""

    slots: int
    has_values: bool = False
    has_weights: bool = False
    has_groups: bool = False

    def __post_init__(self):
        if self.slots < 1:
            raise RecordError(f"a record needs at least one slot, not {self.slots}")

    @classmethod
    def for_schema(cls, schema: Schema) -> "RecordLayout":
        return cls(schema.num_slots, schema.has_values, schema.has_weights, schema.has_groups)

    @property
    def words(self) -> int:
        """Words (of 4 bytes) in a row."""
        return self.first_id + self.slots * (2 if self.has_values else 1)

    @property
    def first_id(self) -> int:
        """The word of a row's first id."""
        return 1 + self.has_weights + self.has_groups

    def pack(
        self,
        labels: np.ndarray,
        ids: np.ndarray,
        values: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> np.ndarray:
        """Rows int32 [N, words] from labels [N], ids [N, S], values [N, S], weights [N] and groups [N].

        Raises ``RecordError`` if a shape is not that, or something is given or missing against the layout.
        """
        rows = np.empty((len(labels), self.words), "<i4")
        self._fill("labels", self.labels(rows), labels)
        self._fill("ids", self.ids(rows), ids)
        self._fill("values", self.values(rows), values)
        self._fill("weights", self.weights(rows), weights)
        self._fill("groups", self.groups(rows), groups)
        return rows

    @staticmethod
    def _fill(what: str, target: np.ndarray | None, given: np.ndarray | None) -> None:
        if (target is None) != (given is None):
            raise RecordError(f"the layout has {'no ' if target is None else ''}{what}, {what} were "
                              f"{'given' if target is None else 'not given'}")  # fmt: skip
        if target is not None and given is not None:
            if np.shape(given) != target.shape:
                raise RecordError(f"{what} have shape {np.shape(given)}, the layout needs {target.shape}")
            target[...] = given

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """float32 [N]."""
        return rows.view("<f4")[:, 0]

    def weights(self, rows: np.ndarray) -> np.ndarray | None:
        """float32 [N], or None when the layout has no weights (each row then weighs 1)."""
        return rows.view("<f4")[:, 1] if self.has_weights else None

    def groups(self, rows: np.ndarray) -> np.ndarray | None:
        """int32 [N], or None when the layout has no groups."""
        return rows[:, self.first_id - 1] if self.has_groups else None

    def ids(self, rows: np.ndarray) -> np.ndarray:
        """Table row ids int32 [N, S]; ``EMPTY`` in an empty slot."""
        return rows[:, self.first_id : self.first_id + self.slots]

    def values(self, rows: np.ndarray) -> np.ndarray | None:
        """float32 [N, S], or None when the layout has no values (each filled slot then counts 1, an empty one 0)."""
        return rows.view("<f4")[:, self.first_id + self.slots :] if self.has_values else None


def encode_block(rows: np.ndarray) -> bytes:
    """The bytes of one block: header, with a CRC-32 over everything else, and the rows int32 [N, words]."""
    rows = np.ascontiguousarray(rows, "<i4")
    header = bytearray(_HEADER.pack(_MAGIC, BLOCK_VERSION, rows.shape[0], rows.shape[1], 0))
    payload = rows.data.cast("B") if rows.size else b""
    struct.pack_into("<I", header, _CRC_AT, _checksum(header, payload))
    return b"".join((header, payload))


def decode_block(buffer, *, where: str, check: bool = True) -> np.ndarray:
    """A read-only view int32 [N, words] of a block's bytes.

    Raises ``RecordError`` naming ``where`` for a wrong magic, version or size, and, with ``check``, a wrong checksum.
    """
    view = memoryview(buffer).cast("B")
    if len(view) < _HEADER.size:
        raise RecordError(f"{where}: {len(view)} bytes are too few for a block")
    magic, version, count, words, crc = _HEADER.unpack_from(view)
    if magic != _MAGIC:
        raise RecordError(f"{where}: not a block of records (its first bytes are {bytes(magic)!r}, not {_MAGIC!r})")
    if version != BLOCK_VERSION:
        raise RecordError(f"{where}: block version {version}, but this dist_fm reads version {BLOCK_VERSION}")
    if len(view) != _HEADER.size + 4 * count * words:
        raise RecordError(f"{where}: {len(view)} bytes do not hold {count} rows of {words} words")
    if check and _checksum(view[: _HEADER.size], view[_HEADER.size :]) != crc:
        raise RecordError(f"{where}: the checksum does not match, so the block was damaged after it was written")
    rows = np.frombuffer(view, "<i4", count * words, _HEADER.size).reshape(count, words)
    rows.flags.writeable = False
    return rows


def _checksum(header, payload) -> int:
    crc = zlib.crc32(header[:_CRC_AT])
    crc = zlib.crc32(header[_CRC_END:], crc)
    return zlib.crc32(payload, crc)

"""``open_rows`` reads any raw file: text of a layout, parquet, or NCF's lists of negatives."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from data_tools.formats.base import TextLayout
from data_tools.formats.ncf import open_pairs
from data_tools.formats.parquet import ParquetReader, is_parquet
from data_tools.formats.parser import Chunk
from data_tools.formats.reader import CHUNK_BYTES, RowReader
from dist_fm.data.schema import Label


class Rows(Protocol):
    """A raw file's rows, to be iterated over once.

    ``total_bytes`` is the file's size on disk, ``text_bytes`` what its chunks' ``num_bytes`` add up to (None: not
    known) and ``crc32``, once all is read, the file's checksum.
    """

    total_bytes: int

    @property
    def text_bytes(self) -> int | None: ...

    @property
    def crc32(self) -> int: ...

    @property
    def has_times(self) -> bool: ...

    def __iter__(self) -> Iterator[Chunk]: ...


def open_rows(
    source: "TextLayout | Mapping[str, Any]",
    path: str | os.PathLike,
    *,
    label: Label | None = None,
    for_prediction: bool = False,
    keep: tuple[str, ...] = (),
    chunk_bytes: int = CHUNK_BYTES,
) -> Rows:
    """Opens the raw file at ``path``, whose rows lie as ``source`` (a layout, or a schema's ``source``) says.

    To train, ``label`` is the rule that labels must obey. ``for_prediction``: label, timestamp, weight and group may be
    absent or empty and are not looked at, and neither is an empty cell an error. ``keep`` names further columns to
    return. A parquet file, told by its first bytes, is read by the layout's names. Raises ``DataError`` if the file
    cannot be read, is empty, or lacks a column.
    """
    layout, path = TextLayout.from_json(source), os.fspath(path)
    if is_parquet(path):
        return ParquetReader(layout, path, label, for_prediction, tuple(keep))
    if layout.syntax == "ncf":
        return open_pairs(layout, path, label, for_prediction, tuple(keep), chunk_bytes)
    return RowReader(layout, path, label, for_prediction, tuple(keep), chunk_bytes)

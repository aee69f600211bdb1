"""Reads the rows of a raw file in chunks."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from data_tools.errors import DataError
from data_tools.formats.base import TextLayout
from data_tools.formats.files import RawFile
from data_tools.formats.header import find_columns
from data_tools.formats.lines import read_lines
from data_tools.formats.parser import BadRow, Parsed, RowParser
from dist_fm.data.schema import Label

CHUNK_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file. Rows are counted from 0 over good and bad ones; N good rows.

    ``lines`` int64 [N] are their line numbers, ascending, so that ``bad`` rows can be put back between them.
    ``columns`` are ``Tokens``, or ``Entries``, by name.
    ``labels`` float32 [N] and ``times`` int64 [N] only when reading to train (``times`` if the file has them).
    """

    first_row: int
    lines: np.ndarray
    columns: dict[str, Any]
    bad: list[BadRow]
    num_bytes: int
    labels: np.ndarray | None = None
    times: np.ndarray | None = None

    @property
    def num_rows(self) -> int:
        """Good and bad rows."""
        return len(self.lines) + len(self.bad)


def open_rows(
    source: "TextLayout | Mapping[str, Any]",
    path: str | os.PathLike,
    *,
    label: Label | None = None,
    for_prediction: bool = False,
    keep: tuple[str, ...] = (),
    chunk_bytes: int = CHUNK_BYTES,
) -> "RowReader":
    """Opens the raw file at ``path``, whose rows lie as ``source`` (a layout, or a schema's ``source``) says.

    To train, ``label`` is the rule that labels must obey. ``for_prediction``: label and timestamp may be absent or
    empty and are not looked at, and neither is an empty cell an error. ``keep`` names further columns to return.
    Raises ``DataError`` if the file cannot be read, is empty, or lacks a column.
    """
    return RowReader(TextLayout.from_json(source), os.fspath(path), label, for_prediction, tuple(keep), chunk_bytes)


class RowReader:
    """Iterates once over the ``Chunk``s of a file. Empty lines at its end are no rows; others are bad rows.

    Or does so in parts that can be spread over processes: ``number`` makes chunks of what ``parser`` makes of
    ``pieces``. ``parser.columns`` says what was found where, ``total_bytes`` is the file's size on disk,
    ``text_bytes`` that of its text (None: not known, as it is compressed) and ``crc32``, once all is read, the file's
    checksum.
    """

    def __init__(
        self,
        layout: TextLayout,
        path: str,
        label: Label | None,
        for_prediction: bool,
        keep: tuple[str, ...],
        chunk_bytes: int,
    ):
        if label is None and not for_prediction:
            raise ValueError("reading rows to train on needs a label rule")
        self.path = path
        self._file = RawFile(path)
        self.total_bytes = self._file.total_bytes
        self.text_bytes = None if self._file.compressed else self.total_bytes
        try:
            self._texts = read_lines(self._file.read, chunk_bytes, where=path)
            self._first = next(self._texts, b"")
            while not self._first.strip(b"\n"):  # nothing in it to tell the columns by
                text = next(self._texts, None)
                if text is None:
                    raise DataError(f"{path}: the file is empty")
                self._first += text
            columns = find_columns(self._first, layout, where=path, for_prediction=for_prediction, keep=keep)
        except BaseException:
            self._file.close()
            raise
        self.parser = RowParser(layout, columns, None if for_prediction else label)

    @property
    def crc32(self) -> int:
        return self._file.crc32

    @property
    def has_times(self) -> bool:
        return self.parser.timestamp is not None

    def __iter__(self) -> Iterator[Chunk]:
        return self.number(itertools.starmap(self.parser.parse, self.pieces()))

    def pieces(self) -> Iterator[tuple[bytes, int]]:
        """Text of whole lines, and the number of the first of them, from 1."""
        with self._file:
            text, line = self._first, 1
            if self.parser.columns.has_header:
                above = len(text) - len(text.lstrip(b"\n"))
                text = text[text.index(b"\n", above) + 1 :]
                line = above + 2
            for following in itertools.chain(self._texts, [b""]):
                if text:
                    yield text, line
                    line += text.count(b"\n")
                text = following

    def number(self, parsed: Iterable[Parsed]) -> Iterator[Chunk]:
        """The chunks of the file, of what its pieces hold, in their order."""
        row = 0
        pending: list[int] = []  # empty lines that may turn out to be the file's last
        for found in parsed:
            pending += found.empty.tolist()
            inner = [BadRow(line, "an empty line", "") for line in pending if line < found.last_filled]
            pending = [line for line in pending if line > found.last_filled]
            bad = sorted(found.bad + inner, key=lambda bad: bad.line) if inner else found.bad
            chunk = Chunk(row, found.lines, found.columns, bad, found.num_bytes, found.labels, found.times)
            row += chunk.num_rows
            yield chunk
        if not row:
            raise DataError(f"{self.path}: the file has no rows")

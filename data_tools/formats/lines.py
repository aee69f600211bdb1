"""Text files in chunks of whole lines, and the cells of a chunk found by NumPy. Axes: N good lines, W cells a line."""

import csv
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from data_tools.errors import DataError
from data_tools.tokens import CellReader, Tokens

LONGEST_LINE = 64 << 20
_UNIT = b"\x1f"  # ASCII's unit separator stands in for delimiters that are not one plain byte
_BOM = b"\xef\xbb\xbf"
_NEWLINE = 10


def read_lines(read: Callable[[int], bytes], chunk_bytes: int, *, where: str) -> Iterator[bytes]:
    """What ``read`` gives, in chunks of about ``chunk_bytes`` that end in a newline; CRLF becomes LF, a BOM goes.

    Raises ``DataError`` naming ``where`` when a line is longer than ``LONGEST_LINE`` bytes.
    """
    rest = read(len(_BOM)).removeprefix(_BOM)
    while data := read(chunk_bytes):
        end = data.rfind(b"\n") + 1
        if not end:
            rest += data
            if len(rest) > LONGEST_LINE:
                raise DataError(f"{where}: a line is longer than {LONGEST_LINE:,} bytes; is this a text file?")
            continue
        yield (rest + data[:end]).replace(b"\r\n", b"\n")
        rest = data[end:]
    if rest:
        yield (rest + b"\n").replace(b"\r\n", b"\n")


@dataclasses.dataclass(frozen=True)
class Cells:
    """The cells of one chunk: of the N lines with the right number of them, by byte position."""

    lines: np.ndarray  # int64 [N], counted from 0 within the chunk
    num_lines: int
    bad: dict[int, str]  # line -> why it has no cells
    empty: np.ndarray  # lines that hold nothing at all: int64
    _reader: CellReader
    _starts: np.ndarray  # int64 [N, W]
    _ends: np.ndarray

    def column(self, number: int) -> Tokens:
        """The N cells of column ``number``."""
        starts = np.ascontiguousarray(self._starts[:, number])
        return self._reader.column(starts, self._ends[:, number] - starts)


def find_cells(text: bytes, delimiter: str, width: int) -> Cells:
    """Cuts whole lines at ``delimiter``; lines without ``width`` cells are bad.

    With a comma, cells may be quoted as in CSV, but not hold line breaks.
    """
    text, cut = _one_byte_delimiter(text, delimiter)
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero((data == cut) | (data == _NEWLINE))
    last = np.flatnonzero(data[ends] == _NEWLINE)  # the last cell of each line
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = ends[:-1] + 1
    widths = np.diff(last, prepend=-1)
    lines = np.arange(len(last))
    empty = lines[(widths == 1) & (starts[last] == ends[last])]
    bad = {int(line): f"{widths[line]} columns instead of {width}" for line in lines[widths != width]}
    if b"\0" in text:
        holding = np.searchsorted(ends[last], np.flatnonzero(data == 0))
        bad |= dict.fromkeys(holding.tolist(), "holds a control character (0x00 or 0x1f)")
    for line in empty.tolist():
        bad.pop(line, None)
    good = np.ones(len(last), bool)
    good[list(bad)] = False
    good[empty] = False
    if not good.all():
        kept = np.repeat(good, widths)
        starts, ends = starts[kept], ends[kept]
    shape = (-1, width)
    return Cells(lines[good], len(last), bad, empty, CellReader(text), starts.reshape(shape), ends.reshape(shape))


def _one_byte_delimiter(text: bytes, delimiter: str) -> tuple[bytes, int]:
    """The text with one byte for its delimiter, and that byte. What held a stand-in before now holds a NUL."""
    if len(delimiter.encode()) == 1 and delimiter != ",":
        return text, ord(delimiter)
    text = text.replace(_UNIT, b"\0")
    if delimiter != ",":
        return text.replace(delimiter.encode(), _UNIT), _UNIT[0]
    if b'"' not in text:
        return text, ord(delimiter)
    lines = [_unquote(line) if b'"' in line else line.replace(b",", _UNIT) for line in text.split(b"\n")]
    return b"\n".join(lines), _UNIT[0]


def _unquote(line: bytes) -> bytes:
    try:
        (cells,) = csv.reader([line.decode("latin-1")])
    except (csv.Error, ValueError):
        return line  # with commas for delimiters it has one cell, and is reported
    return _UNIT.join(cell.encode("latin-1") for cell in cells) or line  # it is not an empty line

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
        yield _unix(rest + data[:end])
        rest = data[end:]
    if rest:
        yield _unix(rest + b"\n")


def _unix(text: bytes) -> bytes:
    # Looking for two bytes takes 20 times as long as for one.
    return text.replace(b"\r\n", b"\n") if b"\r" in text else text


@dataclasses.dataclass(frozen=True)
class Cells:
    """The cells of one chunk: of the N lines with the right number of them, by byte position."""

    lines: np.ndarray  # int64 [N], counted from 0 within the chunk
    num_lines: int
    bad: dict[int, str]  # line -> why it has no cells
    empty: np.ndarray  # lines that hold nothing at all: int64
    _cells: CellReader

    def column(self, number: int) -> Tokens:
        """The N cells of column ``number``."""
        return self._cells.column(number)


def find_cells(text: bytes, delimiter: str, width: int) -> Cells:
    """Cuts whole lines at ``delimiter``; lines without ``width`` cells are bad.

    With a comma, cells may be quoted as in CSV, but not hold line breaks.
    """
    text, cut = _one_byte_delimiter(text, delimiter)
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero((data == cut) | (data == _NEWLINE))
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = ends[:-1] + 1
    if width > 1 and _is_even(data, ends, width) and b"\0" not in text:
        num_lines = len(ends) // width
        cells = CellReader(text, starts.reshape(-1, width), (ends - starts).reshape(-1, width))
        return Cells(np.arange(num_lines), num_lines, {}, np.zeros(0, np.int64), cells)
    last = np.flatnonzero(data[ends] == _NEWLINE)  # the last cell of each line
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
    cells = CellReader(text, starts.reshape(shape), (ends - starts).reshape(shape))
    return Cells(lines[good], len(last), bad, empty, cells)


def _is_even(data: np.ndarray, ends: np.ndarray, width: int) -> bool:
    """Whether every line of ``data`` has ``width`` cells; their ``ends`` are given."""
    newlines = data[ends[width - 1 :: width]] == _NEWLINE
    return len(ends) % width == 0 and bool(newlines.all()) and np.count_nonzero(data == _NEWLINE) == len(newlines)


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

"""Rows of `label entry entry ...`, cut by NumPy: an entry is index:value (libsvm) or field:index:value (libffm).

Axes: L lines of a chunk, E entries of the good ones. A value may be left out (`index:`, `field:index`), and is 1 then;
an entry whose value is 0 is none. What follows a `#` is a comment.
"""

import dataclasses
import re

import numpy as np

from data_tools.numeric import parse_numbers
from data_tools.tokens import CellReader, Tokens

_COMMENT = re.compile(rb"#[^\n]*")
_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)
_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class LineEntries:
    """The entries of a chunk's good lines, in order; lines are counted from 0 within the chunk."""

    num_lines: int
    bad: dict[int, str]  # line -> what is wrong with it
    empty: np.ndarray  # lines with nothing in them: int64
    labels: Tokens  # [L], empty where there is none
    lines: np.ndarray  # int64 [E], ascending
    fields: np.ndarray  # int64 [E], field numbers; 0 where entries have none
    indices: Tokens  # [E]
    numbers: np.ndarray  # float32 [E], none of them 0


def find_entries(text: bytes, *, with_fields: bool, may_lack_label: bool) -> LineEntries:
    """The entries of whole lines. Where labels may be lacking, a line's first word is one if it has no colon."""
    if b"#" in text:
        text = _COMMENT.sub(b"", text)
    data = np.frombuffer(text, np.uint8)
    breaks, colons = np.flatnonzero(data == ord("\n")), np.flatnonzero(data == ord(":"))
    starts, ends = _words(data)
    lines = np.searchsorted(breaks, starts)
    before = np.searchsorted(colons, starts)
    held = np.searchsorted(colons, ends) - before  # colons in a word

    first = np.flatnonzero(np.diff(lines, prepend=-1))
    empty = np.setdiff1d(np.arange(len(breaks)), lines[first])
    if may_lack_label:
        first = first[held[first] == 0]
    labels = np.zeros((2, len(breaks), 1), np.int64)
    labels[:, lines[first], 0] = starts[first], ends[first] - starts[first]
    starts, ends, lines, before, held = (np.delete(part, first) for part in (starts, ends, lines, before, held))

    most = 2 if with_fields else 1
    colons = np.append(colons, [len(text)] * most)
    cuts = [starts - 1, *(np.minimum(colons[before + number], ends) for number in range(most)), ends]
    begins = np.stack(cuts[:-1], axis=1) + 1
    text_of_cells = text.replace(b"\0", b"\1")  # neither is part of a number
    cells = CellReader(text_of_cells, begins, np.maximum(np.stack(cuts[1:], axis=1) - begins, 0))
    *wholes, values = (cells.column(number) for number in range(most + 1))
    numbers = _numbers(values)
    good = (held >= 1) & (held <= most) & ~np.isnan(numbers)
    for part in wholes:
        good &= np.array([bool(_WHOLE.fullmatch(value)) for value in part.values], bool)[part.codes]

    bad: dict[int, str] = {}
    for at in np.flatnonzero(~good).tolist():
        entry = text[starts[at] : ends[at]].decode("utf-8", "backslashreplace")
        bad.setdefault(int(lines[at]), _complaint(entry, with_fields))
    kept = ~np.isin(lines, list(bad)) & (numbers != 0)
    indices = wholes[-1].select(kept)
    return LineEntries(
        num_lines=len(breaks),
        bad=bad,
        empty=empty,
        labels=CellReader(text_of_cells, *labels).column(0),
        lines=lines[kept],
        fields=_integers(wholes[0].select(kept)) if with_fields else np.zeros(np.count_nonzero(kept), np.int64),
        indices=Tokens(indices.codes, [value.lstrip("0") or "0" for value in indices.values]),
        numbers=numbers[kept],
    )


def _words(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the words of a text that ends in a newline begin and end: what spaces, tabs and newlines separate."""
    space = (data == ord(" ")) | (data == ord("\t")) | (data == ord("\n"))
    edges = np.flatnonzero(np.diff(space, prepend=True))
    return edges[::2], edges[1::2]


def _numbers(tokens: Tokens) -> np.ndarray:
    """Values float32 [E], NaN for what is no number or not one of float32."""
    numbers = parse_numbers([value or "1" for value in tokens.values])
    return np.where(np.abs(numbers) > _LARGEST, np.nan, numbers).astype(np.float32)[tokens.codes]


def _integers(tokens: Tokens) -> np.ndarray:
    """int64 [E], of tokens that are whole numbers wherever a row has them."""
    return np.array([int(value) if _WHOLE.fullmatch(value) else 0 for value in tokens.values], np.int64)[tokens.codes]


def _complaint(entry: str, with_fields: bool) -> str:
    names = ("field", "index") if with_fields else ("index",)
    parts = entry.split(":")
    if not 1 < len(parts) <= len(names) + 1:
        return f"{entry!r} is not {':'.join(names)}:value"
    for name, part in zip(names, parts, strict=False):
        if not _WHOLE.fullmatch(part):
            return f"{name} {part!r} of {entry!r} is not a whole number"
    return f"value {parts[-1]!r} of {entry!r} is not a number that float32 holds"

"""The files of the NCF paper (He et al. 2017): pairs of user and item, and test lines with given negatives.

Pairs are ``user<TAB>item``, and may go on with rating and timestamp; every one is a positive. A test line is
``(user,item)<TAB>negative<TAB>negative...``: one positive and its negatives, as rows in this order. Ids are taken as
they are, so an item that occurs as a negative alone has a row of its own.
"""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from data_tools.errors import unknown
from data_tools.formats.base import MAX_ID, Column, FieldSpec, Format, TextLayout
from data_tools.formats.files import RawFile
from data_tools.formats.header import find_columns
from data_tools.formats.lines import read_lines
from data_tools.formats.parser import BadRow, Chunk
from data_tools.formats.reader import RowReader
from data_tools.numeric import parse_integer
from data_tools.tokens import Tokens
from dist_fm.data.schema import Label

_PAIR_COLUMNS = ("user", "item")
_SNIFFED_BYTES = 1 << 16
_PAIR = re.compile(r"\(([^,()]*),([^,()]*)\)")

FORMATS = (
    Format(
        name="ncf",
        about="NCF paper: user, item pairs, all positive (train.rating); (user,item) with negatives (test.negative)",
        layout=TextLayout(
            "ncf",
            "\t",
            (
                Column("user", "id", required=True, header="user_id"),
                Column("item", "id", required=True, header="item_id"),
                Column("rating"),
                Column("timestamp", "integer", required=True, header="time"),
            ),
            label="rating",
            timestamp="timestamp",
            group="user",
            features=_PAIR_COLUMNS,
            syntax="ncf",
        ),
        fields=tuple(FieldSpec(name, role=name, transform={"add": 1}) for name in _PAIR_COLUMNS),
        label=Label("rating", "implicit"),
    ),
)


def open_pairs(
    layout: TextLayout, path: str, label: Label | None, for_prediction: bool, keep: tuple[str, ...], chunk_bytes: int
) -> "RowReader | GivenNegatives":
    """The reader of whichever of the two kinds of file lies at ``path``; of pairs, with the columns that they have."""
    with RawFile(path) as file:
        first = next((text.lstrip(b"\n") for text in read_lines(file.read, _SNIFFED_BYTES, where=path)), b"")
    if first.startswith(b"("):
        for name in keep:
            if name not in _PAIR_COLUMNS:
                raise unknown(f"column of {path}", name, _PAIR_COLUMNS)
        return GivenNegatives(path, for_prediction, chunk_bytes)
    if first:
        used = {*find_columns(first, layout, where=path, for_prediction=True).positions}
        if label is not None and label.rule != "implicit":
            used.add(label.column)
        layout = dataclasses.replace(layout, columns=tuple(one for one in layout.columns if one.name in used))
    return RowReader(layout, path, label, for_prediction, keep, chunk_bytes)


class GivenNegatives:
    """Iterates once over the ``Chunk``s of a file of test lines: of each, the positive and its negatives as rows.

    See ``rows.Rows``. Empty lines at the file's end are no rows; a line that cannot be read is one bad row.
    """

    has_times = False

    def __init__(self, path: str, for_prediction: bool, chunk_bytes: int):
        self.path, self._for_prediction, self._chunk_bytes = path, for_prediction, chunk_bytes
        self._file = RawFile(path)
        self.total_bytes = self._file.total_bytes
        self.text_bytes = None if self._file.compressed else self.total_bytes

    @property
    def crc32(self) -> int:
        return self._file.crc32

    def __iter__(self) -> Iterator[Chunk]:
        row, line = 0, 1
        empty: list[int] = []  # lines that may turn out to be the file's last
        with self._file:
            for text in read_lines(self._file.read, self._chunk_bytes, where=self.path):
                lines = text.decode("utf-8", "backslashreplace").split("\n")[:-1]
                good: dict[int, list[int]] = {}
                bad: list[BadRow] = []
                for number, raw in enumerate(lines, line):
                    if not raw:
                        empty.append(number)
                        continue
                    bad += [BadRow(number, "an empty line", "") for number in empty]
                    empty.clear()
                    found = _parse(raw)
                    if isinstance(found, str):
                        bad.append(BadRow(number, found, raw))
                    else:
                        good[number] = found
                chunk = self._chunk(good, bad, row, len(text))
                row += chunk.num_rows
                line += len(lines)
                yield chunk

    def _chunk(self, found: dict[int, list[int]], bad: list[BadRow], first_row: int, num_bytes: int) -> Chunk:
        """``found``: by line, the ids of its user, its item, and then of its negatives."""
        counts = np.array([len(ids) - 1 for ids in found.values()], np.int64)
        starts = np.cumsum(counts) - counts
        labels = np.zeros(int(counts.sum()), np.float32)
        labels[starts] = 1
        columns = {
            "user": _tokens(np.repeat([ids[0] for ids in found.values()], counts)),
            "item": _tokens(np.array([item for ids in found.values() for item in ids[1:]], np.int64)),
        }
        lines = np.repeat(np.array(list(found), np.int64), counts)
        return Chunk(first_row, lines, columns, bad, num_bytes, None if self._for_prediction else labels)


def _parse(line: str) -> list[int] | str:
    """The ids of a line's user, item and negatives, or what is wrong with it."""
    first, *negatives = (cell.strip() for cell in line.split("\t"))
    pair = _PAIR.fullmatch(first)
    if not pair:
        return f"{first[:80]!r} is not a pair as in (user,item)"
    if not negatives:
        return "there are no negatives"
    ids: list[int] = []
    for cell in (pair[1].strip(), pair[2].strip(), *negatives):
        number = parse_integer(cell)
        if number is None or not 0 <= number <= MAX_ID:
            return f"id {cell[:80]!r} is not an integer from 0 to {MAX_ID}"
        ids.append(number)
    return ids


def _tokens(ids: np.ndarray) -> Tokens:
    codes, values = pd.factorize(ids)
    return Tokens(codes, [str(value) for value in values.tolist()])

"""The raw rows of a build: parsed once, kept on disk until splits and vocabularies are known. Axes: N rows."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any, TextIO

import numpy as np
import pandas as pd

from data_tools import split as splitting
from data_tools.errors import DataError
from data_tools.first_rows import FirstRows
from data_tools.fit import needed_columns
from data_tools.formats import Chunk, Parsed, RowParser, RowReader, Rows, open_rows
from data_tools.plan import Plan
from data_tools.portions import Portion
from data_tools.progress import Progress
from data_tools.split import SPLITS
from data_tools.tokens import Tokens
from data_tools.vocab import escape


@dataclasses.dataclass
class RawRows:
    """What was read: ``portions``, files with the number of their rows; N rows in all.

    ``has_times`` says whether all files have timestamps; ``times`` int64 [N] by portion are kept where the split needs
    them. ``coded``: the columns that a build needs of all rows at once, which are few.
    """

    inputs: list[dict[str, Any]]
    portions: list[tuple[pathlib.Path, int]]
    has_times: bool
    times: list[np.ndarray]
    coded: dict[str, "CodedColumn"]

    @property
    def count(self) -> int:
        return sum(count for _, count in self.portions)

    def by_portion(self, *of_rows: np.ndarray | None) -> Iterator[tuple[Any, ...]]:
        """Each portion's file, with its part of each of ``of_rows`` [N]; None for None."""
        ends = np.cumsum([count for _, count in self.portions])[:-1]
        parts = (itertools.repeat(None) if rows is None else np.split(rows, ends) for rows in of_rows)
        return zip((path for path, _ in self.portions), *parts, strict=False)


class CodedColumn:
    """A column as codes int32 by portion, numbers of its values in the order of their first rows."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self._codes: dict[str, int] = {}

    def add(self, tokens: Tokens) -> None:
        known = self._codes
        places, held = pd.factorize(tokens.codes)
        codes = [known.setdefault(tokens.values[code], len(known)) for code in held.tolist()]
        self.parts.append(np.array(codes, np.int32)[places])

    @property
    def codes(self) -> np.ndarray:
        """int32 [N]."""
        return np.concatenate(self.parts)

    @property
    def values(self) -> list[str]:
        """The distinct values [U] by code."""
        return list(self._codes)


def read_rows(plan: Plan, scratch: pathlib.Path, quarantine: TextIO) -> RawRows:
    """Parses all files into portions in ``scratch``, bad rows into ``quarantine``; raises ``DataError``."""
    found = RawRows([], [], True, [], {name: CodedColumn() for name in _coded_columns(plan)})
    first_bad = None
    left = plan.options.rows
    quarantine.write("file\tline\treason\traw\n")
    columns = list(dict.fromkeys([*needed_columns(plan.fields), *found.coded]))
    for path, split in plan.files:
        opened = open_rows(plan.format.layout, path, label=plan.label, chunk_bytes=plan.options.chunk_bytes)
        first = None if left is None else FirstRows(opened, path, left)
        reader = plan.own_rows(first or opened, split)
        found.has_times &= reader.has_times
        if plan.options.split in splitting.NEEDS_TIMES and not reader.has_times:
            raise DataError(f"{path} has no timestamp column, which --split={plan.options.split} needs")
        rows = good = 0
        keeper = _Keeper(columns, list(found.coded), scratch, len(found.portions))
        with (
            contextlib.closing(_kept(plan, reader, keeper)) as chunks,
            Progress(f"reading {os.path.basename(path)}", reader.text_bytes, "B") as progress,
        ):
            for chunk in chunks:
                for bad in chunk.bad:
                    first_bad = first_bad or f"{path}:{bad.line}: {bad.reason}"
                    quarantine.write(f"{escape(path)}\t{bad.line}\t{escape(bad.reason)}\t{escape(bad.raw)}\n")
                if first_bad and plan.options.strict:
                    raise DataError(first_bad)
                found.portions.append((keeper.path(len(found.portions) - keeper.first), len(chunk.lines)))
                if plan.options.split in splitting.NEEDS_TIMES and chunk.times is not None:
                    found.times.append(chunk.times)
                for name, column in found.coded.items():
                    column.add(chunk.columns[name])
                rows += chunk.num_rows
                good += len(chunk.lines)
                progress.advance(chunk.num_bytes, chunk.num_rows)
        about = {"path": path, "split": SPLITS[split], "bytes": reader.total_bytes, "crc32": reader.crc32}
        is_cut = first is not None and first.is_cut
        found.inputs.append({**about, "rows": rows, "rows_good": good, "is_cut": is_cut})
        if first is not None and left is not None and plan.options.split != "files":
            left -= first.rows_read
    if not found.count:
        raise DataError(f"none of the rows is good; the first: {first_bad}")
    return found


def _coded_columns(plan: Plan) -> list[str]:
    """Columns of which the split, or the record's group, needs the codes of all rows."""
    user = plan.field_of("user") if plan.options.split in splitting.NEEDS_USERS else None
    columns = [user.columns[0] if user else None, plan.format.layout.group]
    return list(dict.fromkeys(column for column in columns if column is not None))


@dataclasses.dataclass(frozen=True)
class _Keeper:
    """Saves the chunks of a file as portions, which are numbered from ``first`` on."""

    columns: Sequence[str]
    coded: Sequence[str]
    scratch: pathlib.Path
    first: int

    def path(self, number: int) -> pathlib.Path:
        return self.scratch / f"portion-{self.first + number:06}"

    def keep(self, chunk: Chunk, number: int) -> Chunk:
        """Returns what is to be known of the file's chunk ``number`` in the parent process."""
        Portion.of(chunk, self.columns).save(self.path(number))
        return dataclasses.replace(
            chunk, columns={name: chunk.columns[name] for name in self.coded}, labels=None, weights=None
        )


def _kept(plan: Plan, reader: Rows, keeper: _Keeper) -> Generator[Chunk, None, None]:
    """The chunks of a file, without what was saved of them."""
    if isinstance(reader, RowReader):
        with plan.spread(_parse, (reader.parser, keeper), enumerate(reader.pieces())) as parsed:
            yield from reader.number(parsed)
    else:
        for number, chunk in enumerate(reader):
            yield keeper.keep(chunk, number)


def _parse(shared: tuple[RowParser, _Keeper], task: tuple[int, tuple[bytes, int]]) -> Parsed:
    (parser, keeper), (number, piece) = shared, task
    parsed = parser.parse(*piece)
    return dataclasses.replace(parsed, chunk=keeper.keep(parsed.chunk, number))

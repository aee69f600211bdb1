"""The raw rows of a build: parsed once, kept on disk until splits and vocabularies are known. Axes: N rows."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from data_tools import split as splitting
from data_tools.errors import DataError
from data_tools.fit import needed_columns
from data_tools.formats import Parsed, RowParser, open_rows
from data_tools.plan import Plan
from data_tools.portions import Portion
from data_tools.progress import Progress
from data_tools.split import SPLITS
from data_tools.vocab import escape


@dataclasses.dataclass
class RawRows:
    """What was read: ``portions``, files with the number of their rows; N rows in all.

    ``times`` int64 [N] if all files have them. ``users``, if the split needs them: codes int32 [N] by portion, into
    the distinct ``user_names``.
    """

    inputs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    portions: list[tuple[pathlib.Path, int]] = dataclasses.field(default_factory=list)
    times: list[np.ndarray] | None = dataclasses.field(default_factory=list)
    users: list[np.ndarray] = dataclasses.field(default_factory=list)
    user_names: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(count for _, count in self.portions)

    def with_rows(self, of_rows: np.ndarray) -> Iterator[tuple[pathlib.Path, np.ndarray]]:
        """Each portion with its part of ``of_rows`` [N]."""
        ends = np.cumsum([count for _, count in self.portions])[:-1]
        return zip((path for path, _ in self.portions), np.split(of_rows, ends), strict=True)


def read_rows(plan: Plan, scratch: pathlib.Path, quarantine: TextIO) -> RawRows:
    """Parses all files into portions in ``scratch``, bad rows into ``quarantine``; raises ``DataError``."""
    found = RawRows()
    first_bad = None
    quarantine.write("file\tline\treason\traw\n")
    columns = needed_columns(plan.fields)
    user = plan.user_column if plan.options.split in splitting.NEEDS_USERS else None
    for path, split in plan.files:
        reader = open_rows(plan.format.layout, path, label=plan.label, chunk_bytes=plan.options.chunk_bytes)
        if not reader.has_times:
            found.times = None
            if plan.options.split in splitting.NEEDS_TIMES:
                raise DataError(f"{path} has no timestamp column, which --split={plan.options.split} needs")
        rows = good = 0
        numbers = itertools.count(len(found.portions))
        tasks = (
            (piece, scratch / f"portion-{number:06}") for piece, number in zip(reader.pieces(), numbers, strict=False)
        )
        with (
            plan.spread(_parse, (reader.parser, columns, user), tasks) as parsed,
            Progress(f"reading {os.path.basename(path)}", reader.text_bytes, "B") as progress,
        ):
            for chunk in reader.number(parsed):
                for bad in chunk.bad:
                    first_bad = first_bad or f"{path}:{bad.line}: {bad.reason}"
                    quarantine.write(f"{escape(path)}\t{bad.line}\t{escape(bad.reason)}\t{escape(bad.raw)}\n")
                if first_bad and plan.options.strict:
                    raise DataError(first_bad)
                found.portions.append((scratch / f"portion-{len(found.portions):06}", len(chunk.lines)))
                if found.times is not None and chunk.times is not None:
                    found.times.append(chunk.times)
                if user is not None:
                    tokens, known = chunk.columns[user], found.user_names
                    codes = [known.setdefault(value, len(known)) for value in tokens.values]
                    found.users.append(np.array(codes, np.int32)[tokens.codes])
                rows += chunk.num_rows
                good += len(chunk.lines)
                progress.advance(chunk.num_bytes, chunk.num_rows)
        about = {"path": path, "split": SPLITS[split], "bytes": reader.total_bytes, "crc32": reader.crc32}
        found.inputs.append({**about, "rows": rows, "rows_good": good})
    if not found.count:
        raise DataError(f"none of the rows is good; the first: {first_bad}")
    return found


def _parse(shared: tuple[RowParser, list[str], str | None], task: tuple[tuple, pathlib.Path]) -> Parsed:
    """Saves a portion; returns what is to be known of it besides its columns."""
    (parser, columns, user), (piece, path) = shared, task
    parsed = parser.parse(*piece)
    Portion.of(parsed, columns).save(path)
    return dataclasses.replace(parsed, columns={user: parsed.columns[user]} if user else {})

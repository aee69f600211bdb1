"""The fields of libsvm and libffm rows, and how many entries of each a row has places for: as the files tell, or given.

The entries of a libsvm row are one field; those of libffm rows are as many as training rows have field numbers.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_tools.encode import load_schema
from data_tools.errors import DataError, unknown
from data_tools.formats import Column, FieldSpec, Format
from data_tools.formats.entries import find_entries
from data_tools.formats.files import RawFile
from data_tools.formats.lines import read_lines
from data_tools.plan import Plan
from data_tools.progress import Progress

POOLS = ("sum", "none")  # no mean: entries have values of their own
MOST_COUNTED = 1024  # places in a record that come without being asked for
LIBSVM_FIELD = "features"
_DEFAULT_POOL = {"libsvm": "none", "libffm": "sum"}


def with_entries(plan: Plan) -> Plan:
    """``plan``, which has the fields of libsvm or libffm files if it is for such; reads the files to count entries.

    Raises ``DataError`` for ``max_entries`` or ``pool`` that do not fit, and where no row has an entry.
    """
    options, name = plan.options, plan.format.layout.syntax
    given = [key for key in ("max_entries", "pool") if getattr(options, key) is not None]
    if name not in _DEFAULT_POOL:
        if given:
            raise DataError(f"--{given[0]} goes with --format=libsvm and libffm, not {plan.format.name}")
        return plan
    if options.vocab_from is not None:
        if given:
            raise DataError(f"--{given[0]} does not go with --vocab_from, which has the fields of its data set")
        return dataclasses.replace(plan, format=_as_before(plan.format, options.vocab_from))
    if options.pool is not None and options.pool not in POOLS:
        raise unknown(f"pool of {name} entries", options.pool, POOLS)
    if options.max_entries is not None and options.max_entries < 1:
        raise DataError(f"--max_entries={options.max_entries}: must be at least 1")
    pool = options.pool or _DEFAULT_POOL[name]
    places = {field: {"entries": most, "pool": pool} for field, most in _places(plan).items()}
    return dataclasses.replace(plan, format=_with_fields(plan.format, places))


def _as_before(chosen: Format, directory: str) -> Format:
    before = load_schema(pathlib.Path(directory))
    if before.source.get("syntax") != chosen.layout.syntax:
        raise DataError(f"--vocab_from={directory}: {before.name!r} was not built from {chosen.name} rows")
    return _with_fields(chosen, {field.name: field.transform for field in before.fields})


def _with_fields(chosen: Format, transforms: Mapping[str, Mapping[str, Any]]) -> Format:
    columns = [Column(field, "entries", most=transform["entries"]) for field, transform in transforms.items()]
    layout = dataclasses.replace(chosen.layout, columns=(*chosen.layout.columns, *columns))
    specs = (FieldSpec(field, transform=transform) for field, transform in transforms.items())
    return dataclasses.replace(chosen, layout=layout, fields=tuple(specs))


def _places(plan: Plan) -> dict[str, int]:
    """The places of each field: as many as any row has entries. Of ``max_entries`` libsvm has all, libffm at most."""
    most = plan.options.max_entries
    if plan.format.layout.syntax == "libsvm":
        counted = {LIBSVM_FIELD: most or _count(plan)[0]}
    else:
        counted = {str(field): min(count, most or count) for field, count in sorted(_count(plan).items())}
    total = sum(counted.values())
    if most is None and total > MOST_COUNTED:
        raise DataError(
            f"every record would have places for {total:,} entries, as the longest rows have: --max_entries=N says how "
            "many of a field a row may have, and sets longer rows aside"
        )
    return counted


def _count(plan: Plan) -> dict[int, int]:
    """The most entries of each field in any row (without fields: of field 0), for fields that training rows have."""
    most: dict[int, int] = {}
    first_bad = None
    for path, split in plan.files:
        counted, bad = _count_file(plan, path)
        first_bad = first_bad or bad
        for field, count in counted.items():
            if split == 0 or field in most:
                most[field] = max(count, most.get(field, 0))
    if not most:
        why = f"; the first bad one: {first_bad}" if first_bad else ""
        raise DataError(f"{plan.files[0][0]}: no row has an entry{why}")
    return most


def _count_file(plan: Plan, path: str) -> tuple[dict[int, int], str | None]:
    """The most entries by field, and the first bad row with its line and why."""
    most: dict[int, int] = {}
    first_bad, line = None, 1
    with_fields = plan.format.layout.syntax == "libffm"
    with RawFile(path) as file:
        pieces = read_lines(file.read, plan.options.chunk_bytes, where=path)
        with (
            plan.spread(_count_piece, with_fields, pieces) as counted,
            Progress(f"counting {os.path.basename(path)}", None if file.compressed else file.total_bytes, "B") as bar,
        ):
            for piece in counted:
                for field, count in piece.most.items():
                    most[field] = max(count, most.get(field, 0))
                if piece.first_bad and first_bad is None:
                    at, reason = piece.first_bad
                    first_bad = f"{path}:{line + at}: {reason}"
                line += piece.num_lines
                bar.advance(piece.num_bytes, piece.num_lines)
    return most, first_bad


@dataclasses.dataclass(frozen=True)
class _Counted:
    """What a piece of a file has: the most entries of each field in a line, and the first bad line with the reason."""

    most: dict[int, int]
    first_bad: tuple[int, str] | None
    num_lines: int
    num_bytes: int


def _count_piece(with_fields: bool, text: bytes) -> _Counted:
    found = find_entries(text, with_fields=with_fields, may_lack_label=False)
    fields, number = np.unique(found.fields, return_inverse=True)
    keys, counts = np.unique(found.lines * len(fields) + number, return_counts=True)
    most = np.zeros(len(fields), np.int64)
    np.maximum.at(most, keys % max(len(fields), 1), counts)
    by_field = dict(zip(fields.tolist(), most.tolist(), strict=True))
    return _Counted(by_field, min(found.bad.items(), default=None), found.num_lines, len(text))

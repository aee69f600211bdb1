"""What is learnt of a data set's fields from its training rows: vocabularies, scales, bins, and so table rows.

Axes: U distinct cells of a raw column, with how many training rows hold each.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_tools.errors import DataError
from data_tools.formats.base import MAX_ID, FieldSpec
from data_tools.numeric import parse_integer
from data_tools.transforms import cell_numbers, cell_tokens, fit_edges, fit_scale, is_plain
from data_tools.vocab import Vocabulary
from dist_fm.data.schema import Field

Cells = tuple[Sequence[str], np.ndarray]  # the values [U] and their training counts int64 [U]


def fit_fields(
    specs: Sequence[FieldSpec], cells_of: Callable[[FieldSpec], Cells], min_count: int, directory: pathlib.Path
) -> tuple[tuple[Field, ...], dict[str, Vocabulary]]:
    """The fields of ``specs``, with their offsets, and the vocabularies by file name, saved in ``directory``.

    Specs that share rows get the same vocabulary, or buckets, and the same offset.
    """
    groups: dict[str, list[FieldSpec]] = {}
    for spec in specs:
        groups.setdefault(spec.shares or spec.name, []).append(spec)
    fields: dict[str, Field] = {}
    vocabularies: dict[str, Vocabulary] = {}
    offset = 0
    for group, members in groups.items():
        transforms = {spec.name: _fitted(spec, group, cells_of) for spec in members}
        first = members[0]
        file = digest = None
        if first.kind == "numeric":
            rows = 2
        elif "buckets" in first.transform:
            rows = first.transform["buckets"] + 1
        elif "add" in first.transform:
            rows = _own_rows(first, *cells_of(first))
        else:
            least = min_count if first.min_count is None else first.min_count
            counted = [(transforms[spec.name], *cells_of(spec)) for spec in members]
            vocabulary = Vocabulary.choose(*_count_tokens(counted), least)[0]
            file, rows = f"{group}.tsv", vocabulary.rows
            digest = vocabulary.save(directory / file)
            vocabularies[file] = vocabulary
        for spec in members:
            fields[spec.name] = Field(
                name=spec.name,
                kind=spec.kind,
                rows=rows,
                offset=offset,
                slots=_slots(spec),
                role=spec.role,
                vocabulary=file,
                vocabulary_sha256=digest,
                transform=transforms[spec.name],
            )
        offset += rows
        _check_rows(group, rows, offset)
    return tuple(fields[spec.name] for spec in specs), vocabularies


def grow_fields(
    fields: Sequence[Field],
    vocabularies: Mapping[str, Vocabulary],
    cells_of: Callable[[Field], Cells],
    min_counts: Mapping[str, int],
    directory: pathlib.Path,
) -> tuple[tuple[Field, ...], dict[str, Vocabulary]]:
    """``fields`` of an earlier data set with further values that training rows hold often enough, behind the old ones.

    A value keeps its id within the field; offsets move. Scales, edges and buckets stay. ``min_counts`` by field.
    """
    members: dict[int, list[Field]] = {}
    for field in fields:
        members.setdefault(field.offset, []).append(field)
    grown: dict[str, Field] = {}
    found: dict[str, Vocabulary] = {}
    offset = 0
    for _, alike in sorted(members.items()):
        first = alike[0]
        rows, digest = first.rows, None
        if first.vocabulary is not None:
            counted = [(field.transform, *cells_of(field)) for field in alike]
            vocabulary = vocabularies[first.vocabulary].grown(*_count_tokens(counted), min_counts[first.name])
            found[first.vocabulary], rows = vocabulary, vocabulary.rows
            digest = vocabulary.save(directory / first.vocabulary)
        elif "add" in first.transform:
            rows = max(rows, _own_rows(first, *cells_of(first)))
        for field in alike:
            grown[field.name] = dataclasses.replace(field, rows=rows, offset=offset, vocabulary_sha256=digest)
        offset += rows
        _check_rows(first.name, rows, offset)
    return tuple(grown[field.name] for field in fields), found


def _check_rows(name: str, rows: int, total: int) -> None:
    if total > MAX_ID:
        raise DataError(f"field {name!r} has {rows:,} table rows, {total:,} with the fields before it: more than ids "
                        "of 32 bits can tell apart; make it of kind hash or categorical")  # fmt: skip


def _slots(spec: FieldSpec) -> int:
    if spec.kind == "numeric":
        return 2 if spec.transform.get("missing") else 1
    return spec.transform["max"] if "split" in spec.transform else 1


def _fitted(spec: FieldSpec, group: str, cells_of: Callable[[FieldSpec], Cells]) -> dict[str, Any]:
    """The transform with what training rows say of scale and bins, for a field as it is stored."""
    transform = dict(spec.transform)
    if spec.column is not None and spec.column != spec.name:
        transform["column"] = spec.column
    if "buckets" in transform and group != spec.name:
        transform["salt"] = group
    if spec.kind == "numeric" and spec.scale != "none":
        cells, counts = cells_of(spec)
        transform |= fit_scale(spec.scale, *_measured(transform, cells, counts))
    elif spec.bins:
        cells, counts = cells_of(spec)
        transform["edges"] = fit_edges(spec.bins, *_measured(transform, cells, counts))
    return transform


def _measured(transform: Mapping[str, Any], cells: Sequence[str], counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers in training rows' cells, and how many rows hold each: fills are no measurements."""
    numbers, empty = cell_numbers(transform, cells)
    kept = ~empty & (counts > 0)
    return numbers[kept], counts[kept]


def _own_rows(spec: FieldSpec | Field, cells: Sequence[str], counts: np.ndarray) -> int:
    """Rows for raw ids 0 to the largest in training, each shifted by ``add``, and the unseen."""
    ids = (parse_integer(cell) for cell, count in zip(cells, counts.tolist(), strict=True) if count)
    return max((number for number in ids if number is not None and number >= 0), default=-1) + spec.transform["add"] + 1


def _count_tokens(parts: Sequence[tuple[Mapping[str, Any], Sequence[str], np.ndarray]]) -> Cells:
    """The distinct tokens of all parts and how often training rows hold each."""
    # Cells of the raw column itself are distinct; attributes of different keys may be alike.
    if len(parts) == 1 and is_plain(parts[0][0]) and "join" not in parts[0][0]:
        return parts[0][1:]
    totals: collections.Counter[str] = collections.Counter()
    for transform, cells, counts in parts:
        for tokens, count in zip(cell_tokens(transform, cells), counts.tolist(), strict=True):
            for token in tokens:
                if token is not None:
                    totals[token] += count
    return list(totals), np.fromiter(totals.values(), np.int64, len(totals))


def needed_columns(specs: Sequence[FieldSpec]) -> list[str]:
    """The raw columns that ``specs`` are made of, each once."""
    return list(dict.fromkeys(name for spec in specs for name in spec.columns))

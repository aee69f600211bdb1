"""verify: is a data set still what was built? Every block, count, id, vocabulary and fingerprint is checked."""

import os
import pathlib
from collections.abc import Iterator

import numpy as np

from data_tools.encode import Encoder
from data_tools.errors import DataError
from data_tools.manifest import QUARANTINE, Manifest, describe_files
from data_tools.progress import Progress
from data_tools.split import SPLITS
from dist_fm.data.records import RecordLayout
from dist_fm.data.schema import EMPTY, Field, Schema, SchemaError, read_schema
from dist_fm.data.shards import open_split
from dist_fm.data.store import StoreError


def verify(directory: str | os.PathLike) -> list[str]:
    """What is wrong with a data set, a line a problem; an empty list if nothing is."""
    directory = pathlib.Path(directory)
    try:
        schema = read_schema(directory)
        manifest = Manifest.load(directory)
    except (SchemaError, DataError) as error:
        return [str(error)]
    problems = list(_check_files(directory, manifest))
    if manifest.fingerprint != schema.fingerprint:
        problems.append(f"{directory}: the manifest's fingerprint is not the schema's")
    try:
        Encoder.from_directory(directory)
    except DataError as error:
        problems.append(str(error))
    for split in SPLITS:
        problems += _check_split(directory, split, schema, manifest)
    return problems


def _check_files(directory: pathlib.Path, manifest: Manifest) -> Iterator[str]:
    found = describe_files(directory)
    for name, about in manifest.files.items():
        if name not in found:
            yield f"{directory / name} is missing"
        elif found[name] != about:
            yield f"{directory / name} was changed: it has {found[name]}; the manifest says {dict(about)}"
    rows_out = sum(counts["rows"] for counts in manifest.splits.values())
    if manifest.rows_in != rows_out + manifest.rows_quarantined:
        yield (
            f"{directory}: {manifest.rows_in:,} rows in, but {rows_out:,} out and "
            f"{manifest.rows_quarantined:,} quarantined"
        )
    if QUARANTINE in found:
        lines = (directory / QUARANTINE).read_bytes().count(b"\n") - 1
        if lines != manifest.rows_quarantined:
            yield f"{directory / QUARANTINE} has {lines:,} rows; the manifest says {manifest.rows_quarantined:,}"


def _check_split(directory: pathlib.Path, split: str, schema: Schema, manifest: Manifest) -> Iterator[str]:
    try:
        store = open_split(directory, split)
    except StoreError as error:
        yield str(error)
        return
    if store.layout != RecordLayout.for_schema(schema):
        yield f"{store.path}: its records are {store.layout}; the schema needs {RecordLayout.for_schema(schema)}"
        return
    counts = {"rows": store.rows, "positives": 0, "blocks": store.num_blocks}
    intact = True
    with store, Progress(f"verifying {split}", store.num_blocks, "block") as progress:
        for number in range(store.num_blocks):
            try:
                rows = store.block(number)
            except StoreError as error:
                yield str(error)
                intact = False
                continue
            counts["positives"] += int(np.count_nonzero(store.layout.labels(rows) > 0))
            for problem in _check_rows(rows, store.layout, schema):
                yield f"{store.where(number)}: {problem}"
            progress.advance(1, len(rows))
    for name, said in (("manifest", manifest.splits.get(split)), ("schema", schema.counts.get(split))):
        if intact and said != counts:
            yield f"{directory}: the {split} split holds {counts}; the {name} says {said}"


def _check_rows(rows: np.ndarray, layout: RecordLayout, schema: Schema) -> Iterator[str]:
    """Ids must be rows of their slot's field, labels what the label rule gives, values, weights and groups
    numbers; values tell which entries of an unpooled list are there."""
    first = schema.slot_offsets
    last = first + np.array([field.rows for field in schema.fields], np.int32)[schema.slot_fields] - 1
    ids = layout.ids(rows)
    outside = (ids < first) | (ids > last)
    may_be_empty = np.array([_may_be_empty(field) for field in schema.fields])[schema.slot_fields]
    outside &= ~may_be_empty | (ids != EMPTY)
    for slot in np.flatnonzero(outside.any(axis=0)):
        row = int(np.flatnonzero(outside[:, slot])[0])
        name = schema.fields[schema.slot_fields[slot]].name
        yield f"row {row}: id {ids[row, slot]} is not one of field {name!r} ({first[slot]} to {last[slot]})"
    yield from _check_unpooled(ids, layout.values(rows), schema)
    labels = layout.labels(rows)
    wrong = ~np.isin(labels, (0, 1)) if schema.label.is_binary else ~np.isfinite(labels)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        yield f"row {row}: label {labels[row]} is not {'0 or 1' if schema.label.is_binary else 'a number'}"
    values = layout.values(rows)
    if values is not None:
        for row, slot in np.argwhere(~np.isfinite(values))[:1].tolist():
            name = schema.fields[schema.slot_fields[slot]].name
            yield f"row {row}: value {values[row, slot]} of field {name!r} is not a number"
    for name, numbers in (("weight", layout.weights(rows)), ("group", layout.groups(rows))):
        if numbers is not None:
            for row in np.flatnonzero(~(np.isfinite(numbers) & (numbers >= 0)))[:1].tolist():
                yield f"row {row}: {name} {numbers[row]} is not a number from 0 on"


def _may_be_empty(field: Field) -> bool:
    """Whether a record may hold nothing in a slot of it: a list's, or the one for a missing number."""
    return field.slots > 1 or field.kind != "numeric" and not {"split", "entries"}.isdisjoint(field.transform)


def _check_unpooled(ids: np.ndarray, values: np.ndarray | None, schema: Schema) -> Iterator[str]:
    """Slots that are not pooled are told empty by their values, which must agree with the ids."""
    unpooled = ~np.array([field.is_pooled for field in schema.fields])[schema.slot_fields]
    if values is None or not unpooled.any():
        return
    wrong = unpooled & ((ids == EMPTY) != (values == 0))
    if wrong.any():
        row, slot = np.argwhere(wrong)[0].tolist()
        name = schema.fields[schema.slot_fields[slot]].name
        yield f"row {row}: field {name!r} has id {ids[row, slot]} with value {values[row, slot]:g} in one slot"

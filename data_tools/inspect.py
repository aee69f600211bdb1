"""inspect: what is in a data set, in words."""

import collections
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from data_tools.encode import Encoder
from data_tools.manifest import QUARANTINE, Manifest
from data_tools.split import SPLITS
from dist_fm.data.records import RecordLayout
from dist_fm.data.schema import read_schema
from dist_fm.data.shards import open_split

_SHOWN_REASONS = 5


def inspect(directory: str | os.PathLike, rows: int = 3) -> Iterator[str]:
    """Lines that describe a data set: fields, splits, its first ``rows`` decoded to raw values, bad rows.

    Raises ``DataError``, ``SchemaError`` or ``StoreError`` if it is not one.
    """
    directory = pathlib.Path(directory)
    schema = read_schema(directory)
    manifest = Manifest.load(directory)
    encoder = Encoder.from_directory(directory)
    total_bytes = sum(about["bytes"] for about in manifest.files.values())
    yield f"{directory}: {schema.name}, {manifest.rows_in:,} rows read, {total_bytes:,} bytes"
    if any(about.get("is_cut") for about in manifest.inputs):
        yield f"cut: the first {manifest.options['rows']:,} rows of the input"
    label = f"{schema.label.column or 'of no column'}, {manifest.options['label']}"
    yield f"label: {label}; split: {manifest.options['split']}"
    left_out = manifest.options.get("left_out")
    if left_out:
        yield f"valid: an item of each user, left out of train, and {left_out} negatives"
    if schema.valid_is_test:
        yield "valid: the test split itself"
    for key in ("weight", "group"):
        if schema.source.get(key):
            yield f"{key}: {schema.source[key]}"
    yield f"fingerprint: {schema.fingerprint}"
    yield ""
    width = max(len("field"), *(len(field.name) for field in schema.fields))
    yield f"{'field':<{width}} {'kind':<12} {'role':<9} {'rows':>10} {'offset':>10}  most frequent training values"
    for field in schema.fields:
        vocabulary = encoder.vocabularies.get(field.vocabulary or "")
        frequent = zip(vocabulary.values[:3], vocabulary.counts[:3].tolist(), strict=True) if vocabulary else ()
        shown = ", ".join(f"{value or 'missing'!r} x {count:,}" for value, count in frequent)
        about = f"{field.name:<{width}} {field.kind:<12} {field.role or '':<9}"
        yield f"{about} {field.rows:>10,} {field.offset:>10,}  {shown}"
    yield f"{len(schema.fields)} fields, {schema.num_slots} slots, {schema.num_rows:,} table rows"
    yield ""
    yield f"{'split':<6} {'rows':>12} {'blocks':>7} {'shards':>6} {'mean label':>10} {'bytes':>14}"
    for split in SPLITS:
        with open_split(directory, split) as store:
            mean = f"{store.meta.label_sum / store.rows:.4f}" if store.rows else "-"
            size = sum(manifest.files[f"{path.name}/data.mdb"]["bytes"] for path in store.paths)
            shards = len(store.paths)
            yield f"{split:<6} {store.rows:>12,} {store.num_blocks:>7,} {shards:>6} {mean:>10} {size:>14,}"
    with open_split(directory, "train") as store:
        yield from _rows(store.slice(0, min(rows, store.rows)), store.layout, encoder)
    yield from _quarantine(directory, manifest)


def _rows(rows: np.ndarray, layout: RecordLayout, encoder: Encoder) -> Iterator[str]:
    known = {"label": layout.labels(rows), "weight": layout.weights(rows), "group": layout.groups(rows)}
    heads = {name: numbers.tolist() for name, numbers in known.items() if numbers is not None}
    for number, values in enumerate(encoder.decode(layout.ids(rows), layout.values(rows))):
        head = " ".join(f"{name}={numbers[number]:g}" for name, numbers in heads.items())
        fields = zip(encoder.schema.fields, values, strict=True)
        yield f"train row {number}: {head} " + " ".join(f"{field.name}={value}" for field, value in fields)


def _quarantine(directory: pathlib.Path, manifest: Manifest) -> Iterator[str]:
    yield ""
    yield f"quarantined rows: {manifest.rows_quarantined:,}"
    if not manifest.rows_quarantined:
        return
    reasons: collections.Counter[str] = collections.Counter()
    examples: dict[str, str] = {}
    with open(directory / QUARANTINE, encoding="utf-8", newline="\n") as file:
        next(file)
        for line in file:
            path, number, reason, _ = line.rstrip("\n").split("\t", 3)
            kind = _without_values(reason)
            reasons[kind] += 1
            examples.setdefault(kind, f"{path}:{number}: {reason}")
    for kind, count in reasons.most_common(_SHOWN_REASONS):
        yield f"{count:>10,} x {kind}; first at {examples[kind]}"


def _without_values(reason: str) -> str:
    """A reason without the quoted cell in it, so that equal mistakes count together."""
    first, last = reason.find("'"), reason.rfind("'")
    return f"{reason[:first]}...{reason[last + 1 :]}" if 0 <= first < last else reason

"""build-lmdb: raw files into a data set. Their text is parsed once; training rows are counted, then all rows coded."""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_tools import split as splitting
from data_tools.coding import columns_of
from data_tools.encode import Encoder, has_values, own_cells
from data_tools.entry_fields import with_entries
from data_tools.errors import DataError
from data_tools.fit import Fit, Growth
from data_tools.formats import FieldSpec
from data_tools.manifest import QUARANTINE, Manifest, describe_files, sum_file, sync_file
from data_tools.plan import BuildOptions, Plan
from data_tools.portions import Portion
from data_tools.progress import Progress
from data_tools.raw_rows import RawRows, read_rows
from data_tools.side_tables import Attributes
from data_tools.split import SPLITS
from data_tools.staging import check_output, staged
from data_tools.summaries import Cells, Summary, keep_within
from dist_fm.data.records import RecordLayout
from dist_fm.data.schema import Field, Schema
from dist_fm.data.store import BlockWriter


def build(options: BuildOptions, say: Callable[[str], None] = print) -> Manifest:
    """Builds the data set and returns its manifest; does nothing if exactly that data set is there already.

    Raises ``DataError`` or ``StoreError`` and leaves nothing behind if it cannot.
    """
    plan = with_entries(Plan.of(options))
    output = pathlib.Path(options.output)
    ready = _existing(output, plan)
    if ready is not None:
        say(f"{output} is complete already: the same inputs and options")
        return ready
    try:
        with staged(output, overwrite=options.overwrite) as staging:
            manifest = _build(plan, staging, say)
    except OSError as error:
        raise DataError(f"{error.filename or output}: {error.strerror}; nothing was built") from error
    return manifest


def _existing(output: pathlib.Path, plan: Plan) -> Manifest | None:
    """The manifest of ``output`` if it is what the plan would build; raises ``DataError`` if it is in the way."""
    try:
        manifest = Manifest.load(output)
    except DataError:
        manifest = None
    if manifest is None or plan.options.overwrite or manifest.options != plan.to_json():
        check_output(output, overwrite=plan.options.overwrite)
        return None
    inputs = [(about["path"], about["split"], about["bytes"], about["crc32"]) for about in manifest.inputs]
    same_files = [(path, SPLITS[number]) for path, number in plan.files] == [about[:2] for about in inputs]
    if same_files and all(sum_file(about[0]) == about[2:] for about in inputs):
        return manifest
    raise DataError(f"{output} exists and was built from other inputs; --overwrite replaces it")


def _build(plan: Plan, staging: pathlib.Path, say: Callable[[str], None]) -> Manifest:
    scratch = staging / "scratch"
    scratch.mkdir()
    with open(staging / QUARANTINE, "w", encoding="utf-8") as quarantine:
        rows = read_rows(plan, scratch, quarantine)
    if plan.options.split == "random" and rows.times is not None:
        say("note: a random split of rows that have timestamps looks into the future; --split=time does not")
    splits = _assign(plan, rows)
    if not (splits == 0).any():
        raise DataError(f"--split={plan.options.split} leaves none of the {len(splits)} rows for training")
    encoder = _fit(plan, rows, splits == 0, staging)
    counts = _write(plan, encoder, rows, splits, staging)
    schema = dataclasses.replace(encoder.schema, counts=counts)
    (staging / "schema.json").write_text(schema.to_json(), encoding="utf-8")
    shutil.rmtree(scratch)
    rows_in = sum(about["rows"] for about in rows.inputs)
    manifest = Manifest(
        fingerprint=schema.fingerprint,
        options=plan.to_json(),
        inputs=rows.inputs,
        rows_in=rows_in,
        rows_quarantined=rows_in - len(splits),
        splits=counts,
        files=describe_files(staging),
    )
    for name in manifest.files:
        sync_file(staging / name)
    manifest.save(staging)
    return manifest


def _assign(plan: Plan, rows: RawRows) -> np.ndarray:
    kind = plan.options.split
    if kind == "files":
        numbers = [number for _, number in plan.files]
        return np.repeat(np.array(numbers, np.uint8), [about["rows_good"] for about in rows.inputs])
    times = np.concatenate(rows.times) if kind in splitting.NEEDS_TIMES and rows.times is not None else None
    users = (np.concatenate(rows.users), list(rows.user_names)) if rows.users else (None, [])
    return splitting.assign(kind, rows.count, plan.options.fractions, plan.options.seed, times, *users)


def _fit(plan: Plan, rows: RawRows, in_train: np.ndarray, staging: pathlib.Path) -> Encoder:
    """What encodes the rows: fields and vocabularies as the training rows have them, or as an earlier data set has."""
    fit: Fit | Growth
    scratch = staging / "scratch" / "counts"
    if plan.options.vocab_from is not None:
        before = _earlier(plan, plan.options.vocab_from)
        shutil.copytree(pathlib.Path(plan.options.vocab_from) / "vocab", staging / "vocab")
        attributes = before.attributes
        if not plan.options.grow:
            return Encoder(_schema(plan, before.schema.fields), before.vocabularies, attributes)
        own = {spec.name: spec.min_count for spec in plan.format.fields}
        min_counts = {field.name: own.get(field.name) or plan.min_count for field in before.schema.fields}
        fit = Growth(before.schema.fields, before.vocabularies, min_counts, scratch)
    else:
        specs, attributes = list(plan.format.fields), {}
        for table, path in plan.tables:
            file = f"{table.name}.table.tsv"
            attributes[file] = Attributes.read(table, path)
            joined = {"join": file, "join_sha256": attributes[file].save(staging / "vocab" / file)}
            specs += [dataclasses.replace(spec, transform={**spec.transform, **joined}) for spec in table.fields]
        fit = Fit(specs, plan.min_count, scratch)
    looking = plan.spread(_look, (fit.summaries, attributes), rows.with_rows(in_train))
    with looking as seen, Progress("counting", rows.count, "row") as progress:
        for (_, count), of_portion in zip(rows.portions, seen, strict=True):
            for summary, said in zip(fit.summaries, of_portion, strict=True):
                summary.add(said)
            keep_within(plan.options.memory_bytes, fit.summaries)
            progress.advance(count, count)
    fields, vocabularies = fit.fields(staging / "vocab")
    return Encoder(_schema(plan, fields), vocabularies, attributes)


def _earlier(plan: Plan, directory: str) -> Encoder:
    """The encoder of the data set in ``directory``, if its fields are the plan's."""
    before = Encoder.from_directory(directory)
    own = {spec.name for spec in plan.format.fields}
    fields = before.schema.fields
    lacking = [field.name for field in fields if "join" not in field.transform and field.name not in own]
    further = own - {field.name for field in fields}
    if lacking or further:
        name, where = (lacking[0], plan.format.name) if lacking else (sorted(further)[0], directory)
        raise DataError(f"--vocab_from={directory}: its fields are not those of {plan.format.name}: "
                        f"{where} has no field {name!r}")  # fmt: skip
    return before


def _schema(plan: Plan, fields: tuple[Field, ...]) -> Schema:
    return Schema(
        name=plan.options.name or plan.format.name,
        fields=fields,
        label=plan.label,
        has_values=has_values(fields),
        source=plan.format.layout.to_json(),
    )


def _look(
    shared: tuple[Sequence[Summary], Mapping[str, Attributes]], task: tuple[pathlib.Path, np.ndarray]
) -> list[Any]:
    """What each summary sees in the training rows, a mask, of one portion."""
    (summaries, attributes), (path, in_train) = shared, task
    portion = Portion.load(path)

    def cells_of(field: FieldSpec | Field) -> Cells:
        (column,) = field.columns if isinstance(field, FieldSpec) else columns_of(field)
        counts = portion.columns[column].count(in_train)
        cells = own_cells(field.transform, attributes, portion.columns[column].values)
        held = np.flatnonzero(counts)
        return [cells[index] for index in held.tolist()], counts[held]

    return [summary.look(cells_of) for summary in summaries]


def _write(
    plan: Plan, encoder: Encoder, rows: RawRows, splits: np.ndarray, staging: pathlib.Path
) -> dict[str, dict[str, int]]:
    """Writes the stores; returns the schema's counts."""
    layout = RecordLayout.for_schema(encoder.schema)
    encoding = plan.spread(_encode, (encoder, layout), rows.with_rows(splits))
    with contextlib.ExitStack() as stack, encoding as encoded:
        writers = [
            stack.enter_context(
                BlockWriter(staging / f"{name}.lmdb", layout, plan.options.block_rows, plan.options.map_size)
            )
            for name in SPLITS
        ]
        with Progress("writing", rows.count, "row") as progress:
            for (path, count), records in zip(rows.portions, encoded, strict=True):
                for writer, own in zip(writers, records, strict=True):
                    writer.append(own)
                path.unlink()  # the data set takes about the room that they did
                progress.advance(count, count)
        metas = [writer.close() for writer in writers]
    return {
        name: {"rows": meta.rows, "positives": meta.positives, "blocks": meta.blocks}
        for name, meta in zip(SPLITS, metas, strict=True)
    }


def _encode(shared: tuple[Encoder, RecordLayout], task: tuple[pathlib.Path, np.ndarray]) -> list[np.ndarray]:
    """The records of one portion for each split."""
    (encoder, layout), (path, splits) = shared, task
    portion = Portion.load(path)
    records = layout.pack(portion.labels, *encoder.encode(portion.columns))
    return [records[splits == number] for number in range(len(SPLITS))]

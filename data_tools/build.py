"""build-lmdb: raw files into a data set, by one pass over the text and three over the codes it leaves on disk."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from data_tools import split as splitting
from data_tools.advice import warnings
from data_tools.coding import columns_of
from data_tools.encode import Encoder, RowCoder, has_values, own_cells
from data_tools.errors import DataError
from data_tools.first_rows import FirstRows
from data_tools.fit import Cells, fit_fields, grow_fields, needed_columns
from data_tools.formats import FieldSpec, open_rows
from data_tools.manifest import QUARANTINE, Manifest, describe_files, sum_file, sync_file
from data_tools.plan import BuildOptions, Plan
from data_tools.progress import Progress
from data_tools.side_tables import Attributes
from data_tools.spill import Spill
from data_tools.split import SPLITS
from data_tools.staging import check_output, staged
from data_tools.vocab import Vocabulary, escape
from dist_fm.data.records import RecordLayout
from dist_fm.data.schema import Field, Schema
from dist_fm.data.store import BlockWriter


def build(options: BuildOptions, say: Callable[[str], None] = print) -> Manifest:
    """Builds the data set and returns its manifest; does nothing if exactly that data set is there already.

    Raises ``DataError`` or ``StoreError`` and leaves nothing behind if it cannot.
    """
    plan = Plan.of(options)
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
    layout = plan.format.layout
    grouped = [] if layout.group is None else [layout.group]
    spill = Spill(staging / "spill", list(dict.fromkeys([*needed_columns(plan.fields), *grouped])))
    with open(staging / QUARANTINE, "w", encoding="utf-8") as quarantine:
        inputs, has_times = _read(plan, spill, quarantine)
    rows_in = sum(about["rows"] for about in inputs)
    if plan.options.split == "random" and has_times:
        say("note: a random split of rows that have timestamps looks into the future; --split=time does not")
    splits = _assign(plan, spill, inputs)
    if not (splits == 0).any():
        raise DataError(f"--split={plan.options.split} leaves none of the {spill.rows} rows for training")
    held = spill.count(splits == 0)
    if plan.options.vocab_from is None:
        fields, vocabularies, attributes = _fit(plan, spill, held, staging)
    else:
        fields, vocabularies, attributes = _fit_as_before(plan, plan.options.vocab_from, spill, held, staging)
    schema = Schema(
        name=plan.options.name or plan.format.name,
        fields=fields,
        label=plan.label,
        has_values=has_values(fields),
        has_weights=layout.weight is not None,
        has_groups=layout.group is not None,
        source=layout.to_json(),
    )
    cells = {name: spill.values(name) for name in spill.columns}
    coder = RowCoder(schema, vocabularies, cells, attributes)
    counts = _write(plan, spill, splits, coder, staging)
    for warning in warnings(fields, _counted(spill, held, attributes), plan.label, counts["train"]):
        say(warning)
    schema = dataclasses.replace(schema, counts=counts)
    (staging / "schema.json").write_text(schema.to_json(), encoding="utf-8")
    shutil.rmtree(staging / "spill")
    manifest = Manifest(
        fingerprint=schema.fingerprint,
        options=plan.to_json(),
        inputs=inputs,
        rows_in=rows_in,
        rows_quarantined=rows_in - spill.rows,
        splits=counts,
        files=describe_files(staging),
    )
    for name in manifest.files:
        sync_file(staging / name)
    manifest.save(staging)
    return manifest


def _read(plan: Plan, spill: Spill, quarantine: TextIO) -> tuple[list[dict[str, Any]], bool]:
    """Fills the spill; returns what was read from each file, and whether all files have timestamps."""
    inputs: list[dict[str, Any]] = []
    first_bad = None
    has_times = True
    most = left = sys.maxsize if plan.options.rows is None else plan.options.rows
    quarantine.write("file\tline\treason\traw\n")
    for path, split in plan.files:
        first = FirstRows(open_rows(plan.format.layout, path, label=plan.label), path, left)
        reader = plan.with_negatives(first)
        has_times &= reader.has_times
        if plan.options.split in splitting.NEEDS_TIMES and not reader.has_times:
            raise DataError(f"{path} has no timestamp column, which --split={plan.options.split} needs")
        rows = good = 0
        with Progress(f"reading {os.path.basename(path)}", reader.text_bytes, "B") as progress:
            for chunk in reader:
                for bad in chunk.bad:
                    first_bad = first_bad or f"{path}:{bad.line}: {bad.reason}"
                    quarantine.write(f"{escape(path)}\t{bad.line}\t{escape(bad.reason)}\t{escape(bad.raw)}\n")
                if first_bad and plan.options.strict:
                    raise DataError(first_bad)
                spill.add(chunk)
                rows += chunk.num_rows
                good += len(chunk.lines)
                progress.advance(chunk.num_bytes, chunk.num_rows)
        about = {"path": path, "split": SPLITS[split], "bytes": reader.total_bytes, "crc32": reader.crc32}
        inputs.append({**about, "rows": rows, "rows_good": good, "is_cut": first.is_cut})
        left = most if plan.options.split == "files" else left - first.rows_read
    spill.finish()
    if not spill.rows:
        raise DataError(f"none of the rows is good; the first: {first_bad}")
    return inputs, has_times


def _assign(plan: Plan, spill: Spill, inputs: Sequence[dict[str, Any]]) -> np.ndarray:
    kind = plan.options.split
    if kind == "files":
        numbers = [number for _, number in plan.files]
        return np.repeat(np.array(numbers, np.uint8), [about["rows_good"] for about in inputs])
    times = spill.times() if kind in splitting.NEEDS_TIMES else None
    users: tuple[np.ndarray | None, list[str]] = (None, [])
    user = plan.field_of("user")
    if kind in splitting.NEEDS_USERS and user is not None:
        column = user.columns[0]
        users = spill.codes(column), spill.values(column)
    return splitting.assign(kind, spill.rows, plan.options.fractions, plan.options.seed, times, *users)


Fitted = tuple[tuple[Field, ...], Mapping[str, Vocabulary], Mapping[str, Attributes]]


def _fit(plan: Plan, spill: Spill, held: Mapping[str, np.ndarray], staging: pathlib.Path) -> Fitted:
    """The fields as the training rows have them, and vocabularies and side tables by file name, saved.

    ``held``: by column, how many training rows hold each value.
    """
    specs, attributes = list(plan.format.fields), {}
    for table, path in plan.tables:
        file = f"{table.name}.table.tsv"
        attributes[file] = Attributes.read(table, path)
        joined = {"join": file, "join_sha256": attributes[file].save(staging / "vocab" / file)}
        specs += [dataclasses.replace(spec, transform={**spec.transform, **joined}) for spec in table.fields]
    return *fit_fields(specs, _counted(spill, held, attributes), plan.min_count, staging / "vocab"), attributes


def _fit_as_before(
    plan: Plan, directory: str, spill: Spill, held: Mapping[str, np.ndarray], staging: pathlib.Path
) -> Fitted:
    """The fields of the data set in ``directory``, with its vocabularies as they are, or grown."""
    before = Encoder.from_directory(directory)
    fields = before.schema.fields
    own = {spec.name: spec for spec in plan.format.fields}
    lacking = [field.name for field in fields if "join" not in field.transform and field.name not in own]
    further = own.keys() - {field.name for field in fields}
    if lacking or further:
        name, where = (lacking[0], plan.format.name) if lacking else (sorted(further)[0], directory)
        raise DataError(f"--vocab_from={directory}: its fields are not those of {plan.format.name}: "
                        f"{where} has no field {name!r}")  # fmt: skip
    shutil.copytree(pathlib.Path(directory) / "vocab", staging / "vocab")
    if not plan.options.grow:
        return fields, before.vocabularies, before.attributes
    least = lambda spec: plan.min_count if spec is None or spec.min_count is None else spec.min_count
    min_counts = {field.name: least(own.get(field.name)) for field in fields}
    cells_of = _counted(spill, held, before.attributes)
    return *grow_fields(fields, before.vocabularies, cells_of, min_counts, staging / "vocab"), before.attributes


def _counted(
    spill: Spill, held: Mapping[str, np.ndarray], attributes: Mapping[str, Attributes]
) -> Callable[[FieldSpec | Field], Cells]:
    """The cells that a field of one column is made of, and how many training rows hold each."""

    def cells_of(field: FieldSpec | Field) -> Cells:
        (column,) = field.columns if isinstance(field, FieldSpec) else columns_of(field)
        return own_cells(field.transform, attributes, spill.values(column)), held[column]

    return cells_of


def _write(
    plan: Plan,
    spill: Spill,
    splits: np.ndarray,
    coder: RowCoder,
    staging: pathlib.Path,
) -> dict[str, dict[str, int]]:
    """Writes the stores; returns the schema's counts."""
    layout = RecordLayout.for_schema(coder.schema)
    weights = spill.weights() if layout.has_weights else None
    group = plan.format.layout.group
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                BlockWriter(staging / f"{name}.lmdb", layout, plan.options.block_rows, plan.options.map_size)
            )
            for name in SPLITS
        ]
        with Progress("writing", spill.rows, "row") as progress:
            for where, codes, labels in spill.portions():
                by_column = dict(zip(spill.columns, codes.T, strict=True))
                ids, values = coder.code(by_column)
                of_rows = None if weights is None else weights[where]
                records = layout.pack(labels, ids, values, of_rows, None if group is None else by_column[group])
                for number, writer in enumerate(writers):
                    writer.append(records[splits[where] == number])
                progress.advance(len(codes), len(codes))
        metas = [writer.close() for writer in writers]
    return {
        name: {"rows": meta.rows, "positives": meta.positives, "blocks": meta.blocks}
        for name, meta in zip(SPLITS, metas, strict=True)
    }

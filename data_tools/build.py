"""build-lmdb: raw files into a data set, by one pass over the text and three over the codes it leaves on disk."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from data_tools import split as splitting
from data_tools.coding import columns_of
from data_tools.encode import Encoder, RowCoder, has_values, own_cells
from data_tools.errors import DataError
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
from dist_fm.data.shards import SplitWriter


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
    spill = Spill(staging / "spill", needed_columns(plan.fields))
    with open(staging / QUARANTINE, "w", encoding="utf-8") as quarantine:
        inputs, has_times = _read(plan, spill, quarantine)
    rows_in = sum(about["rows"] for about in inputs)
    if plan.options.split == "random" and has_times:
        say("note: a random split of rows that have timestamps looks into the future; --split=time does not")
    splits = _assign(plan, spill, inputs)
    if not (splits == 0).any():
        raise DataError(f"--split={plan.options.split} leaves none of the {spill.rows} rows for training")
    if plan.options.vocab_from is None:
        fields, vocabularies, attributes = _fit(plan, spill, splits == 0, staging)
    else:
        fields, vocabularies, attributes = _fit_as_before(plan, plan.options.vocab_from, spill, splits == 0, staging)
    schema = Schema(
        name=plan.options.name or plan.format.name,
        fields=fields,
        label=plan.label,
        has_values=has_values(fields),
        source=plan.format.layout.to_json(),
    )
    cells = {name: spill.values(name) for name in spill.columns}
    coder = RowCoder(schema, vocabularies, cells, attributes)
    counts = _write(plan, spill, splits, coder, staging)
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
    quarantine.write("file\tline\treason\traw\n")
    for path, split in plan.files:
        reader = open_rows(plan.format.layout, path, label=plan.label)
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
        inputs.append({**about, "rows": rows, "rows_good": good})
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
    if kind in splitting.NEEDS_USERS and plan.user_field is not None:
        column = plan.fields[plan.user_field].columns[0]
        users = spill.codes(column), spill.values(column)
    return splitting.assign(kind, spill.rows, plan.options.fractions, plan.options.seed, times, *users)


Fitted = tuple[tuple[Field, ...], Mapping[str, Vocabulary], Mapping[str, Attributes]]


def _fit(plan: Plan, spill: Spill, in_train: np.ndarray, staging: pathlib.Path) -> Fitted:
    """The fields as the training rows have them, and vocabularies and side tables by file name, saved."""
    specs, attributes = list(plan.format.fields), {}
    for table, path in plan.tables:
        file = f"{table.name}.table.tsv"
        attributes[file] = Attributes.read(table, path)
        joined = {"join": file, "join_sha256": attributes[file].save(staging / "vocab" / file)}
        specs += [dataclasses.replace(spec, transform={**spec.transform, **joined}) for spec in table.fields]
    return *fit_fields(specs, _counted(spill, in_train, attributes), plan.min_count, staging / "vocab"), attributes


def _fit_as_before(plan: Plan, directory: str, spill: Spill, in_train: np.ndarray, staging: pathlib.Path) -> Fitted:
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
    cells_of = _counted(spill, in_train, before.attributes)
    return *grow_fields(fields, before.vocabularies, cells_of, min_counts, staging / "vocab"), before.attributes


def _counted(
    spill: Spill, in_train: np.ndarray, attributes: Mapping[str, Attributes]
) -> Callable[[FieldSpec | Field], Cells]:
    """The cells that a field of one column is made of, and how many training rows hold each."""
    counts = spill.count(in_train)

    def cells_of(field: FieldSpec | Field) -> Cells:
        (column,) = field.columns if isinstance(field, FieldSpec) else columns_of(field)
        return own_cells(field.transform, attributes, spill.values(column)), counts[column]

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
    options = {name: getattr(plan.options, name) for name in ("shards", "block_rows", "map_size")}
    rows = np.bincount(splits, minlength=len(SPLITS)).tolist()
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(SplitWriter(staging, name, count, layout, **options))
            for name, count in zip(SPLITS, rows, strict=True)
        ]
        with Progress("writing", spill.rows, "row") as progress:
            for where, codes, labels in spill.portions():
                ids, values = coder.code(dict(zip(spill.columns, codes.T, strict=True)))
                records = layout.pack(labels, ids, values)
                for number, writer in enumerate(writers):
                    writer.append(records[splits[where] == number])
                progress.advance(len(codes), len(codes))
        return {name: writer.close() for name, writer in zip(SPLITS, writers, strict=True)}

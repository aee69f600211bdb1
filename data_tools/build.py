"""build-lmdb: raw files into a data set. Their text is parsed once; training rows are counted, then all rows coded."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_tools import split as splitting
from data_tools.advice import warnings
from data_tools.entry_fields import with_entries
from data_tools.errors import DataError
from data_tools.learning import learn
from data_tools.manifest import QUARANTINE, Manifest, describe_files, sum_file, sync_file
from data_tools.plan import BuildOptions, Plan
from data_tools.raw_rows import RawRows, read_rows
from data_tools.split import SPLITS
from data_tools.staging import check_output, staged
from data_tools.writing import write


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
    if plan.options.split == "random" and rows.has_times:
        say("note: a random split of rows that have timestamps looks into the future; --split=time does not")
    splits = _assign(plan, rows)
    if not (splits == 0).any():
        raise DataError(f"--split={plan.options.split} leaves none of the {len(splits)} rows for training")
    encoder, distinct = learn(plan, rows, splits == 0, staging)
    counts = write(plan, encoder, rows, splits, staging)
    for warning in warnings(encoder.schema.fields, distinct, plan.label, counts["train"]):
        say(warning)
    valid_is_test = _is_same(rows.inputs, "valid", "test")
    if valid_is_test:
        say("note: valid is the test split itself, so that the best epoch is chosen on it, as in the NCF paper")
    schema = dataclasses.replace(encoder.schema, counts=counts, valid_is_test=valid_is_test)
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


def _is_same(inputs: Sequence[Mapping[str, Any]], first: str, second: str) -> bool:
    """Whether two splits were read from files of the same bytes."""
    files = [[(one["bytes"], one["crc32"]) for one in inputs if one["split"] == split] for split in (first, second)]
    return files[0] == files[1] != []


def _assign(plan: Plan, rows: RawRows) -> np.ndarray:
    kind = plan.options.split
    if kind == "files":
        numbers = [number for _, number in plan.files]
        return np.repeat(np.array(numbers, np.uint8), [about["rows_good"] for about in rows.inputs])
    times = np.concatenate(rows.times) if kind in splitting.NEEDS_TIMES else None
    users: tuple[np.ndarray | None, list[str]] = (None, [])
    if kind in splitting.NEEDS_USERS and (user := plan.field_of("user")) is not None:
        column = rows.coded[user.columns[0]]
        users = column.codes, column.values
    return splitting.assign(kind, rows.count, plan.options.fractions, plan.options.seed, times, *users)

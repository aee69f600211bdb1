"""What a build learns from its training rows: fields and vocabularies, and so how to encode all rows."""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_tools.encode import Encoder, has_values, own_cells
from data_tools.errors import DataError
from data_tools.fit import Fit, Growth, Unchanged
from data_tools.formats import FieldSpec
from data_tools.plan import Plan
from data_tools.portions import Portion
from data_tools.progress import Progress
from data_tools.raw_rows import RawRows
from data_tools.side_tables import Attributes
from data_tools.summaries import Cells, DistinctSummary, Summary, keep_within
from dist_fm.data.schema import Field, Schema


def learn(plan: Plan, rows: RawRows, in_train: np.ndarray, staging: pathlib.Path) -> tuple[Encoder, Mapping[str, int]]:
    """The encoder of the data set, its vocabularies saved in ``staging``, and about how many values each field has."""
    fit, attributes = _fit(plan, staging)
    distinct = DistinctSummary(fit.specs)
    summaries = [*fit.summaries, distinct]
    looking = plan.spread(_look, (summaries, attributes), rows.by_portion(in_train))
    with looking as seen, Progress("counting", rows.count, "row") as progress:
        for (_, count), of_portion in zip(rows.portions, seen, strict=True):
            for summary, said in zip(summaries, of_portion, strict=True):
                summary.add(said)
            keep_within(plan.options.memory_bytes, summaries)
            progress.advance(count, count)
    fields, vocabularies = fit.fields(staging / "vocab")
    return Encoder(_schema(plan, fields), vocabularies, attributes), distinct.counts


def _fit(plan: Plan, staging: pathlib.Path) -> tuple[Fit | Growth | Unchanged, Mapping[str, Attributes]]:
    """What is to be fitted to the training rows, and the side tables by file name, saved."""
    scratch = staging / "scratch" / "counts"
    if plan.options.vocab_from is None:
        specs, attributes = list(plan.format.fields), {}
        for table, path in plan.tables:
            file = f"{table.name}.table.tsv"
            attributes[file] = Attributes.read(table, path)
            joined = {"join": file, "join_sha256": attributes[file].save(staging / "vocab" / file)}
            specs += [dataclasses.replace(spec, transform={**spec.transform, **joined}) for spec in table.fields]
        return Fit(specs, plan.min_count, scratch), attributes
    before = _earlier(plan, plan.options.vocab_from)
    fields, vocabularies = before.schema.fields, before.vocabularies
    shutil.copytree(pathlib.Path(plan.options.vocab_from) / "vocab", staging / "vocab")
    if not plan.options.grow:
        return Unchanged(fields, vocabularies), before.attributes
    own = {spec.name: spec.min_count for spec in plan.format.fields}
    min_counts = {field.name: own.get(field.name) or plan.min_count for field in fields}
    return Growth(fields, vocabularies, min_counts, scratch), before.attributes


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
    layout = plan.format.layout
    return Schema(
        name=plan.options.name or plan.format.name,
        fields=fields,
        label=plan.label,
        has_values=has_values(fields),
        has_weights=layout.weight is not None,
        has_groups=layout.group is not None,
        source=layout.to_json(),
    )


def _look(
    shared: tuple[Sequence[Summary], Mapping[str, Attributes]], task: tuple[pathlib.Path, np.ndarray]
) -> list[Any]:
    """What each summary sees in the training rows, a mask, of one portion."""
    (summaries, attributes), (path, in_train) = shared, task
    portion = Portion.load(path)

    def cells_of(field: FieldSpec | Field) -> Cells:
        (column,) = field.columns
        counts = portion.columns[column].count(in_train)
        cells = own_cells(field.transform, attributes, portion.columns[column].values)
        held = np.flatnonzero(counts)
        return [cells[index] for index in held.tolist()], counts[held]

    return [summary.look(cells_of) for summary in summaries]

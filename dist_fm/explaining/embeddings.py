"""Trained vectors with the raw values they belong to: NumPy, TensorBoard's projector, Parquet. Axes: R rows, W floats.

Rows are in logical order, field by field, the unseen (or missing) row of each first; some thousand are in memory.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_tools.encode import Encoder
from data_tools.vocab import escape
from dist_fm.data.schema import Field
from dist_fm.errors import UserError
from dist_fm.explaining.neighbours import count_of, find_column
from dist_fm.explaining.rows import AT_ONCE, table_rows
from dist_fm.files import replacing
from dist_fm.parallel.hosts import is_first
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine

Columns = Mapping[str, slice]
_HEADER = "field\tid\tvalue\tcount\n"


class Part(NamedTuple):
    """Some rows of one field: ids within it, their values, how many training rows hold them, and all floats [R, W]."""

    field: str
    ids: list[int]
    values: list[str]
    counts: list[int | None]
    floats: np.ndarray


def write_embeddings(
    engine: Engine, state: TrainState, encoder: Encoder, fields: Sequence[Field], columns: Sequence[str], target: str
) -> int:
    """Writes the ``columns`` of all rows of ``fields`` to ``target``; returns the number of rows. On the first host.

    FILE.npy: float32 [rows, floats of the columns], with FILE.tsv beside it, a line a row (field, id, value, count).
    FILE.parquet: a line a row, the columns as lists. Else a directory, new or empty: tensors.tsv and metadata.tsv, as
    TensorBoard's projector loads them. In .tsv files tabs, line breaks and backslashes of values are escaped. Raises
    ``UserError``.
    """
    path = pathlib.Path(target)
    parts = _parts(engine, state, encoder, fields)
    rows = sum(field.rows for field in fields)
    slices = {name: find_column(engine, name) for name in columns}
    writers = {".npy": _write_npy, ".parquet": _write_parquet, "": _write_projector}
    if path.suffix not in writers or not path.absolute().parent.is_dir():
        raise UserError(
            f"--embeddings={target}: must be FILE.npy, FILE.parquet, or a directory, where its parent is a directory"
        )
    if path.suffix == "" and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"--embeddings={target}: is not an empty directory")
    if is_first():
        writers[path.suffix](path, parts, slices, rows)
    else:
        for _ in parts:  # which all hosts fetch together
            pass
    return rows


def _parts(engine: Engine, state: TrainState, encoder: Encoder, fields: Sequence[Field]) -> Iterator[Part]:
    for field in fields:
        for first in range(field.offset, field.offset + field.rows, AT_ONCE):
            rows = range(first, min(first + AT_ONCE, field.offset + field.rows))
            yield Part(
                field.name,
                [row - field.offset for row in rows],
                [encoder.value_of(field, row) for row in rows],
                [count_of(encoder, field, row) for row in rows],
                table_rows(engine, state, np.arange(rows.start, rows.stop)),
            )


def _lines(part: Part) -> Iterator[str]:
    for number, value, count in zip(part.ids, part.values, part.counts, strict=True):
        yield f"{escape(part.field)}\t{number}\t{escape(value)}\t{'' if count is None else count}\n"


def _joined(part: Part, columns: Columns) -> np.ndarray:
    return np.concatenate([part.floats[:, column] for column in columns.values()], axis=1)


def _write_npy(path: pathlib.Path, parts: Iterator[Part], columns: Columns, rows: int) -> None:
    width = sum(column.stop - column.start for column in columns.values())
    with replacing(path.with_suffix(".tsv")) as names, replacing(path) as vectors:
        table = np.lib.format.open_memmap(vectors, "w+", np.float32, (rows, width))
        with open(names, "w", encoding="utf-8", newline="\n") as file:
            file.write(_HEADER)
            done = 0
            for part in parts:
                table[done : done + len(part.ids)] = _joined(part, columns)
                file.writelines(_lines(part))
                done += len(part.ids)
        table.flush()


def _write_projector(path: pathlib.Path, parts: Iterator[Part], columns: Columns, rows: int) -> None:
    path.mkdir(exist_ok=True)
    with replacing(path / "tensors.tsv") as tensors, replacing(path / "metadata.tsv") as metadata:
        with (
            open(tensors, "w", encoding="utf-8") as floats,
            open(metadata, "w", encoding="utf-8", newline="\n") as names,
        ):
            names.write(_HEADER)
            for part in parts:
                np.savetxt(floats, _joined(part, columns), fmt="%.9g", delimiter="\t")
                names.writelines(_lines(part))


def _write_parquet(path: pathlib.Path, parts: Iterator[Part], columns: Columns, rows: int) -> None:
    arrow, parquet = _pyarrow()
    lists = {name: arrow.list_(arrow.float32(), column.stop - column.start) for name, column in columns.items()}
    about = {"field": arrow.string(), "id": arrow.int64(), "value": arrow.string(), "count": arrow.int64()}
    if clash := sorted(about.keys() & lists.keys()):
        raise UserError(f"--columns={clash[0]}: a parquet file has a column of that name besides")
    schema = arrow.schema({**about, **lists})
    with replacing(path) as beside, parquet.ParquetWriter(os.fspath(beside), schema) as writer:
        for part in parts:
            arrays: list[Any] = [[part.field] * len(part.ids), part.ids, part.values, part.counts]
            cells = [arrow.array(array, kind) for array, kind in zip(arrays, about.values(), strict=True)]
            for name, column in columns.items():
                floats = arrow.array(np.ascontiguousarray(part.floats[:, column]).reshape(-1))
                cells.append(arrow.FixedSizeListArray.from_arrays(floats, lists[name].list_size))
            writer.write_table(arrow.Table.from_arrays(cells, schema=schema))


def _pyarrow() -> tuple[Any, Any]:
    with contextlib.suppress(ImportError):
        import pyarrow
        from pyarrow import parquet

        return pyarrow, parquet
    raise UserError("--embeddings=FILE.parquet needs pyarrow: pip install 'dist_fm[parquet]'")

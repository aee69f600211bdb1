"""Reads the rows of a parquet file in chunks, by column names. pyarrow is imported only when there is one to read."""

import importlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_tools.errors import DataError
from data_tools.formats.arrow_cells import check_type, column_cells
from data_tools.formats.base import TextLayout
from data_tools.formats.checks import RowChecks
from data_tools.formats.header import match_names
from data_tools.formats.parser import BadRow, Chunk, checked_chunk
from data_tools.manifest import sum_file
from data_tools.tokens import Tokens
from dist_fm.data.schema import Label

BATCH_ROWS = 1 << 16
_MAGIC = b"PAR1"


def is_parquet(path: str) -> bool:
    """Whether the file at ``path`` begins as parquet does; False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


class ParquetReader:
    """Iterates once over the ``Chunk``s of a parquet file; its lines are rows, from 1 on. See ``rows.Rows``."""

    def __init__(
        self,
        layout: TextLayout,
        path: str,
        label: Label | None,
        for_prediction: bool,
        keep: tuple[str, ...] = (),
        batch_rows: int = BATCH_ROWS,
    ):
        self._file, self._errors = _open(path)
        self.path, self._batch_rows = path, batch_rows
        schema = self._file.schema_arrow
        positions = match_names(schema.names, layout, where=path, for_prediction=for_prediction, keep=keep)
        self._own_names = {name: schema.names[position] for name, position in positions.items()}
        self._splits = {column.name: column.split for column in layout.columns}
        for name, position in positions.items():
            try:
                check_type(schema.field(position).type, schema.names[position], self._splits.get(name))
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
        self._checks = RowChecks(layout, label, for_prediction, positions)
        self.total_bytes = self.text_bytes = os.path.getsize(path)

    @property
    def crc32(self) -> int:
        return sum_file(self.path)[1]

    @property
    def has_times(self) -> bool:
        return self._checks.has_times

    def __iter__(self) -> Iterator[Chunk]:
        total, row = self._file.metadata.num_rows, 0
        with self._file:
            batches = self._file.iter_batches(self._batch_rows, columns=sorted(set(self._own_names.values())))
            while (batch := self._next(batches)) is not None:
                stop = row + batch.num_rows
                num_bytes = self.total_bytes * stop // total - self.total_bytes * row // total
                yield self._chunk(batch, row, num_bytes)
                row = stop
        if not row:
            raise DataError(f"{self.path}: the file has no rows")

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, None)
        except self._errors as error:
            raise _damaged(self.path, error) from error

    def _chunk(self, batch: Any, first_row: int, num_bytes: int) -> Chunk:
        count = batch.num_rows
        columns: dict[str, Tokens] = {}
        reasons: dict[int, str] = {}
        for name, own in self._own_names.items():
            columns[name], unfit = column_cells(batch.column(own), self._splits.get(name))
            reasons |= {row: f"{name}: {reason}" for row, reason in unfit.items()}
        reasons |= self._checks.failures(columns, count)
        bad = [BadRow(first_row + 1 + row, reasons[row], _shown(columns, row)) for row in sorted(reasons)]
        good = np.setdiff1d(np.arange(count), list(reasons))
        if reasons:
            columns = {name: column.select(good) for name, column in columns.items()}
        return checked_chunk(self._checks, first_row, good + (first_row + 1), columns, bad, num_bytes)


def _open(path: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """pyarrow's reader of the file, and the errors that it may raise."""
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(f"{path}: reading parquet needs pyarrow: pip install 'dist_fm[parquet]'") from error
    errors = (OSError, arrow.ArrowException)
    try:
        return parquet.ParquetFile(path), errors
    except errors as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> DataError:
    return DataError(f"{path}: the parquet file is damaged or cut short: {' '.join(str(error).split())}")


def _shown(columns: dict[str, Tokens], row: int) -> str:
    """The cells of a row that is set aside, as a line of text."""
    return "\t".join(column.values[column.codes[row]] for column in columns.values())

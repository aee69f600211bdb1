"""Whether an exported model predicts what the live one does. Axes: N rows, S slots."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dist_fm.data.records import RecordError
from dist_fm.data.schema import EMPTY, Schema, SchemaError, read_schema
from dist_fm.data.shards import open_split
from dist_fm.data.store import StoreError
from dist_fm.errors import UserError

ROWS = 1000
TOLERANCE = 1e-5


class Rows(NamedTuple):
    """Rows to compare on: logical ``ids`` int32 [N, S], ``values`` float32 [N, S] if any, and where they are from."""

    ids: np.ndarray
    values: np.ndarray | None
    source: str

    def inputs(self) -> dict[str, np.ndarray]:
        """By the names of an exported model's inputs."""
        return {"ids": self.ids} | ({} if self.values is None else {"values": self.values})


@dataclasses.dataclass(frozen=True)
class Agreement:
    """By how much predictions differ at most, and on what."""

    rows: int
    rows_from: str
    largest_difference: float
    tolerance: float = TOLERANCE


def rows_to_compare(schema: Schema, data: str, *, given: bool, count: int = ROWS) -> Rows:
    """The first ``count`` rows of the test split in ``data``; where that cannot be read, rows drawn from the schema.

    Raises ``SchemaError`` or ``StoreError`` instead where the user has ``given`` the directory.
    """
    try:
        if not data:
            raise SchemaError("the run names no data set")
        found = read_schema(data)
        if found.fingerprint != schema.fingerprint:
            raise SchemaError(f"{data} has other fields or another vocabulary than the run was trained on")
        with open_split(data, "test") as store:
            if not store.rows:
                raise StoreError(f"{data} has no rows to test on")
            words = store.slice(0, min(count, store.rows))
            values = store.layout.values(words)
            return Rows(
                np.array(store.layout.ids(words), np.int32),
                None if values is None else np.array(values, np.float32),
                f"the test split of data set {found.name!r}",
            )
    except (SchemaError, StoreError, RecordError) as error:
        if given:
            raise
        return draw_rows(schema, count)._replace(source=f"drawn at random from the fields' ids, as {error}")


def draw_rows(schema: Schema, count: int) -> Rows:
    """``count`` rows of random ids and values; of fields of several slots any number is filled."""
    random = np.random.default_rng(0)
    ids, values = [], []
    for field in schema.fields:
        filled = np.arange(field.slots) < random.integers(0, field.slots + 1, (count, 1))
        if field.slots == 1:
            filled[:] = True
        drawn = random.integers(field.offset, field.offset + field.rows, filled.shape)
        ids.append(np.where(filled, drawn, EMPTY))
        values.append(np.where(filled, random.normal(1, 0.5, filled.shape), 0))
    joined = np.concatenate(values, axis=1).astype(np.float32) if schema.has_values else None
    return Rows(np.concatenate(ids, axis=1).astype(np.int32), joined, "drawn at random from the fields' ids")


def compare(
    loaded: Callable[[dict[str, np.ndarray]], np.ndarray], rows: Rows, expected: np.ndarray, path: pathlib.Path
) -> Agreement:
    """How the ``loaded`` model of ``path`` agrees with the live one's predictions ``expected`` [N].

    One row is predicted by itself, the others together. Predictions above 1 may differ by their size times the
    tolerance. Raises ``UserError`` where they differ by more, or in shape.
    """
    parts = [{name: array[part] for name, array in rows.inputs().items()} for part in (slice(1), slice(1, None))]
    found = np.concatenate([loaded(part) for part in parts if len(part["ids"])])
    if found.shape != expected.shape or found.dtype != np.float32:
        raise UserError(f"{path.name} gives {found.dtype} {found.shape}, not float32 {expected.shape}: it is not kept")
    differences = np.abs(found - expected) / np.maximum(1, np.abs(expected))
    largest: Any = float(differences.max())
    if not largest <= TOLERANCE:  # nor where it is not a number
        raise UserError(
            f"{path.name} differs from the run's own predictions by {largest:.3g} on row {differences.argmax()} of "
            f"{len(expected)}, where {TOLERANCE:g} is allowed: it is not kept"
        )
    return Agreement(len(expected), rows.source, largest)

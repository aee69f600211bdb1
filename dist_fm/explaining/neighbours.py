"""Values of a field whose vectors lie nearest to a given value's. Axes: R rows of the field, W floats of a column."""

from typing import NamedTuple

import numpy as np

from data_tools.encode import Encoder
from dist_fm.data.schema import Field, Schema
from dist_fm.errors import UserError, nearest
from dist_fm.explaining.rows import AT_ONCE, table_rows
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine

MEASURES = ("cosine", "dot")
_COMPARED = 100_000  # values among which a near match of an unknown one is looked for


class Neighbour(NamedTuple):
    value: str
    cosine: float
    dot: float
    training_rows: int | None  # that hold it; None where nothing counts them


def find_field(schema: Schema, name: str) -> Field:
    """The field called ``name``; raises ``UserError``."""
    fields = {field.name: field for field in schema.fields}
    if name not in fields:
        raise UserError(f"there is no field {name!r}; {nearest(name, fields)}")
    return fields[name]


def find_column(engine: Engine, name: str) -> slice:
    """Where column ``name`` lies in a table row; raises ``UserError``."""
    slices = engine.layout.slices
    if name not in slices:
        raise UserError(f"the table of {engine.config.model_name} has no column {name!r}; {nearest(name, slices)}")
    return slices[name]


def count_of(encoder: Encoder, field: Field, row: int) -> int | None:
    """How many training rows hold the value of a table row; None where it has no vocabulary."""
    if field.vocabulary is None or row == field.offset:
        return None
    return int(encoder.vocabularies[field.vocabulary].counts[row - field.offset - 1])


def neighbours(
    engine: Engine, state: TrainState, encoder: Encoder, field: Field, value: str, *, column: str, top: int, by: str
) -> list[Neighbour]:
    """The ``top`` values of ``field`` nearest to ``value``, by ``MEASURES``, over the floats of ``column``.

    The unseen row is no value, and left out. Raises ``UserError`` for a value that the field does not hold.
    """
    part = find_column(engine, column)
    if field.kind == "numeric":
        raise UserError(f"field {field.name!r} is of numbers, which share one vector: it has no neighbours")
    row = encoder.row_of(field, value)
    if row is None:
        known = [encoder.value_of(field, field.offset + i) for i in range(1, min(field.rows, _COMPARED + 1))]
        some = known if len(known) <= 20 else [f"{field.rows - 1:,} values, such as {', '.join(known[:5])}"]
        close = nearest(value, known)
        raise UserError(
            f"field {field.name!r} holds no value {value!r}; "
            + (close if close.startswith("did") else f"it has {', '.join(some)}")
        )
    own = table_rows(engine, state, np.array([row]))[0, part].astype(np.float64)
    best: list[tuple[float, float, float, int]] = []
    for first in range(field.offset + 1, field.offset + field.rows, AT_ONCE):
        rows = np.arange(first, min(first + AT_ONCE, field.offset + field.rows))
        vectors = table_rows(engine, state, rows)[:, part].astype(np.float64)
        dots = vectors @ own
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(own)
        cosines = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
        key = np.where(rows == row, -np.inf, dots if by == "dot" else cosines)
        chosen = np.argsort(-key, kind="stable")[:top]
        chosen = chosen[np.isfinite(key[chosen])]
        best += [(-float(key[i]), float(cosines[i]), float(dots[i]), int(rows[i])) for i in chosen]
    best.sort(key=lambda found: (found[0], found[3]))
    return [
        Neighbour(encoder.value_of(field, row), cosine, dot, count_of(encoder, field, row))
        for _, cosine, dot, row in best[:top]
    ]

"""From raw values to table rows by saved vocabularies, and back. Axes: N rows, U distinct cells, S slots."""

import os
import pathlib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_tools.coding import Coded, code_cells, code_entries, field_cells
from data_tools.errors import DataError
from data_tools.numeric import parse_integer
from data_tools.side_tables import Attributes, load_attributes
from data_tools.tokens import Entries, Tokens
from data_tools.vocab import UNSEEN, Vocabulary
from dist_fm.data.schema import EMPTY, Field, Schema


def has_values(fields: Iterable[Field]) -> bool:
    """Whether records of ``fields`` need values: of numbers, of entries, of lists that are averaged or not pooled."""
    needs = lambda field: "entries" in field.transform or field.transform.get("pool") in ("mean", "none")
    return any(field.kind == "numeric" or needs(field) for field in fields)


def own_cells(
    transform: Mapping[str, Any], attributes: Mapping[str, Attributes], cells: Sequence[str]
) -> Sequence[str]:
    """The cells that a field's transform works on: ``cells``, or the attributes of which they are the keys."""
    return attributes[transform["join"]].take(transform["take"], cells) if "join" in transform else cells


class Encoder:
    """Encodes raw columns as a schema says; a value that the vocabulary does not hold is its field's unseen row."""

    def __init__(
        self,
        schema: Schema,
        vocabularies: Mapping[str, Vocabulary],
        attributes: Mapping[str, Attributes] = types.MappingProxyType({}),
    ):
        self.schema, self.attributes = schema, attributes
        self.vocabularies = dict(vocabularies)
        for field in schema.fields:
            if field.vocabulary is not None and vocabularies[field.vocabulary].rows != field.rows:
                rows = vocabularies[field.vocabulary].rows
                raise DataError(f"field {field.name!r} has {field.rows} rows, but its vocabulary needs {rows}")

    @classmethod
    def from_directory(cls, directory: str | os.PathLike) -> "Encoder":
        """The encoder of a data set or run: of its ``schema.json`` and ``vocab/``. Raises ``DataError``."""
        directory = pathlib.Path(directory)
        schema = load_schema(directory)
        return cls(schema, load_vocabularies(schema, directory), load_attributes(schema, directory))

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns that ``encode`` needs."""
        return tuple(dict.fromkeys(name for field in self.schema.fields for name in field.columns))

    def encode(self, columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """Table rows int32 [N, S] and values float32 [N, S] (None if the schema has none) of raw columns.

        A column is ``Tokens``, ``Entries``, or a sequence of N strings; None and NaN count as empty cells. Raises
        ``DataError`` if one is missing, or is not of entries where the schema says so.
        """
        missing = [name for name in self.columns if name not in columns]
        if missing:
            raise DataError(f"there is no column {missing[0]!r}; columns given: {', '.join(columns)}")
        tokens = {name: Tokens.of(columns[name]) for name in self.columns if not isinstance(columns[name], Entries)}
        parts: list[tuple[Coded, np.ndarray | slice]] = []
        for field in self.schema.fields:
            vocabulary = self.vocabularies.get(field.vocabulary or "")
            if "entries" in field.transform:
                parts.append((code_entries(field, vocabulary, columns[field.name]), slice(None)))
            else:
                column = field_cells(field, tokens)
                own = own_cells(field.transform, self.attributes, column.values)
                parts.append((code_cells(field, vocabulary, own), column.codes))
        rows = np.concatenate([coded.rows[codes] for coded, codes in parts], axis=1)
        if not self.schema.has_values:
            return rows, None
        return rows, np.concatenate([coded.values[codes] for coded, codes in parts], axis=1)

    def decode(self, ids: np.ndarray, values: np.ndarray | None = None) -> list[list[str]]:
        """For table rows and values [N, S], each row's fields as text; ``<unseen>`` where a value is not known."""
        ends = np.cumsum([field.slots for field in self.schema.fields])[:-1]
        by_field = np.split(ids, ends, axis=1)
        numbers = np.split(np.ones(ids.shape) if values is None else values, ends, axis=1)
        columns = [
            [self._decode_cell(field, row, number) for row, number in zip(rows.tolist(), of_rows.tolist(), strict=True)]
            for field, rows, of_rows in zip(self.schema.fields, by_field, numbers, strict=True)
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    def _decode_cell(self, field: Field, rows: list[int], values: list[float]) -> str:
        if field.kind == "numeric":
            return "" if rows[-1] == field.offset else f"{_unscaled(field.transform, values[0]):g}"
        filled = [(self.value_of(field, row), value) for row, value in zip(rows, values, strict=True) if row != EMPTY]
        if "entries" in field.transform:
            return " ".join(f"{index}:{value:g}" for index, value in filled)
        return field.transform.get("split", "").join(token for token, _ in filled)

    def value_of(self, field: Field, row: int) -> str:
        """The value of ``field``, one of those in a list, that table row ``row`` stands for; ``<unseen>`` for none."""
        number = row - field.offset
        if field.kind == "numeric":
            return "<number>" if number else "<missing>"
        if number >= field.transform.get("add", number + 1):
            return str(number - field.transform["add"])
        if number == UNSEEN:
            return "<unseen>"
        if field.vocabulary is None:
            return f"#{number}" if "buckets" in field.transform else str(number)
        return self.vocabularies[field.vocabulary].values[number - 1]

    def row_of(self, field: Field, value: str) -> int | None:
        """The table row of a value of ``field``, written as ``value_of`` does; None if the field does not hold it."""
        if value == self.value_of(field, field.offset):
            return field.offset
        if field.vocabulary is not None:
            number = int(self.vocabularies[field.vocabulary].ids([value])[0])
        else:
            given = parse_integer(value.removeprefix("#") if "buckets" in field.transform else value)
            number = UNSEEN if given is None else given + field.transform.get("add", 0)
        return field.offset + number if UNSEEN < number < field.rows else None


def _unscaled(transform: Mapping[str, Any], value: float) -> float:
    number = value * transform.get("divide", 1.0) + transform.get("shift", 0.0)
    number = float(np.copysign(np.expm1(abs(number)), number)) if transform.get("log") else number
    return round(number, 6)  # float32 does not hold more


def load_schema(directory: pathlib.Path) -> Schema:
    """The schema of a data set or run; raises ``DataError`` if ``directory`` is neither."""
    path = directory / "schema.json"
    if not path.is_file():
        raise DataError(f"{directory} has no schema.json, so it is neither a data set nor a run")
    return Schema.from_json(path.read_text(encoding="utf-8", errors="replace"), where=str(path))


def load_vocabularies(schema: Schema, directory: pathlib.Path) -> dict[str, Vocabulary]:
    """The vocabularies that the schema's fields name, by file name; raises ``DataError`` if one is not as it was."""
    digests = {field.vocabulary: field.vocabulary_sha256 for field in schema.fields if field.vocabulary is not None}
    return {name: Vocabulary.load(directory / "vocab" / name, digest) for name, digest in digests.items()}

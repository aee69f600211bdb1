"""From raw values to table rows by a saved vocabulary, and back. Axes: N rows, S slots."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_tools.errors import DataError
from data_tools.numeric import parse_integer, transform_tokens
from data_tools.tokens import Tokens
from data_tools.vocab import UNSEEN, Vocabulary
from dist_fm.data.schema import EMPTY, Field, Schema


class Encoder:
    """Encodes raw columns as a schema says. A value that its vocabulary does not hold becomes the field's unseen row.

    A field without a vocabulary holds ids as they are, shifted by its transform's ``add``: raw id i is id i + add,
    and unseen if that is not an id of the field.
    """

    def __init__(self, schema: Schema, vocabularies: Mapping[str, Vocabulary]):
        self.schema = schema
        self.vocabularies = dict(vocabularies)
        for field in schema.fields:
            if field.kind == "numeric" or field.slots != 1:
                raise DataError(f"field {field.name!r}: kind {field.kind!r} with {field.slots} slots cannot be encoded")
            if field.vocabulary is not None and vocabularies[field.vocabulary].rows != field.rows:
                rows = vocabularies[field.vocabulary].rows
                raise DataError(f"field {field.name!r} has {field.rows} rows, but its vocabulary needs {rows}")

    @classmethod
    def from_directory(cls, directory: str | os.PathLike) -> "Encoder":
        """The encoder of a data set or run: of its ``schema.json`` and ``vocab/``. Raises ``DataError``."""
        directory = pathlib.Path(directory)
        path = directory / "schema.json"
        if not path.is_file():
            raise DataError(f"{directory} has no schema.json, so it is neither a data set nor a run")
        schema = Schema.from_json(path.read_text(encoding="utf-8", errors="replace"), where=str(path))
        return cls(schema, load_vocabularies(schema, directory))

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns that ``encode`` needs."""
        return tuple(field.name for field in self.schema.fields)

    def encode(self, columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """Table rows int32 [N, S] and values float32 [N, S] (None if the schema has none) of raw columns.

        A column is ``Tokens``, or a sequence of N strings; None and NaN count as empty cells. Raises ``DataError`` if
        one is missing.
        """
        missing = [name for name in self.columns if name not in columns]
        if missing:
            raise DataError(f"there is no column {missing[0]!r}; columns given: {', '.join(columns)}")
        rows = [self._encode_field(field, Tokens.of(columns[field.name])) for field in self.schema.fields]
        return np.stack(rows, axis=1), None

    def decode(self, ids: np.ndarray) -> list[list[str]]:
        """For table rows int32 [N, S]: each row's values as text, ``<unseen>`` where the value is not known."""
        fields = [self.schema.fields[number] for number in self.schema.slot_fields]
        return [[self._decode_id(field, int(row)) for field, row in zip(fields, record, strict=True)] for record in ids]

    def _encode_field(self, field: Field, tokens: Tokens) -> np.ndarray:
        return (self._value_ids(field, tokens.values) + np.int32(field.offset))[tokens.codes]

    def _value_ids(self, field: Field, values: Sequence[str]) -> np.ndarray:
        if field.vocabulary is not None:
            return self.vocabularies[field.vocabulary].ids(transform_tokens(field.transform, values))
        add = field.transform.get("add", 0)
        numbers = (parse_integer(value) for value in values)
        ids = (UNSEEN if number is None or not 0 <= number + add < field.rows else number + add for number in numbers)
        return np.fromiter(ids, np.int32, len(values))

    def _decode_id(self, field: Field, row: int) -> str:
        if row == EMPTY:
            return ""
        number = row - field.offset
        if field.vocabulary is None:
            return str(number - field.transform.get("add", 0))
        return "<unseen>" if number == UNSEEN else self.vocabularies[field.vocabulary].values[number - 1]


def load_vocabularies(schema: Schema, directory: pathlib.Path) -> dict[str, Vocabulary]:
    """The vocabularies that the schema's fields name, by file name; raises ``DataError`` if one is not as it was."""
    digests = {field.vocabulary: field.vocabulary_sha256 for field in schema.fields if field.vocabulary is not None}
    return {name: Vocabulary.load(directory / "vocab" / name, digest) for name, digest in digests.items()}

"""From the cells of a raw column to a field's ids and values: a function of a cell, so equal cells are coded once.

Axes: N rows, U distinct cells, S slots of the field.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xxhash

from data_tools.errors import DataError
from data_tools.numeric import parse_integer
from data_tools.tokens import Entries, Tokens
from data_tools.transforms import cell_numbers, cell_tokens, is_plain, scaled
from data_tools.vocab import UNSEEN, Vocabulary
from dist_fm.data.schema import EMPTY, Field

CROSS = "\x1f"  # between the values of a cross


@dataclasses.dataclass(frozen=True)
class Coded:
    """``rows`` int32 [U, S] of the table, ``EMPTY`` in a slot that holds nothing, and ``values`` float32 [U, S]."""

    rows: np.ndarray
    values: np.ndarray


def field_cells(field: Field, columns: Mapping[str, Tokens]) -> Tokens:
    """The column that ``field`` codes; of a cross, the columns' values joined, by distinct combination."""
    parts = [columns[name] for name in field.columns]
    if len(parts) == 1:
        return parts[0]
    # Combined two at a time, so that the codes of many columns do not outgrow 64 bits.
    codes, values = parts[0].codes.astype(np.int64), list(parts[0].values)
    for part in parts[1:]:
        codes, pairs = pd.factorize(codes * len(part.values) + part.codes)
        left, right = np.divmod(pairs, max(len(part.values), 1))
        values = [values[a] + CROSS + part.values[b] for a, b in zip(left.tolist(), right.tolist(), strict=True)]
    return Tokens(codes, values)


def code_cells(field: Field, vocabulary: Vocabulary | None, cells: Sequence[str]) -> Coded:
    """Table rows and values of ``cells``; ``vocabulary`` is the one that the field names."""
    if field.kind == "numeric":
        return _code_numbers(field, cells)
    if is_plain(field.transform):
        ids = _ids(field, vocabulary, cells)
        return Coded((ids + np.int32(field.offset))[:, None], np.ones((len(cells), 1), np.float32))
    lists = cell_tokens(field.transform, cells)
    flat = [token for entries in lists for token in entries]
    counts = np.fromiter(map(len, lists), np.int64, len(lists))
    rows = np.full((len(cells), field.slots), EMPTY, np.int32)
    slot = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows[np.repeat(np.arange(len(cells)), counts), slot] = _ids(field, vocabulary, flat) + np.int32(field.offset)
    values = (rows != EMPTY).astype(np.float32)
    if field.transform.get("pool") == "mean":
        values /= np.maximum(counts, 1).astype(np.float32)[:, None]
    return Coded(rows, values)


def code_entries(field: Field, vocabulary: Vocabulary | None, column: Any) -> Coded:
    """Table rows and values [N, S] of a column of ``Entries``, row by row; raises ``DataError`` if it is none."""
    if not isinstance(column, Entries):
        raise DataError(f"column {field.name!r} must be one of entries, as `open_rows` reads it")
    shape = len(column), field.slots
    rows, values = np.full(shape, EMPTY, np.int32), np.zeros(shape, np.float32)
    at = column.rows, column.places
    rows[at] = (_ids(field, vocabulary, column.values) + np.int32(field.offset))[column.indices.codes]
    values[at] = column.numbers
    return Coded(rows, values)


def _code_numbers(field: Field, cells: Sequence[str]) -> Coded:
    """The first slot has the number times row 1; a second one, row 0 where the cell was empty."""
    numbers, empty = cell_numbers(field.transform, cells)
    rows = np.full((len(cells), field.slots), EMPTY, np.int32)
    values = np.zeros((len(cells), field.slots), np.float32)
    rows[:, 0], values[:, 0] = field.offset + 1, scaled(field.transform, numbers)
    if field.slots > 1:
        rows[empty, 1], values[empty, 1] = field.offset, 1.0
    return Coded(rows, values)


def _ids(field: Field, vocabulary: Vocabulary | None, tokens: Sequence[str | None]) -> np.ndarray:
    """Ids within the field, int32 [N]; ``UNSEEN`` for None and what the field does not know."""
    if vocabulary is not None:
        return vocabulary.ids(tokens)
    if "buckets" in field.transform:
        return hash_ids(field.transform.get("salt", field.name), tokens, field.transform)
    return _own_ids(field, tokens)


def hash_ids(salt: str, tokens: Sequence[str | None], transform: Mapping) -> np.ndarray:
    """Ids 1 to ``buckets``: xxhash64 of ``salt`` (the field's name, or of fields that share rows) and value."""
    buckets, seed, digest = transform["buckets"], transform.get("seed", 0), xxhash.xxh64_intdigest
    prefix = salt.encode() + CROSS.encode()
    ids = (UNSEEN if token is None else 1 + digest(prefix + token.encode(), seed) % buckets for token in tokens)
    return np.fromiter(ids, np.int32, len(tokens))


def _own_ids(field: Field, tokens: Sequence[str | None]) -> np.ndarray:
    """Ids as they are: raw id i is id i + the transform's ``add``, and unseen if that is not an id of the field."""
    add = field.transform.get("add", 0)
    numbers = (None if token is None else parse_integer(token) for token in tokens)
    ids = (UNSEEN if number is None or not 0 <= number + add < field.rows else number + add for number in numbers)
    return np.fromiter(ids, np.int32, len(tokens))

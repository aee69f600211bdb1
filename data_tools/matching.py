"""Which rows of one data set's table are those of another's: by field and raw value, through both vocabularies."""

import pathlib
from typing import NamedTuple

import numpy as np

from data_tools.encode import load_vocabularies
from dist_fm.data.schema import Field, Schema


class Match(NamedTuple):
    """``rows`` int64 [our table rows]: their row with the same meaning, or -1; and how many of each field have one."""

    rows: np.ndarray
    found: dict[str, tuple[int, int]]  # field: rows that have one, rows


def match_rows(ours: Schema, our_folder: pathlib.Path, theirs: Schema, their_folder: pathlib.Path) -> Match:
    """Matches the rows of schema ``ours`` to those of ``theirs``; vocabularies lie in ``vocab/`` of each folder.

    Fields are the same if name, kind and transform are: their unseen (or missing) rows then match, and those of equal
    values, or, without a vocabulary, of equal ids. Raises ``DataError`` for a vocabulary that is not as it was.
    """
    our_words, their_words = load_vocabularies(ours, our_folder), load_vocabularies(theirs, their_folder)
    their_fields = {field.name: field for field in theirs.fields}
    rows, found = np.full(ours.num_rows, -1, np.int64), {}
    for field in ours.fields:
        other = their_fields.get(field.name)
        ids = np.full(field.rows, -1, np.int64)
        if other is not None and _means_the_same(field, other):
            if field.vocabulary is None or other.vocabulary is None:
                ids = np.arange(field.rows)
                ids[other.rows :] = -1
            else:
                values = our_words[field.vocabulary].values
                ids = np.concatenate([[0], their_words[other.vocabulary].ids(values)]).astype(np.int64)
                ids[1:][ids[1:] == 0] = -1
            ids = np.where(ids < 0, -1, ids + other.offset)
        rows[field.offset : field.offset + field.rows] = ids
        found[field.name] = (int((ids >= 0).sum()), field.rows)
    return Match(rows, found)


def _means_the_same(one: Field, other: Field) -> bool:
    same = one.kind == other.kind and dict(one.transform) == dict(other.transform)
    return same and (one.vocabulary is None) == (other.vocabulary is None)

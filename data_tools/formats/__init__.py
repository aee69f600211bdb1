"""The raw formats by name, and ``open_rows``, which reads any of them. A new format is one file and one line here."""

from data_tools.errors import unknown
from data_tools.formats import criteo, movielens
from data_tools.formats.base import Column, FieldSpec, Format, TextLayout
from data_tools.formats.reader import BadRow, Chunk, RowReader, open_rows

FORMATS: dict[str, Format] = {found.name: found for module in (movielens, criteo) for found in module.FORMATS}


def get_format(name: str) -> Format:
    """The format called ``name``; raises ``DataError`` with the nearest name if there is none."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]


__all__ = [
    "FORMATS",
    "BadRow",
    "Chunk",
    "Column",
    "FieldSpec",
    "Format",
    "RowReader",
    "TextLayout",
    "get_format",
    "open_rows",
]

"""The raw formats by name, and ``open_rows``, which reads any of them. A new format is one file and one line here."""

from data_tools.errors import DataError, unknown
from data_tools.formats import avazu, criteo, eleme, frappe, kmrd, movielens, ncf, sparse
from data_tools.formats.base import Column, FieldSpec, Format, SideTable, TextLayout
from data_tools.formats.described import DELIMITERS, read_format
from data_tools.formats.parser import BadRow, Chunk, Parsed, RowParser
from data_tools.formats.reader import RowReader
from data_tools.formats.rows import Rows, open_rows

_MODULES = (movielens, criteo, avazu, frappe, kmrd, eleme, ncf, sparse)
FORMATS: dict[str, Format] = {found.name: found for module in _MODULES for found in module.FORMATS}


def get_format(name: str, schema: str | None = None) -> Format:
    """The format called ``name``; of ``csv`` and ``tsv``, the one that the TOML file ``schema`` describes.

    Raises ``DataError``, with the nearest name if there is none.
    """
    if name in DELIMITERS:
        if schema is None:
            raise DataError(f"--format={name} needs --schema=FILE.toml, which names its fields and its label")
        return read_format(name, schema)
    if name not in FORMATS:
        raise unknown("format", name, [*FORMATS, *DELIMITERS])
    if schema is not None:
        raise DataError(f"--schema goes with --format={' or '.join(DELIMITERS)}; {name} has its own")
    return FORMATS[name]


__all__ = [
    "FORMATS",
    "BadRow",
    "Chunk",
    "Column",
    "FieldSpec",
    "Format",
    "Parsed",
    "RowParser",
    "RowReader",
    "Rows",
    "SideTable",
    "TextLayout",
    "get_format",
    "open_rows",
]

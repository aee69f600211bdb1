"""Attributes of users or items, from files of their own: what a row's key says besides itself.

A data set keeps each as ``vocab/<name>.table.tsv`` (a line of column names, then the rows, keys first), so that rows to
predict need hold the key alone.
"""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence

from data_tools.errors import DataError
from data_tools.formats.base import SideTable
from data_tools.formats.rows import open_rows
from data_tools.vocab import escape, unescape
from dist_fm.data.schema import Schema


class Attributes:
    """``columns`` [C], and the cells [C] of every key."""

    def __init__(self, columns: Sequence[str], cells: Mapping[str, Sequence[str]]):
        self.columns, self.cells = tuple(columns), cells

    @classmethod
    def read(cls, table: SideTable, path: str) -> "Attributes":
        """The attributes of ``table`` in a raw file; raises ``DataError`` for a bad row or a key that occurs twice.

        Of a table that gathers, a key's cells are those of all its lines, joined.
        """
        key, *columns = (column.name for column in table.layout.columns)
        rows_of: dict[str, list[Sequence[str]]] = {}
        for chunk in open_rows(table.layout, path, for_prediction=True):
            if chunk.bad:
                raise DataError(f"{path}:{chunk.bad[0].line}: {chunk.bad[0].reason}")
            found = [chunk.columns[name] for name in (key, *columns)]
            rows = zip(*([part.values[code] for code in part.codes.tolist()] for part in found), strict=True)
            for line, (name, *attributes) in zip(chunk.lines.tolist(), rows, strict=True):
                if name in rows_of and table.gather is None:
                    raise DataError(f"{path}:{line}: {key} {name!r} is there twice")
                if table.gather is not None and any(table.gather in cell for cell in attributes):
                    raise DataError(
                        f"{path}:{line}: a cell holds {table.gather!r}, which separates the entries of a list"
                    )
                rows_of.setdefault(name, []).append(attributes)
        join = table.gather or ""
        return cls(
            columns, {key: [join.join(cells) for cells in zip(*own, strict=True)] for key, own in rows_of.items()}
        )

    def take(self, column: str, keys: Sequence[str]) -> list[str]:
        """The cell of ``column`` for each key; empty for one that is not there."""
        at = self.columns.index(column)
        nothing = [""] * len(self.columns)
        return [self.cells.get(key, nothing)[at] for key in keys]

    def save(self, path: pathlib.Path) -> str:
        """Writes the file; returns its SHA-256."""
        lines = [("", *self.columns), *((key, *cells) for key, cells in self.cells.items())]
        data = "".join("\t".join(map(escape, line)) + "\n" for line in lines).encode()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    @classmethod
    def load(cls, path: pathlib.Path, sha256: str) -> "Attributes":
        """Reads the file; raises ``DataError`` if it is absent, or not the one whose SHA-256 is given."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: the table cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DataError(f"{path}: the table was changed: it is not the one that the schema was made with")
        lines = [[unescape(cell) for cell in line.split("\t")] for line in data.decode().split("\n")[:-1]]
        return cls(lines[0][1:], {key: cells for key, *cells in lines[1:]})


def load_attributes(schema: Schema, directory: pathlib.Path) -> dict[str, Attributes]:
    """The attributes that the schema's fields are taken from, by file name."""
    used = {field.transform["join"]: field.transform["join_sha256"] for field in schema.fields
            if "join" in field.transform}  # fmt: skip
    return {name: Attributes.load(directory / "vocab" / name, digest) for name, digest in used.items()}

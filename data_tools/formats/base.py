"""What a format is: how its rows lie in a text file, and which columns become fields and label."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dist_fm.data.schema import Label

TYPES = ("token", "integer", "number", "id", "entries")
SYNTAXES = ("delimited", "libsvm", "libffm", "ncf")
MAX_ID = 2**31 - 2  # with one more for the unseen row, ids fit int32


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a raw file. A filled cell must be of its ``type``; ``required``: no cell of it may be empty.

    ``header`` is the column's name in the header line that files of the format have, if they have one. ``split`` is
    what separates the entries of a list in it: a file that has lists, as parquet does, gives them joined by it. Cells
    of the type ``entries`` have at most ``most`` of them.
    """

    name: str
    type: str = "token"
    required: bool = False
    header: str | None = None
    split: str | None = None
    most: int = 0

    def __post_init__(self):
        if self.type not in TYPES:
            raise ValueError(f"column {self.name!r}: type {self.type!r} is not one of {', '.join(TYPES)}")


@dataclasses.dataclass(frozen=True)
class TextLayout:
    """How the rows of a raw file are laid out. A schema keeps it as its ``source``, for prediction.

    A file whose first line holds any column's ``name`` or ``header`` is read by those names, in any order, with
    whatever delimiter that line uses; any other file has ``columns`` in their order. ``label``, ``timestamp``,
    ``weight`` (what a row counts in loss and metrics) and ``group`` (rows that belong together) name columns that rows
    to predict may lack, unless they are among the ``features``, which fields read. Rows whose ``syntax`` is not
    ``delimited`` have a label and entries (``entries.py``), or are NCF's (``ncf.py``).
    """

    format: str
    delimiter: str
    columns: tuple[Column, ...]
    label: str | None = None
    timestamp: str | None = None
    needs_header: bool = False  # its files name their columns: ``columns`` has no order
    weight: str | None = None
    group: str | None = None
    features: tuple[str, ...] = ()
    syntax: str = "delimited"

    def __post_init__(self):
        if self.syntax not in SYNTAXES:
            raise ValueError(f"layout of {self.format!r}: syntax {self.syntax!r} is not one of {', '.join(SYNTAXES)}")

    @property
    def optional(self) -> set[str]:
        """The columns that rows to predict may lack."""
        return {name for name in (self.label, self.timestamp, self.weight, self.group) if name} - {*self.features}

    def name_of(self, header: str) -> str:
        """The name of the column that files may call ``header``; ``header`` itself, if it is none's."""
        return next((column.name for column in self.columns if header in (column.name, column.header)), header)

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "columns": [dataclasses.asdict(column) for column in self.columns]}

    @classmethod
    def from_json(cls, about: "Mapping[str, Any] | TextLayout") -> "TextLayout":
        if isinstance(about, TextLayout):
            return about
        columns = tuple(Column(**column) for column in about["columns"])
        return cls(**{**about, "columns": columns, "features": tuple(about.get("features", ()))})


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """A field made of ``column`` (default: the one of its name) by ``transform`` (see ``transforms.py``).

    Fields with the same ``shares`` have their table rows in common. ``min_count`` overrides the build's. From training
    rows, ``scale`` (none, standard, minmax) fits a numeric field's shift and divisor, ``bins`` a binned one's edges.
    """

    name: str
    kind: str = "categorical"
    role: str | None = None
    transform: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    column: str | None = None
    shares: str | None = None
    min_count: int | None = None
    scale: str = "none"
    bins: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns that it reads: one, or those of a cross."""
        return tuple(self.transform.get("cross") or [self.column or self.name])


@dataclasses.dataclass(frozen=True)
class SideTable:
    """A file of attributes: its first column is the key, which rows have as column ``key``; ``fields`` by ``take``.

    With ``gather`` a key may have many lines: its cells are lists, joined by ``gather`` in the order of the lines.
    """

    name: str
    about: str
    key: str
    layout: TextLayout
    fields: tuple[FieldSpec, ...]
    gather: str | None = None


@dataclasses.dataclass(frozen=True)
class Format:
    """A raw format with its defaults: ``label`` rule, and the count below which a value is left to the unseen id."""

    name: str
    about: str
    layout: TextLayout
    fields: tuple[FieldSpec, ...]
    label: Label
    min_count: int = 1
    tables: tuple[SideTable, ...] = ()

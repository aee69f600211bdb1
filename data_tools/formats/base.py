"""What a format is: how its rows lie in a text file, and which columns become fields and label."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dist_fm.data.schema import Label

TYPES = ("token", "integer", "number", "entries")
SYNTAXES = ("delimited", "libsvm", "libffm")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a raw file. A filled cell must be of its ``type``; ``required``: no cell of it may be empty.

    ``header`` is the column's name in the header line that files of the format have, if they have one. Cells of the
    type ``entries`` have at most ``most`` of them.
    """

    name: str
    type: str = "token"
    required: bool = False
    header: str | None = None
    most: int = 0

    def __post_init__(self):
        if self.type not in TYPES:
            raise ValueError(f"column {self.name!r}: type {self.type!r} is not one of {', '.join(TYPES)}")


@dataclasses.dataclass(frozen=True)
class TextLayout:
    """How the rows of a delimited text file are laid out. A schema keeps it as its ``source``, for prediction.

    A file whose first line holds any column's ``name`` or ``header`` is read by those names, in any order, with
    whatever delimiter that line uses; any other file has ``columns`` in their order. ``delimiter`` is one character
    or ``::``. ``label`` and ``timestamp`` name columns that rows to predict may lack.

    Rows whose ``syntax`` is not ``delimited`` have a label and entries: see ``entries.py``.
    """

    format: str
    delimiter: str
    columns: tuple[Column, ...]
    label: str | None = None
    timestamp: str | None = None
    needs_header: bool = False  # its files name their columns: ``columns`` has no order
    syntax: str = "delimited"

    def __post_init__(self):
        if self.syntax not in SYNTAXES:
            raise ValueError(f"layout of {self.format!r}: syntax {self.syntax!r} is not one of {', '.join(SYNTAXES)}")

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "columns": [dataclasses.asdict(column) for column in self.columns]}

    @classmethod
    def from_json(cls, about: "Mapping[str, Any] | TextLayout") -> "TextLayout":
        if isinstance(about, TextLayout):
            return about
        return cls(**{**about, "columns": tuple(Column(**column) for column in about["columns"])})


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
    """A file of attributes: its first column is the key, which rows have as column ``key``; ``fields`` by ``take``."""

    name: str
    about: str
    key: str
    layout: TextLayout
    fields: tuple[FieldSpec, ...]


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

"""Files described by a TOML file: ``--format=csv|tsv|parquet --schema=FILE``.

    label = "clicked"            # column
    label_rule = "binary"        # or "signed", "value", "above:3", "implicit" (which needs no column)
    timestamp = "time"           # optional, as are weight, group, name, delimiter, min_count
    columns = ["clicked", ...]   # for text without a header line

    [[field]]
    name = "user"                # kind = "categorical" by default, column = its name; role = "user"

The kinds of fields are in ``described_fields.py``. A field's role is user, item, timestamp or group, once each; the
last two also name the column, as the keys of these names do where no field is made of it.
"""

import pathlib
import tomllib
from collections.abc import Sequence
from typing import Any

from data_tools.errors import DataError
from data_tools.formats.base import Column, FieldSpec, Format, TextLayout
from data_tools.formats.described_fields import Types, check_keys, check_shares, read_field
from data_tools.labels import parse_rule
from dist_fm.data.schema import ROLES

DELIMITERS = {"csv": ",", "tsv": "\t", "parquet": ","}  # of parquet, that of text in its place
_TOP: dict[str, Types] = {
    **{"label": str, "label_rule": str, "timestamp": str, "weight": str, "group": str, "name": str, "delimiter": str},
    **{"min_count": int, "columns": list, "field": list},
}


def read_format(kind: str, path: str) -> Format:
    """The format that the TOML file at ``path`` describes; raises ``DataError`` naming what is wrong in it."""
    try:
        about = tomllib.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"--schema={path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"--schema={path} is not TOML: {error}") from error
    check_keys(about, _TOP, path)
    rule = about.get("label_rule", "binary")
    for key in ("field",) if rule == "implicit" else ("label", "field"):
        if not about.get(key):
            raise DataError(f"{path}: needs {key!r}")
    label = parse_rule(rule, about.get("label", ""))
    specs = tuple(read_field(entry, f"{path}: field {number}") for number, entry in enumerate(about["field"], 1))
    _check_names_and_roles(specs, path)
    check_shares(specs, path)
    timestamp, group = (_role_column(about, role, specs, path) for role in ("timestamp", "group"))
    features = tuple(dict.fromkeys(column for spec in specs for column in spec.columns))
    used = [name for name in (label.column, timestamp, about.get("weight"), group, *features) if name]
    order = about.get("columns") or list(dict.fromkeys(used))
    lacking = [name for name in used if name not in order]
    if lacking:
        raise DataError(f"{path}: columns lacks {lacking[0]!r}, which a field, label, timestamp, weight or group reads")
    layout = TextLayout(
        format=about.get("name", kind),
        delimiter=_delimiter(about, kind, path),
        columns=(),
        label=label.column or None,
        timestamp=timestamp,
        needs_header="columns" not in about,
        weight=about.get("weight"),
        group=group,
        features=features,
    )
    columns = tuple(_column(name, layout, specs) for name in order)
    layout = TextLayout(**{**vars(layout), "columns": columns})
    return Format(layout.format, f"as {path} describes", layout, specs, label, about.get("min_count", 1))


def _delimiter(about: dict[str, Any], kind: str, where: str) -> str:
    delimiter = about.get("delimiter", DELIMITERS[kind])
    if "delimiter" in about and kind == "parquet":
        raise DataError(f"{where}: delimiter = {delimiter!r} goes with --format=csv or tsv, not with parquet")
    if not delimiter or {*delimiter} & {"\n", "\r", '"', "\0"}:
        raise DataError(f"{where}: delimiter = {delimiter!r} must be text without line ends or quotes")
    return delimiter


def _check_names_and_roles(specs: Sequence[FieldSpec], where: str) -> None:
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{where}: there are two fields called {name!r}")
    for role in ROLES:
        found = [spec.name for spec in specs if spec.role == role]
        if len(found) > 1 and role != "item_side":
            raise DataError(f"{where}: fields {found[0]!r} and {found[1]!r} both have the role {role!r}")


def _role_column(about: dict[str, Any], role: str, specs: Sequence[FieldSpec], where: str) -> str | None:
    """The column that the key ``role`` names, or that the field with this role is made of."""
    for spec in specs:
        if spec.role == role:
            if about.get(role, spec.columns[0]) != spec.columns[0]:
                raise DataError(f"{where}: {role} = {about[role]!r}, but field {spec.name!r} with the role {role!r} is "
                                f"made of {spec.columns[0]!r}")  # fmt: skip
            return spec.columns[0]
    return about.get(role)


def _column(name: str, layout: TextLayout, specs: Sequence[FieldSpec]) -> Column:
    own = [spec for spec in specs if name in spec.columns]
    splits = {spec.transform["split"] for spec in own if "split" in spec.transform}
    split = splits.pop() if len(splits) == 1 else None
    if name in (layout.label, layout.weight):
        return Column(name, "number", required=True, split=split)
    if name == layout.timestamp:
        return Column(name, "integer", required=True, split=split)
    numbers = any(spec.kind in ("numeric", "binned") and "split" not in spec.transform for spec in own)
    return Column(name, "number" if numbers else "token", split=split)

"""Delimited text described by a TOML file: ``--format=csv|tsv --schema=FILE``.

    label = "clicked"            # column; label_rule = "binary" | "signed" | "value" | "above:3"
    timestamp = "time"           # optional, as are weight, name, delimiter, min_count
    columns = ["clicked", ...]   # for files without a header line

    [[field]]
    name = "user"                # kind = "categorical" by default, column = its name; role = "user"

Kinds: categorical, hash (``buckets``, ``seed``), id (ids as they are), numeric (``log``, ``scale``, ``fill``,
``missing``), binned (``edges`` or ``bins``), time (``part``, ``time_format``), cross (``columns`` and
``buckets``).
A categorical, hash or numeric field with ``split`` holds lists: ``max`` entries, ``keep`` first or last, ``pool`` mean,
sum or none; of numbers, ``reduce`` mean, sum or last. ``shares`` names a field whose table rows it uses.
"""

import pathlib
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from data_tools.errors import DataError, unknown
from data_tools.formats.base import Column, FieldSpec, Format, TextLayout
from data_tools.labels import parse_rule
from data_tools.transforms import KEEPS, POOLS, REDUCES, TIME_PARTS
from dist_fm.data.schema import ROLES

DELIMITERS = {"csv": ",", "tsv": "\t"}
Types = type | tuple[type, ...]
_TOP: dict[str, Types] = {
    **{"label": str, "label_rule": str, "timestamp": str, "name": str, "delimiter": str},
    **{"min_count": int, "columns": list, "field": list},
}
_COMMON = {"name": str, "kind": str, "column": str, "role": str}
_LIST = {"split": str, "max": int, "keep": str, "pool": str}
_NUMBER = (int, float)
# The keys of each kind besides the common ones.
_KINDS: dict[str, dict[str, Types]] = {
    "categorical": {"min_count": int, "shares": str, **_LIST},
    "hash": {"buckets": int, "seed": int, "shares": str, **_LIST},
    "id": {},
    "numeric": {"log": bool, "scale": str, "fill": _NUMBER, "missing": bool, "split": str, "reduce": str},
    "binned": {"edges": list, "bins": int, "min_count": int},
    "time": {"part": str, "time_format": str},
    "cross": {"columns": list, "buckets": int, "seed": int},
}
_CHOICES = {
    **{"keep": KEEPS, "pool": POOLS, "reduce": REDUCES, "part": tuple(TIME_PARTS), "role": ROLES},
    "scale": ("none", "standard", "minmax"),
}
_NEEDED = {"hash": ("buckets",), "time": ("part",), "cross": ("columns", "buckets")}


def read_format(kind: str, path: str) -> Format:
    """The format that the TOML file at ``path`` describes; raises ``DataError`` naming what is wrong in it."""
    try:
        about = tomllib.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"--schema={path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"--schema={path} is not TOML: {error}") from error
    _check(about, _TOP, path)
    for key in ("label", "field"):
        if not about.get(key):
            raise DataError(f"{path}: needs {key!r}")
    specs = tuple(_field(entry, f"{path}: field {number}") for number, entry in enumerate(about["field"], 1))
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: there are two fields called {name!r}")
    _check_shares(specs, path)
    label = parse_rule(about.get("label_rule", "binary"), about["label"])
    timestamp = about.get("timestamp")
    used = dict.fromkeys([label.column, *([timestamp] if timestamp else []), *(c for s in specs for c in s.columns)])
    order = about.get("columns") or list(used)
    lacking = [name for name in used if name not in order]
    if lacking:
        raise DataError(f"{path}: columns lacks {lacking[0]!r}, which a field, label or timestamp reads")
    layout = TextLayout(
        about.get("name", kind),
        about.get("delimiter", DELIMITERS[kind]),
        tuple(_column(name, label.column, timestamp, specs) for name in order),
        label=label.column,
        timestamp=timestamp,
        needs_header="columns" not in about,
    )
    return Format(layout.format, f"as {path} describes", layout, specs, label, about.get("min_count", 1))


def _check(about: Mapping[str, Any], known: Mapping[str, Types], where: str) -> None:
    for key in about:
        value: Any = about[key]
        if key not in known:
            raise DataError(f"{where}: {unknown('key', key, known)}")
        allowed = known[key]
        types: tuple[Any, ...] = allowed if isinstance(allowed, tuple) else (allowed,)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise DataError(f"{where}: {key} = {value!r} must be {' or '.join(one.__name__ for one in types)}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise DataError(f"{where}: {unknown(key, value, _CHOICES[key])}")
        if key in ("max", "buckets", "min_count") and value < 1:
            raise DataError(f"{where}: {key} = {value} must be at least 1")


def _field(about: Mapping[str, Any], where: str) -> FieldSpec:
    kind = about.get("kind", "categorical")
    if kind not in _KINDS:
        raise DataError(f"{where}: {unknown('kind', kind, _KINDS)}")
    _check(about, {**_COMMON, **_KINDS[kind]}, where)
    for key in ("name", *_NEEDED.get(kind, ())):
        if key not in about:
            raise DataError(f"{where}: a field of kind {kind!r} needs {key!r}")
    where = f"{where}, {about['name']!r}"
    if "split" in about and kind != "numeric" and "max" not in about:
        raise DataError(f"{where}: a list needs max, the most entries that are kept")
    if kind == "binned" and ("edges" in about) == ("bins" in about):
        raise DataError(f"{where}: needs either edges or bins")
    return FieldSpec(
        name=about["name"],
        kind={"numeric": "numeric", "binned": "binned"}.get(kind, "categorical"),
        role=about.get("role"),
        transform=_TRANSFORMS[kind](about),
        column=about.get("column"),
        shares=about.get("shares"),
        min_count=about.get("min_count"),
        scale=about.get("scale", "none"),
        bins=about.get("bins", 0),
    )


def _picked(*keys: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda about: {key: about[key] for key in keys if key in about}


_TRANSFORMS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "categorical": _picked(*_LIST),
    "hash": _picked("buckets", "seed", *_LIST),
    "id": lambda about: {"add": 1},
    "numeric": _picked("log", "fill", "missing", "split", "reduce"),
    "binned": _picked("edges"),
    "time": lambda about: {"as": about["part"], **({"format": about["time_format"]} if "time_format" in about else {})},
    "cross": lambda about: {"cross": about["columns"], "buckets": about["buckets"], "seed": about.get("seed", 0)},
}


def _check_shares(specs: tuple[FieldSpec, ...], where: str) -> None:
    by_name = {spec.name: spec for spec in specs}
    for spec in specs:
        if spec.shares is None:
            continue
        if spec.shares not in by_name:
            raise DataError(f"{where}: {unknown('field to share rows with', spec.shares, by_name)}")
        other = by_name[spec.shares]
        same = [spec.transform.get(key) == other.transform.get(key) for key in ("buckets", "seed")]
        if not all(same) or other.shares not in (None, other.name):
            raise DataError(
                f"{where}: {spec.name!r} cannot share rows with {spec.shares!r}: they need one kind and buckets"
            )


def _column(name: str, label: str, timestamp: str | None, specs: tuple[FieldSpec, ...]) -> Column:
    if name == label:
        return Column(name, "number", required=True)
    if name == timestamp:
        return Column(name, "integer", required=True)
    numbers = any(
        spec.columns == (name,) and spec.kind in ("numeric", "binned") and "split" not in spec.transform
        for spec in specs
    )
    return Column(name, "number" if numbers else "token")

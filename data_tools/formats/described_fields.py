"""The fields of a described file: its ``[[field]]`` tables.

Kinds: categorical, hash (``buckets``, ``seed``), id (ids as they are), numeric (``log``, ``scale``, ``fill``,
``missing``), binned (``edges`` or ``bins``), time (``part``, ``time_format``), cross (``columns`` and ``buckets``),
sequence (a list in order: its last ``max`` entries, averaged where a model takes no sequences; may have ``buckets``).
A categorical, hash or numeric field with ``split`` holds lists: ``max`` entries, ``keep`` first or last, ``pool`` mean
or sum; of numbers, ``reduce`` mean, sum or last. ``shares`` names a field whose table rows it uses.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_tools.errors import DataError, unknown
from data_tools.formats.base import FieldSpec
from data_tools.transforms import KEEPS, POOLS, REDUCES, TIME_PARTS
from dist_fm.data.schema import ROLES

Types = type | tuple[type, ...]
_COMMON: dict[str, Types] = {"name": str, "kind": str, "column": str, "role": str}
_LIST: dict[str, Types] = {"split": str, "max": int, "keep": str, "pool": str}
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
    "sequence": {"min_count": int, "shares": str, "buckets": int, "seed": int, **_LIST},
}
_CHOICES = {
    **{"keep": KEEPS, "pool": POOLS, "reduce": REDUCES, "part": tuple(TIME_PARTS), "role": ROLES},
    "scale": ("none", "standard", "minmax"),
}
_NEEDED = {"hash": ("buckets",), "time": ("part",), "cross": ("columns", "buckets"), "sequence": ("split", "max")}
_OF_ROWS = ("buckets", "seed", "add", "as", "cross")  # keys that decide what a table row stands for
_ENTRIES: dict[str, Types] = {"columns": str, "edges": _NUMBER, "field": dict}


def check_keys(about: Mapping[str, Any], known: Mapping[str, Types], where: str) -> None:
    """Raises ``DataError`` unless every key is ``known``, with a value of its type and among its choices."""
    for key, value in about.items():
        if key not in known:
            raise DataError(f"{where}: {unknown('key', key, known)}")
        _check_type(key, value, known[key], where)
        for entry in value if key in _ENTRIES else ():
            _check_type(f"an entry of {key}", entry, _ENTRIES[key], where)
        if key in _CHOICES and value not in _CHOICES[key]:
            raise DataError(f"{where}: {unknown(key, value, _CHOICES[key])}")
        if key in ("max", "buckets", "min_count") and value < 1:
            raise DataError(f"{where}: {key} = {value} must be at least 1")
        if key in ("split", "name") and not value:
            raise DataError(f"{where}: {key} must not be empty")
        if key == "edges" and sorted(value) != value:
            raise DataError(f"{where}: edges = {value} must ascend")


def _check_type(what: str, value: Any, allowed: Types, where: str) -> None:
    types: tuple[Any, ...] = allowed if isinstance(allowed, tuple) else (allowed,)
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise DataError(f"{where}: {what} = {value!r} must be {' or '.join(one.__name__ for one in types)}")


def read_field(about: Mapping[str, Any], where: str) -> FieldSpec:
    """The field that a ``[[field]]`` table describes; raises ``DataError``."""
    kind = about.get("kind", "categorical")
    if kind not in _KINDS:
        raise DataError(f"{where}: {unknown('kind', str(kind), _KINDS)}")
    check_keys(about, {**_COMMON, **_KINDS[kind]}, where)
    for key in ("name", *_NEEDED.get(kind, ())):
        if key not in about:
            raise DataError(f"{where}: a field of kind {kind!r} needs {key!r}")
    where = f"{where}, {about['name']!r}"
    if "split" in about and kind != "numeric" and "max" not in about:
        raise DataError(f"{where}: a list needs max, the most entries that are kept")
    if kind == "binned" and ("edges" in about) == ("bins" in about):
        raise DataError(f"{where}: needs either edges or bins")
    if kind == "cross" and "role" in about:
        raise DataError(f"{where}: a cross is of several columns, and has no role")
    return FieldSpec(
        name=about["name"],
        kind=kind if kind in ("numeric", "binned", "sequence") else "categorical",
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
    "sequence": lambda about: {"keep": "last", "pool": "mean", **_picked("buckets", "seed", *_LIST)(about)},
}


def check_shares(specs: Sequence[FieldSpec], where: str) -> None:
    """Raises ``DataError`` unless every field can share the rows of the one it names."""
    by_name = {spec.name: spec for spec in specs}
    for spec in specs:
        if spec.shares is None:
            continue
        if spec.shares not in by_name:
            raise DataError(f"{where}: {unknown('field to share rows with', spec.shares, by_name)}")
        other = by_name[spec.shares]
        same = [spec.transform.get(key) == other.transform.get(key) for key in _OF_ROWS]
        if not all(same) or other.kind not in ("categorical", "sequence") or other.shares not in (None, other.name):
            raise DataError(
                f"{where}: {spec.name!r} cannot share rows with {spec.shares!r}: they need one kind and buckets"
            )

"""What a field makes of a raw cell before ids: tokens, or numbers. Every step is a key of the field's ``transform``.

Of tokens: ``split`` (a list's separator, with ``max`` slots, ``keep`` first or last, ``pool`` mean, sum or none: each
slot is then a model's input by itself), then one of ``as`` (a named function of a token), ``edges`` (the bin of a
number) or nothing. Of numbers: ``split`` with ``reduce`` (mean, sum or last), ``log`` (sign(x) log1p(|x|)), ``shift``
and ``divide`` (fitted), ``fill`` for an empty cell, before all of these, and ``missing`` (whether such a cell says so
too). Of entries: ``entries``, how many slots they have, and ``pool``, sum or none. Axes: U cells.
"""

import datetime
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_tools.errors import DataError, unknown
from data_tools.numeric import MAX_NUMBER, log_squared_bin, parse_integer, parse_number

EMPTY_BIN = "NULL"  # an empty cell of a binned field: a value of its own
POOLS = ("mean", "sum", "none")
_YEAR = re.compile(r"\((\d{4})\)\s*$")
KEEPS = ("first", "last")
REDUCES = ("mean", "sum", "last")
TIME_PARTS: dict[str, Callable[[datetime.datetime], int]] = {
    "hour": lambda time: time.hour,
    "weekday": lambda time: time.weekday(),
    "weekend": lambda time: int(time.weekday() >= 5),
}


def cell_tokens(transform: Mapping[str, Any], cells: Sequence[str]) -> list[list[str | None]]:
    """The tokens of each cell, in order: one, or as many as a list has entries; None for one that cannot be taken.

    Empty entries of a list are left out, so an empty cell has no token.
    """
    take = _token_function(transform)
    separator = transform.get("split")
    if separator is None:
        return [[take(cell)] for cell in cells]
    most, last = transform["max"], transform.get("keep") == "last"
    lists = []
    for cell in cells:
        entries = [entry for part in cell.split(separator) if (entry := part.strip())]
        lists.append([take(entry) for entry in (entries[-most:] if last else entries[:most])])
    return lists


def is_plain(transform: Mapping[str, Any]) -> bool:
    """Whether every cell is its own single token."""
    return not {"split", "as", "edges"} & transform.keys()


def _token_function(transform: Mapping[str, Any]) -> Callable[[str], str | None]:
    name = transform.get("as")
    if name == "log_squared_bin":
        return log_squared_bin
    if name == "title_year":
        return _title_year
    if name in TIME_PARTS:
        return functools.partial(_time_part, name, transform.get("format"))
    if name is not None:
        raise unknown("transform", name, ["log_squared_bin", "title_year", *TIME_PARTS])
    if "edges" in transform:
        return functools.partial(_bin, np.asarray(transform["edges"], np.float64))
    return lambda cell: cell


def _bin(edges: np.ndarray, cell: str) -> str | None:
    """The number of edges that the cell's number reaches."""
    if not cell:
        return EMPTY_BIN
    number = parse_number(cell)
    return None if number is None else str(int(np.searchsorted(edges, number, "right")))


def _title_year(title: str) -> str:
    """The year in brackets that a film's title ends with; empty where there is none."""
    found = _YEAR.search(title)
    return found[1] if found else ""


def _time_part(part: str, form: str | None, cell: str) -> str | None:
    """Of seconds since 1970 (UTC), or of a time written as ``form``."""
    if not cell:
        return EMPTY_BIN
    try:
        if form is None:
            seconds = parse_integer(cell)
            time = None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        else:
            time = datetime.datetime.strptime(cell, form)
    except (ValueError, OverflowError, OSError):
        return None
    return None if time is None else str(TIME_PARTS[part](time))


def cell_numbers(transform: Mapping[str, Any], cells: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The number of each cell, float64 [U], as it enters ``scaled``, and which cells were empty, bool [U].

    What is no number counts as empty.
    """
    separator = transform.get("split")
    found = [_reduced(transform, cell, separator) if separator else parse_number(cell) for cell in cells]
    empty = np.fromiter((number is None for number in found), bool, len(cells))
    fill = transform.get("fill", 0.0)
    numbers = np.fromiter((fill if number is None else number for number in found), np.float64, len(cells))
    if transform.get("log"):
        numbers = np.copysign(np.log1p(np.abs(numbers)), numbers)
    return numbers, empty


def _reduced(transform: Mapping[str, Any], cell: str, separator: str) -> float | None:
    numbers = [number for part in cell.split(separator) if (number := parse_number(part.strip())) is not None]
    if not numbers:
        return None
    how = transform.get("reduce", "mean")
    if how == "last":
        return numbers[-1]
    return math.fsum(numbers) / (len(numbers) if how == "mean" else 1)


def scaled(transform: Mapping[str, Any], numbers: np.ndarray) -> np.ndarray:
    """``numbers`` less ``shift``, over ``divide``: float32 [U], never infinite."""
    scaled = (numbers - transform.get("shift", 0.0)) / transform.get("divide", 1.0)
    return np.clip(scaled, -MAX_NUMBER, MAX_NUMBER).astype(np.float32)


def fit_scale(how: str, numbers: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """``shift`` and ``divide`` from the ``numbers`` [U] that training rows hold ``counts`` [U] times."""
    if how == "none" or not len(numbers):
        return {}
    if how == "standard":
        mean = float(np.average(numbers, weights=counts))
        spread = math.sqrt(float(np.average((numbers - mean) ** 2, weights=counts)))
        return {"shift": mean, "divide": spread or 1.0}
    if how == "minmax":
        low, high = float(numbers.min()), float(numbers.max())
        return {"shift": low, "divide": (high - low) or 1.0}
    raise unknown("scale", how, ("none", "standard", "minmax"))


def fit_edges(bins: int, numbers: np.ndarray, counts: np.ndarray) -> list[float]:
    """Edges of at most ``bins`` bins that hold about as many training rows each: quantiles of the lower kind."""
    if bins < 2:
        raise DataError(f"bins = {bins}: must be at least 2")
    order = np.argsort(numbers, kind="stable")
    numbers, below = numbers[order], np.cumsum(counts[order])
    if not len(numbers):
        return []
    at = np.searchsorted(below, below[-1] * np.arange(1, bins) / bins, "right")
    edges = np.unique(numbers[np.minimum(at, len(numbers) - 1)])
    return edges[edges > numbers[0]].tolist()  # an edge that every number reaches cuts nothing

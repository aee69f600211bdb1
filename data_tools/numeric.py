"""Numbers written as text, and torchfm's bins of them."""

import functools
import math
import re
from collections.abc import Sequence

import numpy as np

MAX_NUMBER = 3.4028234663852886e38  # float32's largest, which records hold
_REMEMBERED = 1 << 16  # tokens; the same small counts come up in every chunk
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_CHARACTERS = set("0123456789+-.eE")


@functools.lru_cache(_REMEMBERED)
def parse_integer(token: str) -> int | None:
    """The integer that ``token`` writes (``12``, ``-3``, ``260.0``), or None. Below 10**18 in size."""
    if token.isdigit() and token.isascii() and len(token) <= 18:
        return int(token)
    return int(token.partition(".")[0]) if _INTEGER.fullmatch(token) else None


def parse_number(token: str) -> float | None:
    """The number that ``token`` writes, or None if it writes none, or one that float32 cannot hold."""
    if not _NUMBER.fullmatch(token):
        return None
    number = float(token)
    return number if abs(number) <= MAX_NUMBER else None


def parse_numbers(tokens: Sequence[str]) -> np.ndarray:
    """``parse_number`` of each token, NaN for None: float64 [N]. Where all are numbers, faster than one by one."""
    if _CHARACTERS.issuperset("".join(tokens)):  # of these alone, ``float`` takes what ``parse_number`` takes
        try:
            numbers = np.array([float(token) for token in tokens], np.float64)
            return np.where(np.isfinite(numbers), numbers, np.nan)
        except ValueError:
            pass
    return np.array([math.nan if (number := parse_number(token)) is None else number for token in tokens], np.float64)


@functools.lru_cache(_REMEMBERED)
def log_squared_bin(token: str) -> str | None:
    """torchfm's bin of a Criteo count: floor(ln(v)^2) above 2, v - 2 up to 2 (no collision: v >= 3 gives >= 1).

    An empty cell is the token ``NULL``, a value of its own. None if ``token`` is not an integer.
    """
    if not token:
        return "NULL"
    value = parse_integer(token)
    if value is None:
        return None
    return str(int(math.log(value) ** 2)) if value > 2 else str(value - 2)

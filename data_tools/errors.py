"""Errors that a user can act on, printed as one line without a traceback."""

import difflib
from collections.abc import Iterable


class DataError(Exception):
    """Bad input, a bad option or a bad data set: the message says what was given and what is allowed."""


def unknown(what: str, given: str, allowed: Iterable[str]) -> DataError:
    """The error for a name that is not one of ``allowed``, with the nearest one that is."""
    names = list(allowed)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return DataError(f"unknown {what} {given!r}{hint} (there are: {', '.join(names)})")

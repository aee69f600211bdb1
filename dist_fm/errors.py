"""Errors that are the user's to fix."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: the message says what was given, what is allowed and the nearest match."""


class Preempted(Exception):
    """The run was asked to stop, and may be started again to go on."""


def nearest(given: object, allowed: Iterable[str], *, prefix: str = "") -> str:
    """`did you mean X?`, or the allowed names when nothing is near."""
    names = list(allowed)
    close = difflib.get_close_matches(str(given), names, n=1)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return "allowed: " + ", ".join(prefix + name for name in names)

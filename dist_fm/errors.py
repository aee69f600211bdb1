"""Errors that are the user's to fix: one line, no traceback, exit code 2."""

import difflib
import sys
from collections.abc import Callable, Iterable

from data_tools.errors import DataError
from dist_fm.data.records import RecordError
from dist_fm.data.schema import SchemaError
from dist_fm.data.store import StoreError


class UserError(ValueError):
    """Bad input: the message says what was given, what is allowed and the nearest match."""


def nearest(given: object, allowed: Iterable[str], *, prefix: str = "") -> str:
    """`did you mean X?`, or the allowed names when nothing is near."""
    names = list(allowed)
    close = difflib.get_close_matches(str(given), names, n=1)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return "allowed: " + ", ".join(prefix + name for name in names)


def run_command(main: Callable[[list[str]], int | None]) -> int:
    """Runs a command's ``main`` on the process's arguments; an error of the user's becomes one line and exit code 2."""
    try:
        return main(sys.argv[1:]) or 0
    except (UserError, DataError, SchemaError, RecordError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130

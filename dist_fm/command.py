"""What all commands share: an error of the user's is one line on stderr and exit code 2, without a traceback."""

import sys
from collections.abc import Callable

from data_tools.errors import DataError
from dist_fm.data.records import RecordError
from dist_fm.data.schema import SchemaError
from dist_fm.data.store import StoreError
from dist_fm.errors import UserError


def run_command(main: Callable[[list[str]], None]) -> int:
    """Runs ``main`` on the process's arguments and returns its exit code."""
    try:
        main(sys.argv[1:])
        return 0
    except (UserError, DataError, SchemaError, RecordError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130

"""What all commands share: an error of the user's is one line on stderr and exit code 2, without a traceback."""

import sys
from collections.abc import Callable, Sequence

from data_tools.errors import DataError
from dist_fm.data.records import RecordError
from dist_fm.data.schema import SchemaError
from dist_fm.data.store import StoreError
from dist_fm.errors import UserError


def run_command(main: Callable[[list[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Runs ``main`` on ``arguments`` (None: the process's own) and returns its exit code."""
    try:
        main(list(sys.argv[1:] if arguments is None else arguments))
        return 0
    except (UserError, DataError, SchemaError, RecordError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130

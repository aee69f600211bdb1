"""What all commands share: an error of the user's is one line on stderr and exit code 2, without a traceback."""

import contextlib
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

import jax

from data_tools.errors import DataError
from dist_fm.data.records import RecordError
from dist_fm.data.schema import SchemaError
from dist_fm.data.store import StoreError
from dist_fm.errors import Preempted, UserError
from dist_fm.parallel.hosts import leave_at_once

USER_ERROR, PREEMPTED, INTERRUPTED = 2, 75, 130  # exit codes; 75 is sysexits.h's "try again"


def run_command(main: Callable[[list[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Runs ``main`` on ``arguments`` (None: the process's own) and returns its exit code.

    One of several hosts that fails does not return: it ends at once, as an ordinary exit would wait for the others.
    """
    try:
        main(list(sys.argv[1:] if arguments is None else arguments))
        return 0
    except (UserError, DataError, SchemaError, RecordError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = USER_ERROR
    except Preempted as error:
        # Asked once, and saved: a launcher that sees another host end first, as srun does, asks those that still leave.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(error, file=sys.stderr)
        code = PREEMPTED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        code = 1
    if jax.distributed.is_initialized():
        if code == PREEMPTED:  # which all hosts are at once: the first, with the others' coordinator, leaves last
            with contextlib.suppress(RuntimeError):
                jax.distributed.shutdown()
        leave_at_once(code)
    return code

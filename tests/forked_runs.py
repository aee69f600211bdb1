"""Starts training processes for tests that kill them: forked from one that has imported everything, to save seconds.

Reads a JSON list of dist_fm.train's arguments a line, and answers with `pid N`, then, when it has ended, `code N`
(negative: the signal). What it prints goes to the file named first on the command line.
"""

import json
import os
import sys

import grain  # noqa: F401  slow to import, and wanted by every run

from dist_fm import train
from dist_fm.command import run_command


def run(arguments, log):
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    return run_command(train.main, arguments)


def main(log):
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = run(json.loads(line), log)
            sys.stdout.flush()
            os._exit(code)
        print(f"pid {pid}", flush=True)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(f"code {status}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

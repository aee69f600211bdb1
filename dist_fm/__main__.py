"""`dist-fm X ...` is `python -m dist_fm.X ...`."""

import importlib
import sys

from dist_fm.command import run_command
from dist_fm.errors import UserError, nearest

COMMANDS = (
    *("train", "evaluate", "predict", "explain", "report", "export", "summary", "sweep"),
    *("import_torchfm", "demo"),
)


def main() -> int:
    def dispatch(arguments: list[str]) -> None:
        if not arguments or arguments[0] in ("--help", "-h"):
            print("dist-fm COMMAND [--help] [flags]; commands: " + ", ".join(COMMANDS))
            return
        name = arguments[0].replace("-", "_")
        if name not in COMMANDS:
            raise UserError(f"unknown command {arguments[0]!r}; {nearest(name, COMMANDS)}")
        importlib.import_module(f"dist_fm.{name}").main(arguments[1:])

    return run_command(dispatch)


if __name__ == "__main__":
    sys.exit(main())

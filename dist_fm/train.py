"""Trains a model.

python -m dist_fm.train --data=DIR --model=deepfm --devices=4 [--config=FILE.toml] [--section.key=value]
    [--hook=MODULE:FUNCTION]

--hook names a function that is called with every event (a dict): each line of metrics.jsonl, and the result. It is
taken from the command line alone, as no file that is read may run code.
"""

import json
import sys

from dist_fm.command import run_command
from dist_fm.errors import UserError
from dist_fm.flags import help_text, load_config, parse_flags
from dist_fm.parallel.hosts import say
from dist_fm.run_dir import RunDir
from dist_fm.training.ending import describe_result
from dist_fm.training.opening import hosts_of
from dist_fm.training.session import train
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine
from dist_fm.training.user_hook import load_hook


def main(arguments: list[str]) -> None:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__ + "\n\n" + help_text())
        return
    flags, own = parse_flags(arguments, own=("config", "hook"))
    config = load_config(own.get("config"), flags)
    if not config.data.path:
        raise UserError("no data set was given: --data=DIR, made by `data_tools build-lmdb`")
    hooks = [load_hook(own["hook"])] if "hook" in own and hosts_of(config.run).host == 0 else []
    result = train(config, hooks, _report if config.run.report else None)
    say(json.dumps(result, indent=1))
    if not config.run.quiet:
        say(describe_result(result, RunDir.of(config)), sys.stderr)


def _report(run: RunDir, engine: Engine, best: TrainState) -> None:
    from dist_fm.reporting.writing import after_training  # half a second to import, wanted at the end alone

    after_training(run, engine, best)


if __name__ == "__main__":
    sys.exit(run_command(main))

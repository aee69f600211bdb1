"""Trains a model.

python -m dist_fm.train --data=DIR --model=deepfm --devices=4 [--config=FILE.toml] [--section.key=value]
"""

import json
import sys

from dist_fm.command import run_command
from dist_fm.errors import UserError
from dist_fm.flags import help_text, load_config, parse_flags
from dist_fm.parallel.hosts import say
from dist_fm.reporting.writing import after_training
from dist_fm.training.session import train


def main(arguments: list[str]) -> None:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__ + "\n\n" + help_text())
        return
    flags, own = parse_flags(arguments, own=("config",))
    config = load_config(own.get("config"), flags)
    if not config.data.path:
        raise UserError("no data set was given: --data=DIR, made by `data_tools build-lmdb`")
    say(json.dumps(train(config, after_training if config.run.report else None), indent=1))


if __name__ == "__main__":
    sys.exit(run_command(main))

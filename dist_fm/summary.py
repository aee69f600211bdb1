"""Shows what a model is made of: table columns, optimizer slots and layers; their shapes, parameters and bytes.

python -m dist_fm.summary --run=DIR
python -m dist_fm.summary --data=DIR --model=deepfm [--config=FILE.toml] [any flag of dist_fm.train]

Nothing is trained, written or allocated: a table larger than memory is shown, too.
"""

import pathlib
import sys

from dist_fm.command import run_command
from dist_fm.data.schema import read_schema
from dist_fm.errors import UserError
from dist_fm.flags import load_config, parse_flags
from dist_fm.parallel.mesh import start_devices
from dist_fm.run_dir import RunDir
from dist_fm.training.opening import settle_update
from dist_fm.training.sizes import describe


def main(arguments: list[str]) -> None:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return
    flags, own = parse_flags(arguments, own=("config", "run"))
    if "run" in own:
        if others := [*flags, *(own.keys() - {"run"})]:
            raise UserError(f"--run={own['run']} has its settings and data: --{others[0]} cannot go with it")
        run = RunDir.open(own["run"])
        config, schema = run.config(), run.schema()
    else:
        config = load_config(own.get("config"), flags)
        if not config.data.path:
            raise UserError("nothing was given to show: --run=DIR, or --data=DIR with --model=NAME or --config=FILE")
        run, schema = RunDir.of(config), read_schema(pathlib.Path(config.data.path))
    start_devices(1, "cpu")  # shapes need no GPU
    print(describe(settle_update(config, run, schema), schema))


if __name__ == "__main__":
    sys.exit(run_command(main))

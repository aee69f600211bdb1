"""Trains every setting of a grid from several seeds, and writes tables of means and deviations.

python -m dist_fm.sweep --config=FILE[,FILE2 ...] --data=DIR --output_dir=DIR [--seeds=5] [--jobs=1]
    [--grid="optimizer.lr=1e-3,5e-4; model.mlp_dims=[400,400],[64]"] [--hook=MODULE:FUNCTION]
    [--quiet] [any flag of dist_fm.train]

A setting is one value of every key of the grid, on top of the flags and a configuration file. Each is trained from
seeds 0 to N - 1, into DIR/SETTING/seed-I; a finished run is not trained again, an interrupted one goes on.
DIR/sweep.csv has a line a run, DIR/sweep.md a line a setting; the best is chosen on the validation split, never on the
test split.
--jobs=N trains N at a time, each on its part of the cores.
"""

import pathlib
import sys

from dist_fm.command import run_command
from dist_fm.errors import UserError
from dist_fm.flags import parse_flags, whole_number
from dist_fm.sweeps.grid import Run, settings_of
from dist_fm.sweeps.processes import train_all
from dist_fm.sweeps.table import write_tables


def main(arguments: list[str]) -> None:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return
    flags, own = parse_flags(arguments, own=("config", "grid", "seeds", "jobs", "output_dir", "hook"))
    counts = {name: whole_number(name, own.get(name, default)) for name, default in (("seeds", "5"), ("jobs", "1"))}
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"--{name}={count}: must be at least 1")
    if not own.get("output_dir"):
        raise UserError("--output_dir=DIR must be given: where the runs and the tables go")
    folder = pathlib.Path(own["output_dir"])
    settings = settings_of(own.get("config", ""), own.get("grid", ""), flags)
    runs = [Run(setting, seed, folder, own.get("hook", "")) for setting in settings for seed in range(counts["seeds"])]
    for run in runs:
        run.check()  # all of them, before any is trained
    try:
        failed = train_all(runs, counts["jobs"], quiet=settings[0].config.run.quiet)
    finally:
        text = write_tables(runs, folder)
    print(text)
    if failed:
        raise UserError(f"{len(failed)} of {len(runs)} runs failed, see {', '.join(str(run.log) for run in failed)}")


if __name__ == "__main__":
    sys.exit(run_command(main))

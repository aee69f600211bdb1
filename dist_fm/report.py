"""Writes report.html: what one run did and found, or several beside each other, in one file that opens offline.

python -m dist_fm.report --run=DIR [--run=DIR2 ...] [--output=FILE.html] [--data=DIR] [--rows=100000] [--devices=N]
    [--platform=auto|cpu|gpu] [--quiet]

Summary, settings, curves, ROC and precision-recall, calibration, scores, slices by field value, importance and pairs of
fields, time. Training writes it at its end, too (--run.report=false: not). --output is DIR/report.html by default, and
must be given for several runs. Where a run's data set is gone, the panels that need rows say so; --data names another.
--rows bounds how many rows of the test split are scored. With several hosts, as in training.
"""

import pathlib
import sys
import time

from data_tools.progress import quietly
from dist_fm.command import run_command
from dist_fm.errors import UserError
from dist_fm.flags import WHERE_FLAGS, parse_repeated, where_to_run, whole_number
from dist_fm.parallel.hosts import say
from dist_fm.reporting.findings import ROWS, best_of, find
from dist_fm.reporting.writing import check_packages, write_report
from dist_fm.run_dir import RunDir
from dist_fm.training.opening import open_mesh


def main(arguments: list[str]) -> None:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return
    known = {"run": None, "output": "", "data": "", "rows": str(ROWS), **WHERE_FLAGS}
    flags, paths = parse_repeated(arguments, known, "run")
    began, runs, rows = time.perf_counter(), [RunDir.open(path) for path in paths], whole_number("rows", flags["rows"])
    if rows < 1:
        raise UserError("--rows=0: must be at least 1")
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise UserError(f"--run={', '.join(paths)}: a run is given twice")
    if len(runs) > 1 and not flags["output"]:
        raise UserError("--output=FILE.html must be given for several runs")
    output = pathlib.Path(flags["output"]) if flags["output"] else runs[0].report_file
    if not output.parent.is_dir() or output.is_dir():
        raise UserError(f"--output={output}: must be a file in a directory that is there")
    check_packages()
    where = where_to_run(flags)
    mesh = open_mesh(where)
    with quietly(where.quiet):
        write_report(output, [find(run, best_of(run, mesh), data=flags["data"], rows=rows) for run in runs])
    say(f"{output}: written in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    sys.exit(run_command(main))

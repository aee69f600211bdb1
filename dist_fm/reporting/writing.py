"""report.html on disk: by the command, and at the end of training."""

import importlib.util
import pathlib
import sys
import time
from collections.abc import Sequence

from dist_fm.errors import UserError
from dist_fm.files import write_whole
from dist_fm.parallel.hosts import first_decides, is_first, say
from dist_fm.reporting.findings import Findings, find
from dist_fm.reporting.page import page
from dist_fm.run_dir import RunDir
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine

NAME = "report.html"
PACKAGES = ("jinja2", "matplotlib")
_INSTALL = "pip install 'dist_fm[report]'"


def check_packages() -> None:
    """Raises ``UserError`` where a package that the report needs is not installed."""
    missing = _missing()
    if missing:
        raise UserError(f"a report needs {' and '.join(missing)}: {_INSTALL}")


def write_report(path: pathlib.Path, runs: Sequence[Findings]) -> None:
    """Writes the page of ``runs`` to ``path``, whole or not at all, on the first host."""
    if is_first():
        write_whole(path, page(runs))


def after_training(run: RunDir, engine: Engine, best: TrainState) -> None:
    """Writes the run's report, and says so, or why not: nothing that goes wrong here is an error of the run."""
    began, path = time.perf_counter(), run.path / NAME
    try:
        if first_decides(_missing):
            say(f"no {NAME}: {_INSTALL}", sys.stderr)
            return
        write_report(path, [find(run, lambda: (engine, best))])
        say(f"report: {path}, written in {time.perf_counter() - began:.1f} s", sys.stderr)
    except Exception as error:
        say(
            f"no {NAME}: {type(error).__name__}: {error}; `python -m dist_fm.report --run={run.path}` tries again",
            sys.stderr,
        )


def _missing() -> list[str]:
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]

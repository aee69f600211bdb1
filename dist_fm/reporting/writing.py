"""report.html on disk: by the command, and at the end of training."""

import importlib.util
import pathlib
import sys
from collections.abc import Sequence

from dist_fm.errors import UserError
from dist_fm.files import write_whole
from dist_fm.parallel.hosts import first_decides, is_first, say
from dist_fm.reporting.findings import Findings, find
from dist_fm.reporting.page import page
from dist_fm.run_dir import RunDir
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine

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
    """Writes the run's report, or says why not: nothing that goes wrong here is an error of the run."""
    try:
        if first_decides(_missing):
            say(f"no {run.report_file.name}: {_INSTALL}", sys.stderr)
            return
        write_report(run.report_file, [find(run, lambda: (engine, best))])
    except Exception as error:
        say(
            f"no {run.report_file.name}: {type(error).__name__}: {error}; "
            f"`python -m dist_fm.report --run={run.path}` tries again",
            sys.stderr,
        )


def _missing() -> list[str]:
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]

"""What the benchmarks share: their flags, one process a measurement, facts about the machine, JSON lines and tables.

A script here measures nothing itself: it runs ``ours.py`` or ``peers.py`` once a measurement, each in a process of its
own, so that no thread pool, cache or memory peak of one is in the figures of another.
"""

import argparse
import datetime
import importlib.metadata
import json
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import shapes
from load import OtherLoad, are_whole, available_cores, cores_together, wait_for_whole_cores, warn, warn_of_shared

from dist_fm.errors import nearest
from dist_fm.models import ALIASES, MODELS
from dist_fm.parallel.mesh import nvidia_gpus
from dist_fm.training.feed import READ_THREADS

HERE = pathlib.Path(__file__).parent
Record = dict[str, Any]


def one_of(what: str, allowed: Iterable[str], aliases: dict[str, str] | None = None) -> Callable[[str], str]:
    """An argparse type: one of ``allowed``; anything else is an error that names the nearest."""

    def parse(text: str) -> str:
        name = (aliases or {}).get(text, text)
        if name not in allowed:
            raise argparse.ArgumentTypeError(f"unknown {what} {text!r}: {nearest(text, allowed)}")
        return name

    return parse


def several(parse: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """An argparse type: a comma-separated list of what ``parse`` reads."""
    return lambda text: [parse(part.strip()) for part in text.split(",")]


def positive(text: str) -> int:
    """An argparse type: a whole number, 1 or more."""
    if not text.replace("_", "").isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


model_name = one_of("model", MODELS, ALIASES)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the flags of every benchmark: the work, and how our engine does it."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--shape", type=one_of("shape", shapes.SHAPES), default="criteo", help=" or ".join(shapes.SHAPES))
    add("--batch", type=positive, default=2048, help="samples a step")
    add("--steps", type=positive, default=200, help="timed steps, each with a batch of its own")
    add("--update", choices=("sparse", "dense"), default="sparse", help="touched rows, or optax over the whole table")
    add("--devices", type=positive, default=1, help="devices; virtual ones on a CPU")
    add("--platform", choices=("auto", "cpu", "gpu"), default="auto")
    add("--dtype", help="tables.dtype, float32 or bfloat16")
    add("--network", choices=("full", "plain"), help="full: BatchNorm, dropout and L2 as torchfm; plain: none of them")
    add("--read_threads", type=positive, default=READ_THREADS, help="threads that make unique ids ahead of the step")
    add("--set", action="append", metavar="SECTION.KEY=VALUE", help="any other key of the configuration; repeatable")
    return parser


OUR_FLAGS = ("shape", "batch", "steps", "update", "devices", "platform", "dtype", "network", "read_threads", "set")


def as_flags(values: Record) -> list[str]:
    """``--name=value`` for every value that is not None; True becomes a bare flag, a list one flag an item."""
    flags = []
    for name, value in values.items():
        if value is True:
            flags.append(f"--{name}")
        elif value is not None and value is not False:
            flags += [f"--{name}={item}" for item in (value if isinstance(value, list) else [value])]
    return flags


def ours(options: argparse.Namespace, script: str = "ours.py", **values: Any) -> list[str]:
    """The command of one measurement of ours; ``values`` add to, or replace, what ``options`` say."""
    flags = {name: getattr(options, name) for name in OUR_FLAGS}
    return [sys.executable, str(HERE / script), *as_flags(flags | values)]


def save_ids(folder: str, shape: str, stride: int, samples: int) -> str:
    """Draws the ids once for all measurements; returns the file's path."""
    path = pathlib.Path(folder) / f"ids-{stride}.npy"
    np.save(path, shapes.ids(samples, shape, stride=stride))
    return str(path)


class Report:
    """Takes measurements one after another; prints each as a JSON line, and keeps the lines in ``output``."""

    def __init__(self, benchmark: str, output: str | None):
        self._output = pathlib.Path(output) if output else None
        if self._output:
            self._output.parent.mkdir(parents=True, exist_ok=True)
            self._output.write_text("", encoding="utf-8")
        with OtherLoad() as before:
            pass
        warn(before.cores, "before the first measurement")
        self._facts = {"benchmark": benchmark, "other_cpu_cores_before": before.cores, **facts()}
        self.failures = 0
        self._patience_s = 30.0  # for cores to be whole ones

    def add(self, record: Record) -> None:
        line = json.dumps({**record, **self._facts, "date": now()})
        print(line, flush=True)
        if self._output:
            with self._output.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def measure(self, command: Sequence[str], **about: Any) -> Record | None:
        """Runs ``command``, whose last line of output is a JSON record, and adds it; None if it failed."""
        before = wait_for_whole_cores(self._patience_s)
        if not are_whole(before):
            self._patience_s = 0.0  # hyper-threads that never part: why wait again?
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self.failures += 1
            said = done.stderr.strip().splitlines()[-15:] or ["no message"]
            print(f"{shlex.join(command)}\nended with code {done.returncode}:", *said, sep="\n", file=sys.stderr)
            self.add({**about, "error": f"code {done.returncode}: {said[-1]}"})
            return None
        together = least([before, cores_together()])
        record = {**about, **json.loads(done.stdout.splitlines()[-1]), "cores_together": together}
        self.add(record)
        warn(record["other_cpu_cores"], "during this measurement")
        warn_of_shared(together, "around this measurement")
        return record


def facts() -> Record:
    """What a figure means nothing without: the machine, the versions, the commit."""
    packages = ("jax", "jaxlib", "numpy")
    return {
        "machine": {
            "cpu": cpu_model(),
            "cores": len(available_cores()),
            **({"gpus": gpus} if (gpus := nvidia_gpus()) else {}),
        },
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
        "git": git_commit(),
    }


def cpu_model() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def git_commit() -> str | None:
    """The commit that was measured, with ``+dirty`` if the working tree differs; None outside a repository."""
    git = ["git", "--no-optional-locks", "-C", str(HERE)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+dirty" if status.strip() else "")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; None is an empty cell."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |" for line in lines)


def median(records: Sequence[Record], key: str) -> float:
    return statistics.median(record[key] for record in records)


def least(numbers: Iterable[float | None]) -> float | None:
    """The least of the numbers there are; None of none."""
    return min((number for number in numbers if number is not None), default=None)


def scratch() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="dist_fm-bench-")

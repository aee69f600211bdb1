"""Trains runs in processes of their own, some at a time."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

from tqdm import tqdm

from data_tools.progress import print_line
from data_tools.workers import cores
from dist_fm.command import PREEMPTED
from dist_fm.errors import Preempted
from dist_fm.sweeps.grid import Run

_POLL_S = 0.1


def train_all(runs: list[Run], jobs: int, *, quiet: bool = False) -> list[Run]:
    """Trains what is not finished of ``runs``, ``jobs`` at a time; returns those that failed.

    Says how far it is, in a line a run, and on a terminal in a bar, unless ``quiet``.
    Asked to stop by SIGTERM, it passes that on to them, waits until they have saved, and raises ``Preempted``.
    """
    waiting, failed = [run for run in runs if run.result() is None], []
    running: dict[subprocess.Popen, Run] = {}
    done, before = len(runs) - len(waiting), signal.signal(signal.SIGTERM, _stop)
    say = print_line if not quiet else lambda line: None
    if done:
        say(f"{done} of {len(runs)} runs are finished already")
    bar = tqdm(total=len(runs), initial=done, unit="run", leave=False, disable=True if quiet else None)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                running[_start(run, jobs)] = run
            time.sleep(_POLL_S)
            bar.refresh()
            for process in [process for process in running if process.poll() is not None]:
                run = running.pop(process)
                if process.returncode == PREEMPTED:
                    _stop()
                done += 1
                bar.update()
                if process.returncode:
                    failed.append(run)
                say(f"{done} of {len(runs)}: {run.setting.name}, seed {run.seed}: {_outcome(run)}")
    finally:
        bar.close()
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        signal.signal(signal.SIGTERM, before)
    return failed


def _start(run: Run, jobs: int) -> subprocess.Popen:
    run.path.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if jobs > 1:  # XLA's threads
        environment.setdefault("NPROC", str(max(1, cores() // jobs)))
    with open(run.log, "a", encoding="utf-8") as log:
        command = [sys.executable, "-m", "dist_fm.train", *run.arguments]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _outcome(run: Run) -> str:
    result = run.result()
    if result is None:
        return f"failed, see {run.log}"
    value, seconds = run.value(result["valid"]), result["train_seconds"]
    monitor = run.setting.config.train.monitor
    return f"valid {monitor} {'undefined' if value is None else f'{value:.5f}'}, {seconds:.0f} s of training"


def _stop(*signal_and_frame: Any) -> None:
    raise Preempted("asked to stop: what was being trained is saved; the same command goes on")

"""Runs of dist_fm.train in processes of their own, for tests that disturb them."""

import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from conftest import weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

HERE = pathlib.Path(__file__).parent
RATES = ("samples_per_s", "train_samples_per_s", "train_seconds", "seconds", "time")


def environ(**more):
    found = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}", "JAX_PLATFORMS": "cpu", **more}
    found.pop("JAX_NUM_CPU_DEVICES", None)
    return found


class Runner:
    """Starts runs one at a time; a context manager, which ends what still runs."""

    def __init__(self, log):
        self.log = pathlib.Path(log)
        command = [sys.executable, str(HERE / "forked_runs.py"), str(log)]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ(), bufsize=1
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._server.kill()
        self._server.wait()

    def start(self, arguments):
        """The process's number."""
        self._server.stdin.write(json.dumps(arguments) + "\n")
        return self._answer("pid")

    def wait(self):
        """The exit code of the run that was started last; negative: the signal that ended it."""
        return self._answer("code")

    def run(self, arguments):
        self.start(arguments)
        return self.wait()

    def run_killed(self, arguments, after_s, number=signal.SIGKILL):
        """Starts a run and sends it a signal after ``after_s`` seconds, if it still runs; its exit code."""
        pid = self.start(arguments)
        time.sleep(after_s)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
        return self.wait()

    def _answer(self, what):
        word, number = self._server.stdout.readline().split()
        assert word == what
        return int(number)


def flags(data, output, devices=1, **more):
    """Arguments of a short run with frequent evaluations and checkpoints, out of step with each other."""
    keys = {
        "data": data,
        "output_dir": output,
        "devices": devices,
        "platform": "cpu",
        "model": "deepfm",
        "epochs": 4,
        "batch_size": 60,
        "eval_steps": 7,
        "save_steps": 4,
        "quiet": "true",
        "run.log_steps": 3,
        "run.report": "false",
        **more,
    }
    return [f"--{key}={value}" for key, value in keys.items()]


def lines(run):
    """metrics.jsonl without what depends on the clock."""
    text = (pathlib.Path(run) / "metrics.jsonl").read_text()
    return [{key: x for key, x in json.loads(line).items() if key not in RATES} for line in text.splitlines()]


def result(run):
    found = json.loads((pathlib.Path(run) / "result.json").read_text())
    return {key: x for key, x in found.items() if key not in (*RATES, "compiled_steps")}


def scalars(run):
    """All points of a run's event files as TensorBoard reads them: tag -> [(step, value, wall time)]."""
    found = EventAccumulator(str(run), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(point.step, point.value, point.wall_time) for point in found.Scalars(tag)] for tag in tags}


def points(run):
    """The points of ``scalars`` that metrics.jsonl and result.json give."""
    known = {}
    run = pathlib.Path(run)
    for event in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        at_s = datetime.datetime.fromisoformat(event["time"]).timestamp()
        for name, value in event.items():
            if name not in ("step", "epoch", "split", "time") and value is not None:
                known.setdefault(f"{event['split']}/{name}", []).append((event["step"], pytest.approx(value), at_s))
    found = json.loads((run / "result.json").read_text())
    for name, value in ((name, value) for name, value in found["test"].items() if value is not None):
        known[f"test/{name}"] = [(found["best_step"], pytest.approx(value), pytest.approx(at_s, abs=60))]
    return known


def same(run, whole):
    """Bit-equal in the end: tables, slots, network, the best step's weights; the same lines, none twice, no gap.

    TensorBoard's points are those of the lines.
    """
    assert weights(run) == weights(whole)
    assert result(run) == result(whole)
    assert lines(run) == lines(whole)
    assert scalars(run) == points(run)


def wait_for_step(run, step, limit_s=120):
    """Until a line of metrics.jsonl is of ``step`` or later, or the run has ended."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until and not (run / "result.json").exists():
        if (run / "metrics.jsonl").exists():
            found = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()[:-1]]
            if found and found[-1] >= step:
                return
        time.sleep(0.005)

"""What saving a checkpoint costs a run of the Criteo shape: time the loop stands still, time lost, memory.

    python tests/benchmarks/saving.py                     # DeepFM, lazy Adam, 1 M rows: 206 MB of table and slots

Windows of ``--seconds`` of training with one save at the start alternate with windows without one, ``--rounds`` times,
after one of each that is not counted; batches are prepared beforehand and used in turn. Prints one JSON line:
``blocked_ms``, the time that the loop spends in the call that saves; ``slowest_step_ms`` after it (a step whose buffers
the save still reads copies them); ``lost_ms``, by how much the first ``FIRST_S`` seconds' steps are longer than the
window's later ones, with a save less without, which the machine's drift from window to window does not touch; and the
largest resident memory within windows of either kind. Medians over rounds.
"""

import json
import math
import pathlib
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

import common
import jax
import numpy as np
import ours
from load import OtherLoad
from work import HostBatches, make_engine, make_schema

from dist_fm.checkpoint import Checkpoints
from dist_fm.data.pipeline import placed
from dist_fm.errors import UserError
from dist_fm.training.in_flight import bounded

FIRST_S = 8.0  # in which a save is written, and more


def main() -> None:
    parser = common.parser(__doc__)
    ours.add_our_flags(parser)
    parser.add_argument(
        "--seconds", type=common.positive, default=30, help="length of a window, above 10: one save in each"
    )
    parser.add_argument("--rounds", type=common.positive, default=3)
    parser.add_argument("--folder", help="directory for the checkpoints; default: the system's temporary one")
    parser.add_argument("--ids", help="file of ids, so that several measurements draw them once")
    parser.set_defaults(steps=64, stride=1)
    options = parser.parse_args()

    schema = make_schema(options.shape)
    engine = make_engine(options, schema)
    host = HostBatches(options, schema, engine.padded_batch(options.batch))
    prepared = [engine.prepare(host[step]) for step in range(options.steps)]
    training = ours.Training(engine)
    training.compile(iter(prepared))
    windows: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory(prefix="dist_fm-bench-", dir=options.folder) as folder, OtherLoad() as others:
        checkpoints = Checkpoints(pathlib.Path(folder))
        for number in range(options.rounds + 1):
            for kind, found in windows.items():
                one = window(training, prepared, options.seconds, checkpoints if kind == "with" else None)
                if number:
                    found.append(one)
        checkpoints.close()
        written = sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())
    print(
        json.dumps(
            summary(windows)
            | {
                "checkpoint_bytes_on_disk": written,
                "seconds": options.seconds,
                "state_bytes": sum(x.nbytes for x in jax.tree.leaves(training.state)),
                "other_cpu_cores": others.cores,
                "model": options.model,
            }
        )
    )


def window(training: ours.Training, prepared: list, seconds: int, checkpoints: Checkpoints | None) -> dict[str, Any]:
    """One window: its steps a second, the time that saving blocked, its slowest step, and its peak of memory."""
    jax.block_until_ready(training.state)
    with Memory() as memory:
        began = time.perf_counter()
        blocked = 0.0
        if checkpoints is not None:
            checkpoints.save(training.state, {"best_step": None})
            blocked = time.perf_counter() - began

        def send():
            while time.perf_counter() - began < seconds:
                for batch in placed(iter(prepared), training.engine):
                    training.state, metrics = training.engine.train_step(training.state, batch)
                    yield metrics

        ends = [time.perf_counter()]
        for metrics in bounded(send()):
            if not math.isfinite(float(metrics.loss)):
                raise UserError("training diverged: this is no measurement")
            ends.append(time.perf_counter())
    if checkpoints is not None:
        checkpoints.wait()
    took = np.diff(ends)
    early = np.array(ends[1:]) - began < FIRST_S
    usual = np.median(took[~early])
    return {
        "step_ms": usual * 1e3,
        "blocked_ms": blocked * 1e3,
        "slowest_ms": took.max() * 1e3,
        "longer_ms": (blocked + (took[early] - usual).sum()) * 1e3,
        "rss": memory.peak,
    }


class Memory:
    """The largest resident memory of this process while it is open, looked at every 20 ms."""

    def __enter__(self) -> "Memory":
        self.peak, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            pages = int(pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            self.peak = max(self.peak, pages * 4096)


def summary(windows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    middle = lambda kind, key: statistics.median(one[key] for one in windows[kind])
    lost = [b["longer_ms"] - a["longer_ms"] for a, b in zip(windows["without"], windows["with"], strict=True)]
    return {
        "blocked_ms": round(middle("with", "blocked_ms"), 1),
        "slowest_step_ms": round(middle("with", "slowest_ms"), 1),
        "slowest_step_ms_without": round(middle("without", "slowest_ms"), 1),
        "lost_ms": round(statistics.median(lost)),
        "lost_ms_each": [round(one) for one in lost],
        "step_ms": round(middle("without", "step_ms"), 2),
        "peak_rss_bytes": int(middle("with", "rss")),
        "peak_rss_bytes_without": int(middle("without", "rss")),
    }


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")

"""How long a prediction takes: exported models in their runtimes, beside the live model in JAX.

    python tests/benchmarks/serving.py                           # deepfm, criteo shape: live, onnxruntime
    python tests/benchmarks/serving.py --model=fm --runtimes=live,onnx,stablehlo,savedmodel,tflite --rows=1,1000

A call takes ids in NumPy arrays, rows drawn uniformly and new ones each time, and ends with the predictions in one.
``live`` is what predict and evaluate do: unique ids are made, and the evaluation step runs; ``stablehlo`` is the
exported function compiled by JAX. Runtimes alternate ``--rounds`` times, each in a process of its own; the median and
the 99th percentile are over all calls of a process, and the table has the medians of these over rounds.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import common
import jax
import numpy as np
from common import Record, Report
from load import OtherLoad
from ours import add_our_flags
from work import make_engine, make_schema

from dist_fm.data.source import EvalSource, MemoryStore
from dist_fm.errors import UserError
from dist_fm.exporting.comparison import draw_rows
from dist_fm.exporting.formats import FORMATS, get_format
from dist_fm.exporting.scoring import Scoring
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine

LIVE = "live"
RUNTIMES = (LIVE, *(name for name in FORMATS if name != "npz"))
WARM_UP = 20


def main() -> None:
    options = parse()
    if options.only:
        print(json.dumps(measure(options)))
        return
    report, records = Report("serving", options.output), []
    for number in range(options.rounds):
        for runtime in options.runtimes:
            rows = ",".join(map(str, options.rows))
            own = {"only": runtime, "rows": rows, "calls": options.calls, "model": options.model}
            records.append(report.measure(common.ours(options, "serving.py", **own), runtime=runtime, round=number))
    found = [record for record in records if record]
    if found:
        print("\n" + summary(options, found))
    sys.exit(1 if report.failures else 0)


def parse() -> argparse.Namespace:
    parser = common.parser(__doc__)
    add_our_flags(parser)
    add = parser.add_argument
    runtime = common.one_of("runtime", RUNTIMES)
    add("--runtimes", type=common.several(runtime), default=[LIVE, "onnx"], help=", ".join(RUNTIMES))
    add("--rows", type=common.several(common.positive), default=[1, 1000], help="rows of a call")
    add("--calls", type=common.positive, default=500, help="timed calls of each size")
    add("--rounds", type=common.positive, default=3)
    add("--only", type=runtime, help=argparse.SUPPRESS)  # one measurement
    add("--output", help="keep the JSON lines in this file")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> Record:
    """Milliseconds of a call by number of rows."""
    engine = make_engine(options, make_schema(options.shape))
    state = engine.init()
    with common.scratch() as folder, OtherLoad() as others:
        predict, written = open_runtime(options.only, engine, state, pathlib.Path(folder))
        times = {f"rows_{rows}": timed(predict, engine, rows, options.calls) for rows in options.rows}
    return {"model": options.model, "bytes": written, **times, "other_cpu_cores": others.cores}


def open_runtime(
    name: str, engine: Engine, state: TrainState, folder: pathlib.Path
) -> tuple[Callable[[np.ndarray], Any], int]:
    """A function from ids [N, S] to predictions, and the bytes that were written for it."""
    if name == LIVE:
        return lambda ids: live(engine, state, ids), 0
    chosen, scoring = get_format(name), Scoring.of(engine, state)
    path = folder / chosen.file
    chosen.write(scoring, path)
    loaded = chosen.load(path, scoring)
    return lambda ids: loaded({"ids": ids}), sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def live(engine: Engine, state: TrainState, ids: np.ndarray) -> np.ndarray:
    source = EvalSource(MemoryStore.of(engine.schema, ids, None), engine.schema, len(ids), **engine.reads(len(ids)))
    return np.asarray(engine.eval_step(state, engine.prepare(source[0])).logits)


def timed(predict: Callable[[np.ndarray], Any], engine: Engine, rows: int, calls: int) -> dict[str, float]:
    """Median and 99th percentile, in milliseconds, of ``calls`` calls with ``rows`` rows each."""
    ids = np.split(draw_rows(engine.schema, rows * (calls + WARM_UP)).ids, calls + WARM_UP)
    for part in ids[:WARM_UP]:
        jax.block_until_ready(predict(part))
    took = []
    for part in ids[WARM_UP:]:
        began = time.perf_counter()
        predict(part)
        took.append((time.perf_counter() - began) * 1e3)
    return {"p50_ms": round(float(np.median(took)), 4), "p99_ms": round(float(np.percentile(took, 99)), 4)}


def summary(options: argparse.Namespace, records: list[Record]) -> str:
    """A row a runtime."""
    head = ["runtime", "bytes", *(f"{rows} rows, {key} ms" for rows in options.rows for key in ("p50", "p99"))]
    lines = []
    for runtime in options.runtimes:
        own = [record for record in records if record["runtime"] == runtime]
        middle = lambda rows, key, own=own: statistics.median(record[f"rows_{rows}"][f"{key}_ms"] for record in own)
        if own:
            cells = [f"{middle(rows, key):.3f}" for rows in options.rows for key in ("p50", "p99")]
            lines.append([runtime, f"{own[0]['bytes']:,}", *cells])
    return common.table(head, lines)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")

"""Samples a second trained from an LMDB through the real loader, beside the rate of the step alone.

    python tests/benchmarks/end_to_end.py                                    # deepfm, criteo shape, 500,000 rows
    python tests/benchmarks/end_to_end.py --rows=2_000_000 --optimizer=rowwise_adagrad --output=end_to_end.json

The rows are step.py's stream of ids, written as blocks into an LMDB in a temporary directory (``--folder``: where). One
measurement trains on every full batch of a shuffled epoch, through Grain, with training's own share of ids made unseen.
The step alone takes as many batches from memory (ours.py). Both make unique ids in threads that read ahead; they
alternate ``--rounds`` times, each in a process of its own, and the median of the ratios counts. The file is in the page
cache: its batches were read once, to compile their steps, before the clock ran.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import common
import grain  # noqa: F401  before the clock runs, which a run's first batch would wait for
import numpy as np
import shapes
from common import Record, Report
from ours import Training, add_our_flags
from work import make_engine, make_schema

from dist_fm.data.records import RecordLayout
from dist_fm.data.source import TrainSource
from dist_fm.data.store import BlockStore
from dist_fm.data.store_writer import BlockWriter
from dist_fm.errors import UserError
from dist_fm.training.feed import batches

WRITE_ROWS = 1 << 16


def main() -> None:
    options = parse()
    if options.data:
        print(json.dumps(train(options)))
        return
    report, pairs = Report("end_to_end", options.output), []
    with written(options.shape, options.rows, options.folder) as (ids, data):
        chosen = {name: getattr(options, name) for name in ("model", "optimizer", "placement")}
        alone = common.ours(options, **chosen, ids=ids)
        whole = common.ours(options, "end_to_end.py", **chosen, data=str(data), rows=options.rows)
        for number in range(options.rounds):
            said = {**about(options), "round": number}
            pairs.append((report.measure(whole, side="end to end", **said), report.measure(alone, side="step", **said)))
    pairs = [pair for pair in pairs if all(pair)]
    if pairs:
        print("\n" + summary(report, options, pairs))
    sys.exit(1 if report.failures else 0)


def parse() -> argparse.Namespace:
    parser = common.parser(__doc__)
    add_our_flags(parser)
    add = parser.add_argument
    add("--rows", type=common.positive, default=500_000, help="rows of the data set")
    add("--rounds", type=common.positive, default=3)
    add("--folder", help="directory for the temporary LMDB; default: the system's")
    add("--data", help=argparse.SUPPRESS)  # one measurement, of a store that is already there
    add("--output", help="keep the JSON lines in this file")
    parser.set_defaults(steps=None)
    options = parser.parse_args()
    full = options.rows // options.batch
    if options.steps is None:
        options.steps = full
    if not 0 < options.steps <= full:
        parser.error(f"{options.rows} rows are {full} full batches of {options.batch}, not {options.steps}")
    return options


@contextlib.contextmanager
def written(shape: str, rows: int, folder: str | None) -> Iterator[tuple[str, pathlib.Path]]:
    """Ids [rows, F] in a file and, as labelled rows, in a store, in a temporary directory inside ``folder``."""
    with tempfile.TemporaryDirectory(prefix="dist_fm-bench-", dir=folder) as own:
        ids = common.save_ids(own, shape, 1, rows)
        yield ids, write(pathlib.Path(own) / "train.lmdb", shape, np.load(ids, mmap_mode="r"))


def write(path: pathlib.Path, shape: str, ids: np.ndarray) -> pathlib.Path:
    """A store of labelled rows."""
    schema = make_schema(shape)
    layout, labels = RecordLayout.for_schema(schema), shapes.labels(len(ids))
    with BlockWriter(path, layout) as writer:
        for start in range(0, len(ids), WRITE_ROWS):
            part = slice(start, start + WRITE_ROWS)
            writer.append(layout.pack(labels[part], ids[part] + schema.slot_offsets))
    return path


def train(options: argparse.Namespace) -> Record:
    """One measurement, from the store ``options.data``."""
    schema = make_schema(options.shape)
    engine = make_engine(options, schema)
    source = TrainSource(
        BlockStore(options.data),
        schema,
        options.batch,
        seed=engine.config.train.seed,
        steps=options.steps,
        unseen_rate=engine.config.data.unseen_rate,
        padded_size=engine.padded_batch(options.batch),
    )
    training = Training(engine)
    training.compile(engine.prepare(source[step]) for step in range(options.steps))
    return training.time(lambda: batches(source, engine, threads=options.read_threads), options)


def about(options: argparse.Namespace) -> dict[str, Any]:
    names = ("shape", "rows", "batch", "model", "optimizer", "update", "network", "placement", "dtype", "set")
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def summary(report: Report, options: argparse.Namespace, pairs: list[tuple[Record, Record]]) -> str:
    """Adds the ratios to the report; a table of the medians."""
    ratios = [round(whole["samples_per_s"] / alone["samples_per_s"], 3) for whole, alone in pairs]
    ratio = round(statistics.median(ratios), 3)
    report.add({"side": "ratio", **about(options), "ratios": ratios, "median_ratio": ratio})
    rates = [f"{common.median([pair[side] for pair in pairs], 'samples_per_s'):,.0f}" for side in (0, 1)]
    others = max(record["other_cpu_cores"] or 0.0 for pair in pairs for record in pair)
    row = [options.model, f"{options.rows:,}", *rates, ratio, ", ".join(map(str, ratios)), others]
    head = ["model", "rows", "samples/s end to end", "of the step alone", "ratio", "of rounds", "cores others used"]
    return common.table(head, [row])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")

"""Rows a second that one thread reads into host batches: exact and windowed shuffle, and torchfm's loader beside it.

    python tests/benchmarks/loader.py                                        # 39 fields, batches of 2,048 and 16,384
    python tests/benchmarks/loader.py --rows=8_000_000 --peer_python=/path/to/python --output=loader.json

step.py's stream of ids is written as blocks into an LMDB in a temporary directory (``--folder``: where). A measurement,
in a process of its own, checks all blocks, reads one epoch, and times the next: every full batch, with training's share
of ids made unseen and the drawing of the epoch's order; from the source itself, and through Grain with one thread. The
file is in the page cache. The peer reads the same rows as torchfm's example does, one a key in an LMDB, by torch's
DataLoader with 0 and 2 workers, in batches of 2,048 (peer_loader.py). ``--rounds`` times all in turn; medians count.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import common
import grain
from common import Record, Report
from end_to_end import written
from load import OtherLoad
from work import make_schema

from dist_fm.config import DataConfig
from dist_fm.data.records import READ_AHEAD, HostBatch
from dist_fm.data.source import TrainSource
from dist_fm.data.store import BlockStore
from dist_fm.data.windows import Windows
from dist_fm.parallel.memory import keep_freed_memory

SHAPE = "criteo"
SHUFFLES, THROUGH = ("exact", "window"), ("source", "grain")
PEER_WORKERS = (0, 2)


def main() -> None:
    options = parse()
    if options.data:
        print(json.dumps(read(options)))
        return
    report, records = Report("loader", options.output), []
    with written(SHAPE, options.rows, options.folder) as (ids, data):
        for number in range(options.rounds):
            for command, about in measurements(options, ids, data):
                records.append(report.measure(command, round=number, **about))
    print("\n" + summary([record for record in records if record]))
    sys.exit(1 if report.failures else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--rows", type=common.positive, default=4_000_000)
    add("--batches", type=common.several(common.positive), default=[2048, 16384], help="batch sizes")
    add("--shuffles", type=common.several(common.one_of("shuffle", SHUFFLES)), default=SHUFFLES)
    add("--through", type=common.several(common.one_of("path", THROUGH)), default=THROUGH, help="source, grain")
    add("--rounds", type=common.positive, default=3)
    add("--peer_python", help="a Python with torchfm and lmdb, whose loader is timed too")
    add("--peer_rows", type=common.positive, default=300_000, help="of the rows, those that the peer reads")
    add("--folder", help="directory for the temporary LMDBs; default: the system's")
    add("--output", help="keep the JSON lines in this file")
    add("--data", help=argparse.SUPPRESS)  # one measurement, of a store that is already there
    options = parser.parse_args()
    if max(options.batches) > options.rows:
        parser.error(f"{options.rows} rows are no full batch of {max(options.batches)}")
    return options


def measurements(
    options: argparse.Namespace, ids: str, data: pathlib.Path
) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """The commands of one round, and what each is about."""
    script = [sys.executable, str(common.HERE / "loader.py"), f"--rows={options.rows}", f"--data={data}"]
    for shuffle in options.shuffles:
        for batch in options.batches:
            for through in options.through:
                flags = common.as_flags({"shuffles": shuffle, "batches": batch, "through": through})
                yield [*script, *flags], {"side": "ours", "shuffle": shuffle, "through": through, "batch": batch}
    for workers in PEER_WORKERS if options.peer_python else ():
        flags = common.as_flags({"ids": ids, "folder": data.parent, "rows": options.peer_rows, "workers": workers})
        about = {"side": "torchfm", "shuffle": "exact", "through": f"DataLoader, {workers} workers"}
        yield [options.peer_python, str(common.HERE / "peer_loader.py"), *flags], about


def read(options: argparse.Namespace) -> Record:
    """One measurement, from the store ``options.data``."""
    keep_freed_memory()  # as in training
    (batch,), (shuffle,), (through,) = options.batches, options.shuffles, options.through
    store, config = BlockStore(options.data), DataConfig()
    source = TrainSource(
        store,
        make_schema(SHAPE),
        batch,
        seed=0,
        steps=2 * -(-store.rows // batch),
        unseen_rate=config.unseen_rate,
        windows=Windows(config.readers, config.window_blocks) if shuffle == "window" else None,
        padded_size=batch,
    )
    for number in range(store.num_blocks):
        store.block(number)
    for step in range(source.steps_per_epoch):
        source[step]
    with OtherLoad() as others:
        began = time.perf_counter()
        rows = sum(len(found["labels"]) for found in epoch(source, through))
        seconds = time.perf_counter() - began
    return {
        "rows_per_s": round(rows / seconds),
        "ms_per_batch": round(seconds / rows * batch * 1e3, 4),
        "rows": rows,
        "store_rows": store.rows,
        "unseen_rate": config.unseen_rate,
        "windows": source.windows and source.windows._asdict(),
        "other_cpu_cores": others.cores,
    }


def epoch(source: TrainSource, through: str) -> Iterator[HostBatch]:
    """The full batches of the source's second epoch."""
    first = source.steps_per_epoch
    end = first + source.store.rows // source.batch_size
    if through == "source":
        yield from map(source.__getitem__, range(first, end))
        return
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=READ_AHEAD)
    batches = iter(grain.MapDataset.source(source)[first:end].to_iter_dataset(options))
    yield from batches
    batches.close()


def summary(records: list[Record]) -> str:
    """A table of medians over the rounds."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record[key] for key in ("side", "shuffle", "batch", "through")), []).append(record)
    head = ["loader", "shuffle", "batch", "through", "rows/s", "of rounds", "cores others used"]
    lines = []
    for about, found in groups.items():
        rates = [record["rows_per_s"] for record in found]
        others = max(record["other_cpu_cores"] or 0.0 for record in found)
        lines.append([*about, f"{statistics.median(rates):,.0f}", ", ".join(f"{rate:,}" for rate in rates), others])
    return common.table(head, lines)


if __name__ == "__main__":
    main()

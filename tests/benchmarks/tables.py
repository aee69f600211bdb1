"""Times a step over tables of growing size, with what it holds in memory: a step costs what the batch touches.

    python tests/benchmarks/tables.py --rows=1_000_000,40_000_000 --optimizer=adam,rowwise_adagrad
    python tests/benchmarks/tables.py --placement=sharded --devices=4 --rows=1_000_000,10_000_000
    python tests/benchmarks/tables.py --platform=gpu --batch=65536 --rows=1_000_000,40_000_000 --output=tables.json

Every size sees the same stream of ids: the criteo shape's, spread over a table ``stride`` times larger (shapes.spread),
so that each batch has as many unique ids in all of them; the rows are the nearest multiple of the shape's. Every
measurement is a process of its own, and the sizes alternate ``--rounds`` times. Beside the step: the bytes of the table
and its optimizer slots, the process's peak memory and how much of it is neither, the temporary bytes of the compiled
step, and how many table-shaped copies it has. A table that does not fit is an error, and the others go on.
"""

import argparse
import collections
import itertools
import sys
from typing import Any

import common
import shapes
from common import Record, Report

ROWS = [1_000_000, 4_000_000, 10_000_000, 40_000_000]
GIB = 1 << 30


def main() -> None:
    options = parse()
    report, found = Report("tables", options.output), collections.defaultdict(list)
    strides = sorted({shapes.stride_for(options.shape, rows) for rows in options.rows})
    with common.scratch() as folder:
        ids = {n: common.save_ids(folder, options.shape, n, options.batch * options.steps) for n in strides}
        each = itertools.product(options.optimizer, options.placement, range(options.rounds), strides)
        for optimizer, placement, number, stride in each:
            work = {"model": options.model, "optimizer": optimizer, "placement": placement, "stride": stride}
            command = common.ours(options, **work, ids=ids[stride], profile_memory=True)
            if record := report.measure(command, **about(options), **work, round=number):
                found[optimizer, placement, stride].append(record)
    rows, smallest_ms = [], {}
    for optimizer, placement, stride in itertools.product(options.optimizer, options.placement, strides):
        if not (records := found[optimizer, placement, stride]):
            continue
        one = summary(records)
        base = smallest_ms.setdefault((optimizer, placement), one["step_ms"])
        one["times_the_smallest"] = round(one["step_ms"] / base, 3)
        report.add({"summary": True, **about(options), "optimizer": optimizer, **one})
        rows.append([optimizer, *cells(one)])
    print("\n" + common.table(["optimizer", *HEAD], rows))
    sys.exit(1 if report.failures else 0)


def parse() -> argparse.Namespace:
    parser = common.parser(__doc__)
    add = parser.add_argument
    add("--model", type=common.model_name, default="deepfm")
    add("--rows", type=common.several(common.positive), default=ROWS, help="table sizes, comma-separated")
    add("--optimizer", type=common.several(str), default=["adam", "rowwise_adagrad"], help="of the rows; several")
    add("--placement", type=common.several(str), default=[None], help="replicated, sharded; several")
    add("--rounds", type=common.positive, default=3)
    add("--output", help="keep the JSON lines in this file")
    return parser.parse_args()


def about(options: argparse.Namespace) -> Record:
    names = ("shape", "batch", "update", "dtype", "network", "set")
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def summary(records: list[Record]) -> Record:
    """Medians and maxima over the rounds of one size."""
    first = records[0]
    peak = max(record["peak_rss_bytes"] for record in records)
    on_gpu = first["peak_device_bytes"] is not None
    held = first["table_and_slot_bytes"]
    return {
        **{key: first[key] for key in ("model", "placement", "table_rows", "devices")},
        "step_ms": common.median(records, "step_ms"),
        "samples_per_s": round(common.median(records, "samples_per_s")),
        "table_and_slot_bytes": held,
        "peak_bytes": first["peak_device_bytes"] if on_gpu else peak,
        "beside_table_bytes": (
            first["peak_device_bytes"] - first["table_and_slot_bytes_per_device"] if on_gpu else peak - held
        ),
        "temp_bytes": first["temp_bytes"],
        "table_copies": first["table_copies"],
        "compiled_steps": first["compiled_steps"],
        "other_cpu_cores": max(record["other_cpu_cores"] or 0.0 for record in records),
    }


HEAD = [
    *(
        "placement",
        "rows",
        "devices",
        "step ms",
        "x smallest",
        "samples/s",
        "table + slots GiB",
        "peak GiB",
        "beside them GiB",
    ),
    *("temporary MB", "table copies", "cores others used"),
]


def cells(one: Record) -> list[Any]:
    gib = lambda key: f"{one[key] / GIB:.2f}"
    return [
        one["placement"],
        f"{one['table_rows']:,}",
        one["devices"],
        f"{one['step_ms']:.2f}",
        one["times_the_smallest"],
        f"{one['samples_per_s']:,}",
        *(gib(key) for key in ("table_and_slot_bytes", "peak_bytes", "beside_table_bytes")),
        one["temp_bytes"] // 10**6,
        one["table_copies"],
        one["other_cpu_cores"],
    ]


if __name__ == "__main__":
    main()

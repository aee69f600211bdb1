"""Rows a second that build-lmdb converts, torchfm's converter beside it, and the memory it takes.

    python tests/benchmarks/convert.py                                           # 2,000,000 rows in Criteo's format
    python tests/benchmarks/convert.py --peer_python=/path/to/python             # and torchfm, in a Python that has it
    python tests/benchmarks/convert.py --rows=5_000_000,20_000_000 --rounds=1    # the memory it takes

The raw text is ``data_tools synth --kind=criteo``'s, in a temporary directory (``--folder``: where; 20M rows take 5 GB,
and three times that while they are converted). Each side reads the same file with its default settings, in a process
of its own, and starts from nothing; they alternate ``--rounds`` times, and the median counts. Memory is the largest sum
of all processes of a build, what they share counted once (PSS).
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import common
from common import Record, Report
from load import OtherLoad

from data_tools.synth import synth

POLL_S = 0.2


def main() -> None:
    options = parse()
    report = Report("convert", options.output)
    with tempfile.TemporaryDirectory(prefix="dist_fm-bench-", dir=options.folder) as folder:
        lines = [line for rows in options.rows for line in compare(report, options, pathlib.Path(folder), rows)]
    print("\n" + common.table(["rows", "side", "rows/s", "to torchfm", "peak MiB", "cores others used"], lines))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--rows", type=common.several(common.positive), default=[2_000_000], help="of the raw file; several: a list")
    add("--rounds", type=common.positive, default=3)
    add("--workers", type=common.positive, help="build-lmdb's (default: all cores)")
    add("--peer_python", help="a Python that has torchfm 0.7.0: also time its converter")
    add("--folder", help="directory for the temporary files; default: the system's")
    add("--output", help="keep the JSON lines in this file")
    return parser.parse_args()


def compare(report: Report, options: argparse.Namespace, folder: pathlib.Path, rows: int) -> list[list]:
    """Measures one size; the lines of the table."""
    raw, made = folder / "raw", folder / "made"
    synth("criteo", rows, str(raw))
    ours = [sys.executable, "-m", "data_tools", "build-lmdb", "--format=criteo", f"--input={raw}", f"--output={made}"]
    ours += common.as_flags({"workers": options.workers})
    sides = {"dist_fm": ours}
    if options.peer_python:
        sides["torchfm"] = [
            options.peer_python,
            str(common.HERE / "peer_convert.py"),
            f"--input={raw}",
            f"--output={made}",
        ]
    found: dict[str, list[Record]] = {side: [] for side in sides}
    for number in range(options.rounds):
        for side, command in sides.items():
            record = {"side": side, "rows": rows, "round": number, **measure(command, rows)}
            report.add(record)
            found[side].append(record)
            shutil.rmtree(made)
    raw.unlink()
    rates = {side: common.median(records, "rows_per_s") for side, records in found.items()}
    if "torchfm" in rates:
        ratio = round(rates["dist_fm"] / rates["torchfm"], 2)
        report.add({"side": "ratio", "rows": rows, "median_ratio": ratio})
    lines = []
    for side, records in found.items():
        against = ratio if side == "dist_fm" and "torchfm" in rates else None
        others = max(record["other_cpu_cores"] or 0.0 for record in records)
        peak = max(record["peak_bytes"] for record in records) >> 20
        lines.append([f"{rows:,}", side, f"{rates[side]:,.0f}", against, peak, others])
    return lines


def measure(command: list[str], rows: int) -> Record:
    """Runs a converter; raises ``CalledProcessError`` if it fails."""
    peak_bytes, began = 0, time.perf_counter()
    with OtherLoad() as others:
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while running.poll() is None:
            peak_bytes = max(peak_bytes, tree_bytes(running.pid))
            time.sleep(POLL_S)
        seconds = time.perf_counter() - began
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)
    return {
        "seconds": round(seconds, 3),
        "rows_per_s": round(rows / seconds),
        "peak_bytes": peak_bytes,
        "other_cpu_cores": others.cores,
    }


def tree_bytes(pid: int) -> int:
    """Memory of a process and all below it, shared pages divided among those that share them; Linux only, else 0."""
    total = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) << 10
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                total += sum(tree_bytes(int(child)) for child in file.read().split())
    except (OSError, ValueError):  # it has ended, or there is no /proc
        pass
    return total


if __name__ == "__main__":
    main()

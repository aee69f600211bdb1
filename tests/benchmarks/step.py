"""Times one training step of every model, and, in the same go, that of a package a user would pick instead.

    python tests/benchmarks/step.py                                            # all models, criteo shape, lazy Adam
    python tests/benchmarks/step.py --shape=movielens --models=fm,ncf --output=step.json
    python tests/benchmarks/step.py --peer=torchfm --peer_python=/path/to/python
    python tests/benchmarks/step.py --peer=torch-sparse --optimizer=adagrad --peer_python=/path/to/python
    python tests/benchmarks/step.py --peer=fbgemm --optimizer=rowwise_adagrad --peer_python=/path/to/python
    python tests/benchmarks/step.py --peer=jax-dense --rows=40_000_000        # ours with dense updates is the peer

Every model's ``--rounds`` measurements of ours and of the peer alternate, each in a process of its own (ours.py and
peers.py say what is timed), and the median of the rounds' ratios of samples per second counts. Against torchfm our
network is ``full`` (BatchNorm, dropout and L2 as it has them), against torch-sparse and fbgemm ``plain``, as theirs is.
``--rows`` spreads the same stream of ids over a table of about so many rows (shapes.py). ``taskset -c 0,1 python ...``
limits both sides to two cores. A JSON line a measurement and a model's ratios, then a table.
"""

import argparse
import os
import statistics
import sys
from typing import Any

import common
import shapes
from common import Record, Report

from dist_fm.models import MODELS

PEERS = {"torchfm": None, "torch-sparse": ("adam", "adagrad"), "fbgemm": ("rowwise_adagrad", "adagrad")}
OURS_DENSE = "jax-dense"
NOT_IN_TORCHFM = ("dcnv2", "fibinet", "onn", "hofm")
PLAIN = ("torch-sparse", "fbgemm")  # DeepFM alone, without BatchNorm and dropout


def main() -> None:
    options = parse()
    options.stride = shapes.stride_for(options.shape, options.rows)
    report = Report("step", options.output)
    with common.scratch() as folder:
        steps = max(options.steps, options.peer_steps if options.peer != "none" else 0)
        options.ids = common.save_ids(folder, options.shape, options.stride, options.batch * steps)
        summaries = [summary for model in options.models if (summary := measure(report, options, model))]
    for summary in summaries:
        if "ratios" in summary:
            report.add({"side": "ratio", **about(options), **summary})
    ratios = [summary["median_ratio"] for summary in summaries if "ratios" in summary]
    if ratios:
        means = {"geometric_mean": round(statistics.geometric_mean(ratios), 3), "minimum": round(min(ratios), 3)}
        report.add({"side": "ratios of all models", **about(options), "models": len(ratios), **means})
    print("\n" + table(options, summaries))
    if ratios:
        print(f"\nours / {options.peer}: geometric mean {means['geometric_mean']}, minimum {means['minimum']}")
    sys.exit(1 if report.failures else 0)


def parse() -> argparse.Namespace:
    parser = common.parser(__doc__)
    add = parser.add_argument
    add("--models", type=common.several(common.model_name), help="default: all that run on the shape, or the peer has")
    add("--optimizer", default="adam", help="of the rows; the network's is Adam")
    add("--placement", help="tables.placement: auto, replicated or sharded")
    add("--rows", type=common.positive, help="spread the ids over a table of about this many rows")
    add("--rounds", type=common.positive, default=3)
    add("--peer", type=common.one_of("peer", [*PEERS, OURS_DENSE, "none"]), default="none")
    add("--peer_python", default=os.environ.get("PEER_PYTHON"), help="Python that has the peer; default $PEER_PYTHON")
    add("--peer_steps", type=common.positive, default=200, help="timed steps of a peer")
    add("--peer_seconds", type=float, default=60.0, help="a slow peer stops after so long; the line says at which step")
    add("--peer_device", default="cpu", help="torch's device, cpu or cuda")
    add("--profile_memory", action="store_true", help="also temporary bytes and table copies of the compiled step")
    add("--output", help="keep the JSON lines in this file")
    options = parser.parse_args()
    if options.models is None:
        options.models = ["deepfm"] if options.peer in PLAIN else [*MODELS]
        if options.peer == "torchfm":
            options.models = [model for model in options.models if model not in NOT_IN_TORCHFM]
        if options.shape != "movielens" and "ncf" in options.models:
            options.models.remove("ncf")
    if "ncf" in options.models and options.shape != "movielens":
        parser.error("ncf needs a user and an item: --shape=movielens")
    if options.peer == "torchfm" and (missing := set(NOT_IN_TORCHFM) & set(options.models)):
        parser.error(f"--peer=torchfm has no {' or '.join(sorted(missing))}")
    if options.peer in PLAIN and options.models != ["deepfm"]:
        parser.error(f"--peer={options.peer} has deepfm alone: --models=deepfm")
    known = PEERS.get(options.peer)
    if known and options.optimizer not in known:
        parser.error(f"--peer={options.peer} has no {options.optimizer}: --optimizer={' or '.join(known)}")
    if options.peer in PEERS and not options.peer_python:
        parser.error(f"--peer={options.peer} needs --peer_python=PATH, a Python that has it")
    if options.network is None:
        options.network = "plain" if options.peer in PLAIN else "full"
    return options


def measure(report: Report, options: argparse.Namespace, model: str) -> Record | None:
    """The model's rounds, ours and the peer's in turn; None if none of ours succeeded."""
    ours, theirs, ratios = [], [], []
    for number in range(options.rounds):
        said = {**about(options), "model": model, "round": number}
        mine = report.measure(our_command(options, model), side="ours", **said)
        ours += [mine] if mine else []
        if options.peer == "none" or mine is None:
            continue
        peer = report.measure(peer_command(options, model), side=options.peer, **said)
        if peer:
            theirs.append(peer)
            ratios.append(round(mine["samples_per_s"] / peer["samples_per_s"], 3))
    if not ours:
        return None
    summary = {
        "model": model,
        "step_ms": common.median(ours, "step_ms"),
        "samples_per_s": round(common.median(ours, "samples_per_s")),
        "compiled_steps": ours[-1]["compiled_steps"],
        "other_cpu_cores": max((record["other_cpu_cores"] or 0.0 for record in ours + theirs), default=None),
        "cores_together": common.least(record["cores_together"] for record in ours + theirs),
    }
    if options.profile_memory:
        summary |= {key: ours[-1][key] for key in ("temp_bytes", "table_copies")}
    if ratios:
        summary |= {
            "peer_samples_per_s": round(common.median(theirs, "samples_per_s")),
            "peer_steps": min(record["steps"] for record in theirs),
            "ratios": ratios,
            "median_ratio": statistics.median(ratios),
        }
    return summary


def about(options: argparse.Namespace) -> Record:
    """What all measurements of this go have in common."""
    names = ("peer", "shape", "stride", "batch", "optimizer", "update", "network", "placement", "dtype", "set")
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def our_command(options: argparse.Namespace, model: str, **changes: Any) -> list[str]:
    names = ("stride", "ids", "optimizer", "placement", "profile_memory")
    return common.ours(options, model=model, **{name: getattr(options, name) for name in names} | changes)


def peer_command(options: argparse.Namespace, model: str) -> list[str]:
    if options.peer == OURS_DENSE:
        return our_command(options, model, update="dense", optimizer="adam", steps=options.peer_steps)
    flags = {name: getattr(options, name) for name in ("peer", "optimizer", "shape", "batch", "stride", "ids")}
    flags |= {"model": model, "steps": options.peer_steps, "seconds": options.peer_seconds}
    flags["device"] = options.peer_device
    return [options.peer_python, str(common.HERE / "peers.py"), *common.as_flags(flags)]


def table(options: argparse.Namespace, summaries: list[Record]) -> str:
    """Medians over the rounds."""
    head = ["model", "step ms", "samples/s", "compiled steps"]
    keys = ["model", "step_ms", "samples_per_s", "compiled_steps"]
    if options.profile_memory:
        head += ["temporary MB", "table copies"]
        keys += ["temp_mb", "table_copies"]
    if options.peer != "none":
        head += [f"{options.peer} samples/s", "its steps", "ratio", "of rounds"]
        keys += ["peer_samples_per_s", "peer_steps", "median_ratio", "ratios"]
    head, keys = [*head, "cores others used", "cores together"], [*keys, "other_cpu_cores", "cores_together"]
    rows = []
    for summary in summaries:
        shown = {**summary, "step_ms": f"{summary['step_ms']:.2f}", "temp_mb": summary.get("temp_bytes", 0) // 10**6}
        shown["ratios"] = ", ".join(map(str, summary.get("ratios", [])))
        for key in ("samples_per_s", "peer_samples_per_s"):
            shown[key] = f"{summary[key]:,}" if key in summary else None
        rows.append([shown.get(key) for key in keys])
    return common.table(head, rows)


if __name__ == "__main__":
    main()

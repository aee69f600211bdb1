"""Evaluates a run's best checkpoint on a split.

python -m dist_fm.evaluate --run=DIR [--data=DIR] [--split=test] [--scores=FILE.npz|FILE.csv] [--devices=N]
    [--platform=auto|cpu|gpu] [--quiet]

--scores writes what the metrics are computed from, a row of the split each, in stored order: logit and probability
(with mse: prediction), label, weight, and, if the data set has groups, group.
With several hosts, as in training: under a launcher, or with --hosts=N --host=I --coordinator=ADDRESS:PORT.
"""

import csv
import json
import pathlib
import sys
from collections.abc import Mapping

import numpy as np

from data_tools.progress import quietly
from dist_fm.command import run_command
from dist_fm.data.shards import open_split
from dist_fm.errors import UserError
from dist_fm.files import replacing
from dist_fm.flags import WHERE_FLAGS, parse_own, where_to_run
from dist_fm.metrics.calibration import probabilities
from dist_fm.parallel.hosts import first_decides, say
from dist_fm.run_dir import RunDir
from dist_fm.training.evaluation import ScoredRows, measure, score_split
from dist_fm.training.opening import check_split, data_of, open_best, open_mesh

_LINES_TOGETHER = 1 << 16


def main(arguments: list[str]) -> None:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return
    flags = parse_own(arguments, {"run": None, "data": "", "split": "test", "scores": "", **WHERE_FLAGS})
    run = RunDir.open(flags["run"])
    config, split = run.config(), check_split(flags["split"])
    scores = pathlib.Path(flags["scores"]) if flags["scores"] else None
    if scores is not None and (scores.suffix not in (".npz", ".csv") or not scores.parent.is_dir()):
        raise UserError(f"--scores={scores}: must be FILE.npz or FILE.csv in a directory that is there")
    data = data_of(run, flags["data"])
    where = where_to_run(flags)
    engine, state = open_best(run, open_mesh(where))
    with quietly(where.quiet), open_split(data, split) as store:
        rows = score_split(engine, state, store)
        metrics = measure(engine, rows, store)
        if scores is not None:
            first_decides(lambda: write_columns(scores, _columns(config.train.loss, rows, store.groups)))
    say(json.dumps({"split": split, "rows": len(rows.labels), **metrics}, indent=1))


def _columns(loss: str, rows: ScoredRows, groups: np.ndarray | None) -> dict[str, np.ndarray]:
    predicted = {"prediction": rows.logits}
    if loss == "bce":
        predicted = {"logit": rows.logits, "probability": probabilities(rows.logits)}
    return {**predicted, "label": rows.labels, "weight": rows.weights} | ({} if groups is None else {"group": groups})


def write_columns(path: pathlib.Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes ``columns`` [N], label among them, to ``path``, .npz or .csv, whole or not at all."""
    with replacing(path) as beside:
        if path.suffix == ".npz":
            np.savez(beside, **columns)  # type: ignore[arg-type]
            return
        with open(beside, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for first in range(0, len(columns["label"]), _LINES_TOGETHER):
                part = slice(first, first + _LINES_TOGETHER)
                writer.writerows(zip(*(_texts(column[part]) for column in columns.values()), strict=True))


def _texts(column: np.ndarray) -> list[str]:
    return [f"{number:.9g}" for number in column.tolist()] if column.dtype.kind == "f" else column.tolist()


if __name__ == "__main__":
    sys.exit(run_command(main))

"""Evaluates a run's best checkpoint on a split.

python -m dist_fm.evaluate --run=DIR [--data=DIR] [--split=test] [--devices=N] [--platform=auto|cpu|gpu]

With several hosts, as in training: under a launcher, or with --hosts=N --host=I --coordinator=ADDRESS:PORT.
"""

import json
import pathlib
import sys

from dist_fm.command import run_command
from dist_fm.data.schema import SchemaError, read_schema
from dist_fm.data.shards import open_split
from dist_fm.errors import UserError, nearest
from dist_fm.flags import WHERE_FLAGS, parse_own, where_to_run
from dist_fm.parallel.hosts import say
from dist_fm.run_dir import RunDir
from dist_fm.training.evaluation import evaluate
from dist_fm.training.opening import open_best, open_mesh

SPLITS = ("train", "valid", "test")


def main(arguments: list[str]) -> None:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return
    flags = parse_own(arguments, {"run": None, "data": "", "split": "test", **WHERE_FLAGS})
    run = RunDir.open(flags["run"])
    config = run.config()
    data = pathlib.Path(flags["data"] or config.data.path)
    if flags["split"] not in SPLITS:
        raise UserError(f"--split={flags['split']}: {nearest(flags['split'], SPLITS)}")
    schema, trained = read_schema(data), run.schema()
    if schema.fingerprint != trained.fingerprint:
        raise SchemaError(
            f"{data} has schema fingerprint {schema.fingerprint[:12]}, but {run.path} was trained on "
            f"{trained.fingerprint[:12]} ({trained.name!r}): other fields or another vocabulary"
        )
    mesh = open_mesh(where_to_run(flags))
    engine, state = open_best(run, mesh)
    with open_split(data, flags["split"]) as store:
        metrics = evaluate(engine, state, store)
        say(json.dumps({"split": flags["split"], "rows": store.rows, **metrics}, indent=1))


if __name__ == "__main__":
    sys.exit(run_command(main))

"""The demo: ratings of a planted model -> data set -> DeepFM on four devices -> a table that says how close it came.

python -m dist_fm.demo [--rows=200000] [--work=runs/demo] [--quiet]
"""

import json
import pathlib
import shutil
import sys

from data_tools.cli import main as data_tools
from data_tools.progress import quietly
from dist_fm.command import run_command
from dist_fm.errors import UserError
from dist_fm.flags import load_config, parse_flags, parse_own, whole_number
from dist_fm.reporting.writing import after_training
from dist_fm.training.session import train

MODEL, DEVICES = "deepfm", 4


def main(arguments: list[str]) -> None:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return
    flags = parse_own(arguments, {"rows": "200000", "work": "runs/demo", "quiet": "false"})
    rows, work = whole_number("rows", flags["rows"]), pathlib.Path(flags["work"])
    raw, data, run = work / "ratings.dat", work / "data", work / MODEL
    settings = (
        *(f"--data={data}", f"--model={MODEL}", f"--devices={DEVICES}", f"--output_dir={run}"),
        *("--epochs=15", "--batch_size=1024", "--lr=3e-3", "--embed_dim=8", "--l2_embedding=3e-5"),
        *("--train.patience=2", "--train.plateau_factor=0.3", "--train.monitor=logloss", f"--quiet={flags['quiet']}"),
    )
    config = load_config(None, parse_flags(settings)[0])
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with quietly(config.run.quiet):
        _tool("synth", "--kind=movielens", f"--rows={rows}", f"--output={raw}")
        _tool("build-lmdb", "--format=movielens-1m", f"--input={raw}", f"--output={data}")
        result = train(config, at_end=after_training)
    planted = json.loads(raw.with_name(raw.name + ".planted.json").read_text(encoding="utf-8"))
    print(table(result, planted, run))


def _tool(*arguments: str) -> None:
    print("$ data_tools " + " ".join(arguments), flush=True)
    if data_tools(list(arguments)):
        raise UserError("the demo stopped at the command above")


def table(result: dict, planted: dict, run: pathlib.Path) -> str:
    """What was trained, how well, and how well it could have gone."""
    valid, test = result["valid"], result["test"]
    rows = [
        ("model", f"{result['model']} on {result['devices']}"),
        ("epochs", f"{result['steps']} steps, best epoch {result['best_epoch']}"),
        ("valid", f"AUC {valid['auc']:.4f}   log loss {valid['logloss']:.4f}"),
        ("test", f"AUC {test['auc']:.4f}   log loss {test['logloss']:.4f}"),
        ("best reachable", f"AUC {planted['auc']:.4f}   log loss {planted['logloss']:.4f}   (the planted model's own)"),
        ("speed", f"{result['train_samples_per_s']:,} samples/s in training"),
        ("run", str(run)),
    ]
    line = "-" * 78
    return "\n".join([line, *(f"{name:<15} {value}" for name, value in rows), line])


if __name__ == "__main__":
    sys.exit(run_command(main))

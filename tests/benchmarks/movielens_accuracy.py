"""Accuracy of all models on MovieLens ratings: test AUC and log loss, mean over seeds, as a Markdown table.

    python tests/benchmarks/movielens_accuracy.py --input=ratings.dat --work=DIR [--init=torchfm] [--models=fm,deepfm]

A seed draws the 80/10/10 split and the weights. Adam 1e-3, L2 1e-6, batches of 2,048, at most 12 epochs, the best epoch
on the validation split is tested; torchfm's sizes. Finished runs are not trained again, so it can be interrupted.
"""

import argparse
import json
import pathlib

import numpy as np

from data_tools.cli import main as data_tools
from dist_fm.data.records import RecordLayout
from dist_fm.data.schema import read_schema
from dist_fm.data.store import BlockStore
from dist_fm.flags import load_config, parse_flags
from dist_fm.metrics.auc import auc
from dist_fm.models import MODELS
from dist_fm.training.session import train

SETTINGS = ("--batch_size=2048", "--epochs=12", "--lr=1e-3", "--l2_embedding=1e-6", "--l2_network=1e-6", "--quiet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True)
    parser.add_argument("--format", default="movielens-1m")
    parser.add_argument("--work", required=True, help="directory for data sets and runs")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--init", default="default", choices=("default", "torchfm"))
    parser.add_argument("--config", help="train this configuration instead of the models")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--devices", type=int, default=1)
    options = parser.parse_args()
    work = pathlib.Path(options.work)
    data = [build(options, work / f"data-{seed}", seed) for seed in range(options.seeds)]

    head = ["model", "parameters", "test AUC", "test log loss", "valid AUC", "best epochs", "samples/s", "seconds"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    bias = [biases(directory) for directory in data]
    print(
        f"| item and user bias | | {mean_and_spread([b[0] for b in bias])} | {np.mean([b[1] for b in bias]):.4f} "
        "| | | | |"
    )
    for model in [options.config] if options.config else options.models.split(","):
        results = [run(options, model, directory, seed, work) for seed, directory in enumerate(data)]
        tests = [result["test"] for result in results]
        epochs = ", ".join(str(result["best_epoch"]) for result in results)
        print(
            f"| {pathlib.Path(model).stem} | {results[0]['parameters']:,} "
            f"| {mean_and_spread([t['auc'] for t in tests])} "
            f"| {np.mean([t['logloss'] for t in tests]):.4f} | {np.mean([r['valid']['auc'] for r in results]):.4f} "
            f"| {epochs} | {np.median([r['train_samples_per_s'] for r in results]):,.0f} "
            f"| {np.median([r['train_seconds'] for r in results]):.0f} |",
            flush=True,
        )


def build(options: argparse.Namespace, directory: pathlib.Path, seed: int) -> pathlib.Path:
    code = data_tools(
        [
            "build-lmdb",
            f"--format={options.format}",
            f"--input={options.input}",
            f"--output={directory}",
            f"--seed={seed}",
        ]
    )
    if code:
        raise SystemExit(code)
    return directory


def run(options: argparse.Namespace, model: str, data: pathlib.Path, seed: int, work: pathlib.Path) -> dict:
    name = f"{pathlib.Path(model).stem}-{options.init}-{seed}"
    flags = [f"--data={data}", f"--seed={seed}", f"--output_dir={work / name}", f"--devices={options.devices}"]
    if options.config:
        flags += ["--quiet"]
    else:
        flags += [*SETTINGS, f"--model={model}", f"--model.init={options.init}"]
        flags += ["--data.unseen_rate=0"] if options.init == "torchfm" else []
    result = train(load_config(options.config, parse_flags(flags)[0]))
    (work / f"{name}.json").write_text(json.dumps(result))
    return result


def biases(data: pathlib.Path) -> tuple[float, float]:
    """Test AUC and log loss of mean + user bias + item bias, each shrunk; the shrinkage is chosen on valid."""
    schema = read_schema(data)
    layout, splits = RecordLayout.for_schema(schema), {}
    for split in ("train", "valid", "test"):
        store = BlockStore(data / f"{split}.lmdb")
        words = store.slice(0, store.rows)
        splits[split] = layout.ids(words), layout.labels(words).astype(np.float64)

    def predict(shrinkage: float, split: str) -> np.ndarray:
        ids, labels = splits["train"]
        mean = labels.mean()
        bias = np.zeros(schema.num_rows)
        for column in (1, 0):
            rest = labels - mean - bias[ids].sum(1)
            total = np.bincount(ids[:, column], rest, schema.num_rows)
            bias += total / (np.bincount(ids[:, column], minlength=schema.num_rows) + shrinkage)
        return np.clip(mean + bias[splits[split][0]].sum(1), 0.01, 0.99)

    best = max((5.0, 10.0, 20.0, 40.0), key=lambda s: auc(splits["valid"][1], predict(s, "valid")) or 0)
    labels, scores = splits["test"][1], predict(best, "test")
    logloss = -np.mean(labels * np.log(scores) + (1 - labels) * np.log(1 - scores))
    return auc(labels, scores) or 0.0, float(logloss)


def mean_and_spread(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values):.4f}"


if __name__ == "__main__":
    main()

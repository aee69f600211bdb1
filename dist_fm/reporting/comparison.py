"""Several runs beside each other: what differs in their settings, their metrics, their curves."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dist_fm.reporting.charts import Chart, Series, draw
from dist_fm.reporting.findings import Findings

_MORE_IS_BETTER = ("auc", "pr_auc", "gauc", "ndcg", "recall", "hr")
_LESS_IS_BETTER = ("logloss", "ne", "ece", "rmse", "mae")
_CURVES = {"auc": "AUC, valid", "logloss": "Log loss, valid", "rmse": "RMSE, valid"}


@dataclasses.dataclass(frozen=True)
class Row:
    """``cells``: one a run; ``best``: the numbers of the runs whose cells are best."""

    name: str
    cells: list[str]
    best: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class Comparison:
    names: list[str]
    metrics: list[Row]
    settings: list[Row]
    charts: list[Chart]
    note: str


def run_names(runs: Sequence[Findings]) -> list[str]:
    """The shortest ends of the runs' paths that tell them apart."""
    paths = [run.path.resolve().parts for run in runs]
    for length in range(1, max(map(len, paths))):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [str(run.path) for run in runs]


def compare(runs: Sequence[Findings], names: list[str]) -> Comparison:
    """The test metrics of all ``runs``, the settings in which they differ, and their valid metrics over steps."""
    results = [run.result or {} for run in runs]
    tests: list[Mapping[str, float | None]] = [result.get("test", {}) for result in results]
    metrics = [_metric(name, [test.get(name) for test in tests]) for name in dict.fromkeys(n for t in tests for n in t)]
    about = {
        "best epoch": "best_epoch",
        "steps": "steps",
        "parameters": "parameters",
        "samples/s": "train_samples_per_s",
    }
    metrics += [Row(name, [_text(result.get(key)) for result in results]) for name, key in about.items()]
    settings = [_flat(run) for run in runs]
    keys = dict.fromkeys(key for one in settings for key in one)
    differ = [Row(key, [one.get(key, "") for one in settings]) for key in keys]
    charts = []
    for key, title in _CURVES.items():
        lines = [
            (name, run.history.valid[key].thinned())
            for name, run in zip(names, runs, strict=True)
            if key in run.history.valid
        ]
        if lines:
            charts.append(draw(title, [Series(name, line.steps, line.values) for name, line in lines], x="step"))
    note = "" if len({run.schema.fingerprint for run in runs}) == 1 else (
        "These runs were trained on data of different fields or vocabularies: their metrics may not compare."
    )  # fmt: skip
    return Comparison(names, metrics, [row for row in differ if len(set(row.cells)) > 1], charts, note)


def _metric(name: str, values: list[Any]) -> Row:
    known = {i: value for i, value in enumerate(values) if isinstance(value, float)}
    stem = name.split("@")[0]
    goodness = None
    if stem in _MORE_IS_BETTER:
        goodness = lambda value: value
    elif stem in _LESS_IS_BETTER:
        goodness = lambda value: -value
    elif stem == "calibration":
        goodness = lambda value: -abs(math.log(max(value, 1e-300)))
    best = max(map(goodness, known.values())) if goodness and known else None
    return Row(name, [_text(value) for value in values], frozenset(
        i for i, value in known.items() if goodness and goodness(value) == best
    ))  # fmt: skip


def _flat(run: Findings) -> dict[str, str]:
    sections = run.config.to_dict()
    return {
        f"{section}.{key}": str(value)
        for section, keys in sections.items()
        for key, value in keys.items()
        if section != "run"
    }


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.5f}" if isinstance(value, float) else f"{value:,}"

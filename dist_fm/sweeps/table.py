"""What the runs of a sweep found, as a CSV (a line a run) and as Markdown (a line a setting)."""

import csv
import io
import pathlib
import statistics
from typing import Any

from dist_fm.files import write_whole
from dist_fm.sweeps.grid import Run

_SHOWN = ("auc", "logloss", "rmse", "mae")  # in Markdown, besides what chooses the best; the CSV has all
_ABOUT = ("parameters", "best_epoch", "steps", "stopped_early", "train_seconds", "train_samples_per_s")


def write_tables(runs: list[Run], folder: pathlib.Path) -> str:
    """Writes sweep.csv and sweep.md of the finished ``runs`` into ``folder``; returns the latter."""
    found = [(run, result) for run in runs if (result := run.result())]
    folder.mkdir(parents=True, exist_ok=True)
    lines = [_line(run, result) for run, result in found]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_whole(folder / "sweep.csv", text.getvalue())
    markdown = _markdown(found)
    write_whole(folder / "sweep.md", markdown)
    return markdown


def _line(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    metrics = {f"{split}_{key}": value for split in ("valid", "test") for key, value in result[split].items()}
    about = {key: result[key] for key in _ABOUT}
    return {"setting": run.setting.name, **run.setting.values, "seed": run.seed, **about, **metrics}


def _markdown(found: list[tuple[Run, dict[str, Any]]]) -> str:
    """One line a setting, in order; the best on the validation split is bold."""
    settings: dict[str, list[tuple[Run, dict[str, Any]]]] = {}
    for run, result in found:
        settings.setdefault(run.setting.name, []).append((run, result))
    monitors = {run.setting.config.train.monitor for run, _ in found}
    tested = dict.fromkeys(name for _, result in found for name in result["test"] if name in {*_SHOWN, *monitors})
    scores = {name: _mean([run.value(result["valid"]) for run, result in of]) for name, of in settings.items()}
    known = [score for score in scores.values() if score is not None]
    columns = [
        "setting",
        "seeds",
        "parameters",
        "valid",
        *(f"test {name}" for name in tested),
        "best epochs",
        "seconds",
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, of in settings.items():
        results = [result for _, result in of]
        best = len(settings) > 1 and len(monitors) == 1 and known and scores[name] == max(known)
        cells = [
            f"**{name}**" if best else name,
            str(len(of)),
            f"{results[0]['parameters']:,}",
            _spread([run.value(result["valid"]) for run, result in of]),
            *(_spread([result["test"].get(metric) for result in results]) for metric in tested),
            ", ".join(str(result["best_epoch"]) for result in results),
            f"{statistics.mean(result['train_seconds'] for result in results):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean(values: list[float | None]) -> float | None:
    """None where one is undefined."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None


def _spread(values: list[float | None]) -> str:
    """`.98345 ± .00021`: mean and sample standard deviation; nothing where one is undefined."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return ""
    deviation = f" ± {statistics.stdev(known):.5f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.5f}{deviation}"

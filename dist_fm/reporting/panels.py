"""From findings to what the page shows of a run: charts, tables and bars. Axes: N rows."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dist_fm.config import Config, build_config
from dist_fm.explaining.tables import WORSE, deviation
from dist_fm.reporting.charts import COLOURS, Chart, Series, draw
from dist_fm.reporting.findings import Findings, FromRows
from dist_fm.reporting.history import Line
from dist_fm.reporting.row_charts import classification, regression

BARS = 20  # of fields, and of pairs
_STRETCHES = 40
PARTS = {
    "wait": "waiting for data",
    "step": "steps",
    "compile": "compiling",
    "evaluate": "evaluating the valid split",
    "save": "saving",
}


@dataclasses.dataclass(frozen=True)
class Bar:
    """``share``: its length, of 1."""

    name: str
    share: float
    text: str


@dataclasses.dataclass(frozen=True)
class Panel:
    """A part of the page under ``key``; ``absent``: why there is nothing in it."""

    key: str
    title: str
    note: str = ""
    charts: Sequence[Chart] = ()
    bars: Sequence[Bar] = ()
    absent: str = ""


def panels(found: Findings) -> list[Panel]:
    """Those of a run whose content is charts or bars, in the order of the page."""
    rows = found.from_rows
    is_mse = found.config.train.loss == "mse"
    titles = {
        "roc": "Predicted and actual" if is_mse else "ROC and precision-recall",
        "calibration": "Residuals by prediction" if is_mse else "Calibration",
        "scores": "Residuals" if is_mse else "Scores",
        "importance": "Field importance",
        "pairs": "Strongest pairs of fields",
    }
    if rows is None:
        absent = [
            Panel(key, title, absent=f"Needs the rows of the data set: {found.no_rows}")
            for key, title in titles.items()
        ]
        return [_curves(found), *absent, _time(found)]
    charts = regression(rows.scored) if is_mse else classification(rows.scored)
    notes = {"roc": _of(rows), "calibration": _of(rows), "scores": _of(rows)}
    drawn = [
        Panel(
            key, titles[key], notes[key] if charts[key] else "", charts[key], absent="" if charts[key] else _ONE_CLASS
        )
        for key in ("roc", "calibration", "scores")
    ]
    return [
        _curves(found),
        *drawn,
        _importance(rows, titles["importance"]),
        _pairs(rows, titles["pairs"]),
        _time(found),
    ]


_ONE_CLASS = "These rows have labels of one class alone."


def _of(rows: FromRows) -> str:
    """`all 3,915 rows of the test split`."""
    used, of = rows.rows.rows, rows.rows.of
    return f"From all {of:,} rows of the {rows.split} split." if used == of else (
        f"From {used:,} rows of the {rows.split} split's {of:,}, drawn at random."
    )  # fmt: skip


def _curves(found: Findings) -> Panel:
    train, valid, is_mse = found.history.train, found.history.valid, found.config.train.loss == "mse"
    best = found.result["best_step"] if found.result else None
    losses = []
    if "loss" in train:
        line = train["loss"].thinned()
        losses.append(Series("training", line.steps, np.sqrt(line.values) if is_mse else line.values))
    key, name = ("rmse", "RMSE") if is_mse else ("logloss", "Log loss")
    if key in valid:
        losses.append(_series("valid", valid[key], COLOURS[1]))
    charts = [draw(name, losses, x="step", mark=best)] if losses else []
    score, title = ("mae", "MAE, valid") if is_mse else ("auc", "AUC, valid")
    if score in valid:
        charts.append(draw(title, [_series("valid", valid[score], COLOURS[1])], x="step", mark=best))
    monitor = found.config.train.monitor
    for key in valid:
        if key.split("@")[0] == monitor and key not in ("auc", "logloss", "rmse", "mae"):
            charts.append(draw(f"{key}, valid", [_series("valid", valid[key], COLOURS[1])], x="step", mark=best))
    for key, title, colour in (
        ("lr", "Learning rate", COLOURS[2]),
        ("samples_per_s", "Samples/s in training", COLOURS[3]),
    ):
        if key in train:
            line = _rates(train[key]) if key == "samples_per_s" else train[key]
            charts.append(draw(title, [_series("training", line, colour)], x="step", from_zero=True))
    notes = []
    if best is not None and charts:
        notes.append(f"Dashed: the best step, {best:,} (epoch {found.result['best_epoch']}), whose weights are tested.")  # type: ignore[index]
    if "samples_per_s" in train:
        notes.append("Samples/s: of all the time that passed, with compiling, evaluating and saving.")
    if not train:
        notes.append(
            f"No line of training was written: run.log_steps = {found.config.run.log_steps} is more than its steps."
        )
    if found.config.data.negative_rate < 1:
        notes.append("The training loss is of the negatives that were kept, valid of all rows.")
    return Panel(
        "curves", "Curves", " ".join(notes), charts, absent="" if charts else "metrics.jsonl has no events yet."
    )


def _series(name: str, line: Line, colour: str) -> Series:
    line = line.thinned()
    return Series(name, line.steps, line.values, colour=colour)


def _rates(line: Line) -> Line:
    """Rates of few, long stretches: lines between two evaluations, which are short, would leave nothing to see."""
    times = Line(line.steps, 1 / np.maximum(line.values, 1e-3)).thinned(_STRETCHES)
    return Line(times.steps, 1 / times.values)


def _importance(rows: FromRows, title: str) -> Panel:
    found = rows.importance
    name = next(iter(found.worse))
    worse = found.worse[name]
    largest = max(float(worse.mean(axis=1).max()), 1e-12)
    bars = [
        Bar(
            found.fields[i],
            max(float(worse[i].mean()), 0) / largest,
            f"{worse[i].mean():.5f} ± {deviation(worse[i]):.5f}",
        )
        for i in found.ranked[:BARS]
    ]
    more = f" The first {BARS} of {len(found.fields)} fields." if len(found.fields) > BARS else ""
    note = (
        f"{_capital(WORSE[name])} when one field's values are dealt out anew among {found.rows:,} rows of the "
        f"{rows.split} split; mean and deviation of {worse.shape[1]} times.{more}"
    )
    return Panel("importance", title, note, bars=bars)


def _pairs(rows: FromRows, title: str) -> Panel:
    found = rows.pairs
    if found is None:
        return Panel("pairs", title, absent=_sentence(rows.no_pairs))
    chosen = found.ranked[:BARS]
    largest = max(float(found.strengths.max()), 1e-12)
    bars = [
        Bar(
            f"{found.names[i]} × {found.names[j]}",
            float(found.strengths[i, j]) / largest,
            f"{found.strengths[i, j]:.5f}",
        )
        for i, j in chosen
    ]
    more = f" The first {BARS} of {len(found.ranked)} pairs." if len(found.ranked) > BARS else ""
    return Panel("pairs", title, f"{_sentence(found.meaning)}{more}", bars=bars)


def _time(found: Findings) -> Panel:
    title, result = "Time", found.result
    seconds: dict[str, float] | None = (result or {}).get("seconds")
    if not result or not isinstance(seconds, dict):
        why = "the run is not finished" if result is None else "the version that made the run did not measure it"
        return Panel("time", title, absent=_sentence(f"no times of the parts of a step: {why}"))
    total, steps = sum(seconds.values()), max(result["steps"], 1)
    bars = [
        Bar(PARTS.get(name, name), s / max(total, 1e-12), f"{s:.2f} s, {1000 * s / steps:.2f} ms a step")
        for name, s in seconds.items()
    ]
    note = f"Of {total:.1f} s in the training loop, {result['steps']:,} steps; batches are read beside steps."
    return Panel("time", title, note, bars=bars)


def _sentence(text: str) -> str:
    return _capital(text) + "."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def changed_settings(config: Config) -> dict[str, dict[str, tuple[str, bool]]]:
    """Every setting by section, as text, and whether it differs from the default."""
    sections = config.to_dict()
    usual = build_config({"model": {"name": config.model_name}}, "the defaults").to_dict()
    return {
        section: {key: (str(value), value != usual[section].get(key)) for key, value in keys.items()}
        for section, keys in sections.items()
    }

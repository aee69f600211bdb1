"""The page: findings through a Jinja template, which escapes every value; no script, nothing from outside."""

import pathlib
from collections.abc import Sequence
from typing import Any

from dist_fm import __version__
from dist_fm.reporting.comparison import compare, run_names
from dist_fm.reporting.findings import Findings
from dist_fm.reporting.panels import changed_settings, panels

_TEMPLATE = "report.html.j2"
_LONGEST = 120  # characters of a raw value that are shown


def page(runs: Sequence[Findings]) -> str:
    """The whole HTML file of one run, or of several with their comparison in front."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["raw"] = _raw
    names = run_names(runs)
    described = [
        {
            "name": name,
            "found": run,
            "summary": _summary(run),
            "settings": changed_settings(run.config),
            "panels": panels(run),
        }
        for name, run in zip(names, runs, strict=True)
    ]
    comparison = compare(runs, names) if len(runs) > 1 else None
    return environment.get_template(_TEMPLATE).render(runs=described, comparison=comparison, version=__version__)


def _summary(run: Findings) -> list[tuple[str, str]]:
    result, schema = run.result or {}, run.schema
    counts = ", ".join(f"{split} {about['rows']:,}" for split, about in schema.counts.items() if "rows" in about)
    about: dict[str, Any] = {
        "Model": run.config.model_name,
        "Parameters": result.get("parameters"),
        "Data": f"{run.config.data.path} ({schema.name}), {schema.num_fields} fields, {schema.num_rows:,} table rows",
        "Rows": counts or None,
        "Loss": run.config.train.loss,
        "Steps": result.get("steps"),
        "Best": f"step {result['best_step']:,}, epoch {result['best_epoch']}" if result.get("best_step") else None,
        "Stopped early": "yes" if result.get("stopped_early") else None,
        "Devices": result.get("devices"),
        "Table": result.get("placement"),
        "Training": f"{result['train_samples_per_s']:,} samples/s, {result['train_seconds']:,.1f} s"
        if {"train_samples_per_s", "train_seconds"} <= result.keys()
        else None,
        "Made by": f"dist_fm {run.version or 'of an unknown version'}",
    }
    return [
        (name, f"{value:,}" if isinstance(value, int) else value) for name, value in about.items() if value is not None
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.5f}"


def _raw(value: str) -> str:
    """A raw value, cut where it is very long; what is empty is said to be."""
    return (value if len(value) <= _LONGEST else value[:_LONGEST] + "…") or "(missing)"

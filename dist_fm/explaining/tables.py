"""What was found, as lines of text and as plain JSON."""

from collections.abc import Sequence
from typing import Any

from dist_fm.explaining.importance import Importance
from dist_fm.explaining.neighbours import Neighbour
from dist_fm.explaining.pairs import Pairs

WORSE = {"auc": "AUC lost", "logloss": "log loss added", "rmse": "RMSE added"}


def importance_lines(found: Importance) -> list[str]:
    """A line a field, the most important first: mean and sample deviation over the repeats."""
    base = ", ".join(f"{name} {value:.5f}" for name, value in found.base.items())
    cells = [["field", *(f"{WORSE[name]:>19}" for name in found.worse)]]
    for field in found.ranked:
        spread = [f"{worse[field].mean():>8.5f} ± {deviation(worse[field]):.5f}" for worse in found.worse.values()]
        cells.append([found.fields[field], *(f"{text:>19}" for text in spread)])
    return [f"{found.rows:,} of {found.of:,} rows: {base}", *aligned(cells)]


def pairs_lines(found: Pairs, top: int) -> list[str]:
    """A line a pair, the strongest first."""
    cells = [["pair", "strength"]]
    for i, j in found.ranked[:top]:
        cells.append([f"{found.names[i]} x {found.names[j]}", f"{found.strengths[i, j]:.5f}"])
    return [found.meaning, *aligned(cells)]


def neighbour_lines(found: Sequence[Neighbour]) -> list[str]:
    cells = [["value", "  cosine", "       dot", "training rows"]]
    for one in found:
        count = "" if one.training_rows is None else f"{one.training_rows:>13,}"
        cells.append([repr(one.value), f"{one.cosine:>8.5f}", f"{one.dot:>10.5f}", count])
    return aligned(cells)


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def as_json(importance: Importance, pairs: Pairs | None) -> dict[str, Any]:
    """All of it, most important and strongest first."""
    found: dict[str, Any] = {
        "rows": importance.rows,
        "rows_of_split": importance.of,
        "metrics": dict(importance.base),
        "importance": [
            {"field": importance.fields[field]}
            | {
                name: {"mean": float(worse[field].mean()), "deviation": deviation(worse[field])}
                for name, worse in importance.worse.items()
            }
            for field in importance.ranked
        ],
    }
    if pairs is not None:
        found["pairs"] = [
            {"fields": [pairs.names[i], pairs.names[j]], "strength": float(pairs.strengths[i, j])}
            for i, j in pairs.ranked
        ]
        found["strength"] = pairs.meaning
    return found


def deviation(values: Any) -> float:
    """The sample standard deviation; 0 for one value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0

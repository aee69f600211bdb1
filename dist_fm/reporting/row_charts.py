"""Charts of scored rows: how good probabilities, or predicted numbers, are. Axes: N rows."""

import numpy as np

from dist_fm.metrics.auc import auc, average_precision
from dist_fm.metrics.calibration import calibration_bins, probabilities
from dist_fm.metrics.curves import precision_recall_curve, roc_curve
from dist_fm.reporting.charts import GREY, Chart, Series, draw
from dist_fm.training.evaluation import ScoredRows

_HISTOGRAM, _SCATTER, _RESIDUAL_BINS = 40, 600, 20


def classification(rows: ScoredRows) -> dict[str, list[Chart]]:
    """ROC and precision-recall (none where there is one class), calibration, and the scores' histogram, by panel."""
    logits, labels, weights = rows
    scores = probabilities(logits)
    area, precision = auc(labels, logits, weights), average_precision(labels, logits, weights)
    curves = []
    if area is not None and precision is not None:
        diagonal = Series("by chance", np.array([0.0, 1.0]), np.array([0.0, 1.0]), "dashes", GREY)
        name = f"AUC {area:.4f}"
        curves.append(draw("ROC", [Series(name, *roc_curve(labels, logits, weights)), diagonal],
                           x="false positive rate", y="true positive rate", square=True))  # fmt: skip
        rate = float(np.average(labels, weights=weights))
        chance = Series(f"by chance {rate:.4f}", np.array([0.0, 1.0]), np.array([rate, rate]), "dashes", GREY)
        line = Series(f"PR-AUC {precision:.4f}", *precision_recall_curve(labels, logits, weights), "steps")
        curves.append(draw("Precision-recall", [line, chance], x="recall", y="precision", square=True))
    predicted, happened = calibration_bins(labels, logits, weights)
    top = np.array([0, max(predicted.max(), happened.max())])
    fit = [Series("20 bins of equal weight", predicted, happened), Series("perfect", top, top, "dashes", GREY)]
    edges = np.linspace(scores.min(), max(scores.max(), scores.min() + 1e-6), _HISTOGRAM + 1)
    bars = [
        Series(name, edges, _density(scores[of], weights[of], edges), "bars")
        for name, of in (("label 0", labels <= 0.5), ("label 1", labels > 0.5))
        if weights[of].sum() > 0
    ]
    return {
        "roc": curves,
        "calibration": [draw("Calibration", fit, x="mean prediction", y="mean label")],
        "scores": [draw("Predicted probabilities", bars, x="probability", y="density, by label")],
    }


def _density(scores: np.ndarray, weights: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(scores, edges, weights=weights.astype(np.float64), density=True)[0]


def regression(rows: ScoredRows) -> dict[str, list[Chart]]:
    """Some predictions and their labels, residuals by prediction, and the residuals' histogram, by panel."""
    predicted, labels, weights = (part.astype(np.float64) for part in rows)
    residuals = labels - predicted
    some = np.sort(np.random.default_rng(0).permutation(len(labels))[:_SCATTER])
    ends = np.array([min(predicted.min(), labels.min()), max(predicted.max(), labels.max())])
    points = Series(f"{len(some):,} rows", predicted[some], labels[some], "points")
    order = np.argsort(predicted, kind="stable")
    bins = [part for part in np.array_split(order, _RESIDUAL_BINS) if weights[part].sum() > 0]
    mean = lambda values, part: float(np.average(values[part], weights=weights[part]))
    centres = np.array([mean(predicted, part) for part in bins])
    means = np.array([mean(residuals, part) for part in bins])
    spread = np.sqrt([mean((residuals - m) ** 2, part) for m, part in zip(means, bins, strict=True)])
    lines = [
        Series("mean of 20 bins of equal rows", centres, means),
        Series(
            "one deviation more or less",
            np.r_[centres, np.nan, centres],
            np.r_[means - spread, np.nan, means + spread],
            "dashes",
            GREY,
        ),
    ]
    edges = np.linspace(residuals.min(), max(residuals.max(), residuals.min() + 1e-6), _HISTOGRAM + 1)
    bars = [Series("label - prediction", edges, _density(residuals, weights, edges), "bars")]
    return {
        "roc": [
            draw(
                "Predicted and actual",
                [points, Series("perfect", ends, ends, "dashes", GREY)],
                x="prediction",
                y="label",
            )
        ],
        "calibration": [draw("Residuals by prediction", lines, x="prediction", y="label - prediction")],
        "scores": [draw("Residuals", bars, x="label - prediction", y="density")],
    }

"""What the planted models share. Axes: N rows, F fields."""

import dataclasses
import statistics
from collections.abc import Callable

import numpy as np

from data_tools.synth.metrics import auc


@dataclasses.dataclass(frozen=True)
class Draw:
    """Rows drawn from a planted model: ``probabilities`` float64 [N], ``labels`` bool [N], and the rows as ``text``."""

    probabilities: np.ndarray
    labels: np.ndarray
    text: str


def zipf_edges(count: int, shift: float, exponent: float = 1.0) -> np.ndarray:
    """Cumulative probabilities of a Zipf-Mandelbrot law over ``count`` values, the most frequent first."""
    weights = (shift + np.arange(count)) ** -exponent
    return np.cumsum(weights) / weights.sum()


def draw_index(edges: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Indices [N] into values with cumulative probabilities ``edges``."""
    return np.minimum(np.searchsorted(edges, rng.random(rows), side="right"), len(edges) - 1)


def calibrate(scores: np.ndarray, rate: float, auc_wanted: float) -> tuple[float, float]:
    """The scale and bias with which sigmoid(scale x scores + bias) has this mean and this AUC over ``scores`` [N]."""

    def bias_for(scale: float) -> float:
        return _bisect(lambda bias: sigmoid(scale * scores + bias).mean() < rate, -30.0, 30.0)

    def is_weak(scale: float) -> bool:
        probabilities = sigmoid(scale * scores + bias_for(scale))
        return auc(probabilities, probabilities) < auc_wanted  # each row is a positive to the degree it is likely to be

    scale = _bisect(is_weak, 0.01, 10.0)
    return scale, bias_for(scale)


def _bisect(is_below: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(18):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return (low + high) / 2


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def spread_normal(count: int, step: float, start: float) -> np.ndarray:
    """``count`` numbers of a standard normal law, evenly spread whatever run of them is taken: float64 [count].

    The few most frequent values then weigh about alike for every seed. ``step`` is an irrational number.
    """
    quantiles = (start + step * np.arange(1, count + 1)) % 1.0
    normal = statistics.NormalDist()
    return np.array([normal.inv_cdf(quantile) for quantile in quantiles.clip(1e-4, 1 - 1e-4)])

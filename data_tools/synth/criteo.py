"""Click rows in Criteo's raw format from a planted FM over 39 tokens, counts being tokens after log-squared binning."""

import math

import numpy as np

from data_tools.synth.base import Draw, draw_index, sigmoid, spread_normal, zipf_edges

_NUM_COUNTS = 13
# Values of C1 to C26.
_SIZES = (20, 40, 10_000, 50, 30, 8, 60, 30, 3, 1_000, 40, 80, 25, 15, 40, 50, 10, 20, 25, 4, 2_000, 12, 15, 50, 20, 20)
_MISSING = {0: 0.35, 2: 0.2, 3: 0.2, 9: 0.4, 11: 0.3, 18: 0.1, 31: 0.3, 32: 0.3, 34: 0.15, 37: 0.25}
# Fields whose pairs interact: of few values, so that their factors can be learnt.
_INTERACTING = (18, 21, 29, 32, 34)
_FACTORS = 3
_STEPS = tuple(math.sqrt(prime) for prime in (2, 3, 5, 7))  # of a field's weights and of its factors
_POSITIVE_RATE = 0.2
_LATE_VALUES = 0.2  # of the rarer half of a category of 1,000 values or more: absent from the first rows
_HALF_WEIGHT_ROWS = 200  # a value of so few rows has half its weight: rarer ones nobody could learn

_SMALLEST, _LARGEST = -3, 1_000_000  # of a count
_BIN_SHIFT = 2 - _SMALLEST
_COUNT_VALUES = np.arange(_SMALLEST, _LARGEST + 1)
_BINS = np.where(_COUNT_VALUES > 2, np.log(np.maximum(_COUNT_VALUES, 1)) ** 2, _COUNT_VALUES - 2).astype(np.int64)


class Criteo:
    """logit = bias + sum of token weights + sum over pairs of interacting fields of <v_i, v_j>; 20 % positive.

    Counts are heavy-tailed and now and then negative, categories follow Zipf laws over 3 to 10,000 values, some of
    which only occur in later rows; cells of ten columns are missing in 10 to 40 % of the rows.
    """

    def __init__(self, rows: int, seed: int):
        rng = np.random.default_rng([seed, 0])
        self._rows = rows
        self._fields: list[_Count | _Category] = [_Count(number, rng) for number in range(_NUM_COUNTS)]
        self._fields += [_Category(_NUM_COUNTS + number, size, rows, rng) for number, size in enumerate(_SIZES)]
        self._bias = 0.0
        logits = np.sort(self._draw_cells(0, min(rows, 100_000), rng)[2])
        low, high = -20.0, 20.0
        for _ in range(50):
            self._bias = (low + high) / 2
            low, high = (low, self._bias) if sigmoid(logits + self._bias).mean() > _POSITIVE_RATE else (self._bias, high)

    def about(self) -> dict[str, int]:
        return {"fields": len(self._fields), "interacting_fields": len(_INTERACTING), "factors": _FACTORS}

    def draw(self, first_row: int, rows: int, rng: np.random.Generator) -> Draw:
        cells, ids, logits = self._draw_cells(first_row, rows, rng)
        probabilities = sigmoid(logits + self._bias)
        labels = rng.random(rows) < probabilities
        lines = map("\t".join, zip(np.where(labels, "1", "0").tolist(), *cells, strict=True))
        return Draw(probabilities, labels, "\n".join(lines) + "\n", ids)

    def _draw_cells(self, first_row: int, rows: int, rng: np.random.Generator):
        """Per field the raw cells (N strings), and the rows' logits without the bias float64 [N]."""
        ages = (first_row + np.arange(rows)) / self._rows
        logits = np.zeros(rows)
        sums = np.zeros((rows, _FACTORS))
        squares = np.zeros((rows, _FACTORS))
        columns = []
        ids=[]; off=0
        for number, field in enumerate(self._fields):
            tokens, cells = field.draw(ages, rng)
            missing = rng.random(rows) < _MISSING.get(number, 0.0)
            tokens[missing] = len(field.weights) - 1
            for row in np.flatnonzero(missing).tolist():
                cells[row] = ""
            columns.append(cells)
            ids.append(tokens+off); off+=len(field.weights)
            logits += field.weights[tokens]
            if number in _INTERACTING:
                factors = field.factors[tokens]
                sums += factors
                squares += factors**2
        self.R=off
        return columns, np.stack(ids,1), logits + 0.5 * (sums**2 - squares).sum(axis=1)


class _Count:
    """A count: floor of a log-normal number, less 1, now and then less 4. Tokens are its bins, the last is missing."""

    def __init__(self, number: int, rng: np.random.Generator):
        self._mean, self._spread = 0.5 + 0.25 * number, 0.9 + 0.03 * number
        typical = np.arange(_BINS[-1] + _BIN_SHIFT + 1) - _BIN_SHIFT
        typical = np.where(typical > 0, np.exp(np.sqrt(np.maximum(typical, 0))), typical + 2.0)
        position = ((np.log(np.maximum(typical + 1.5, 0.5)) - self._mean) / self._spread).clip(-2, 2)
        slopes = rng.choice([-1.0, 1.0], 1 + _FACTORS)
        self.weights = np.append(0.135 * slopes[0] * position, 0.2)
        self.factors = np.append(np.outer(position, 0.22 * slopes[1:]), np.full((1, _FACTORS), 0.1), axis=0)

    def draw(self, ages: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
        values = np.exp(rng.normal(self._mean, self._spread, len(ages))).clip(0, _LARGEST).astype(np.int64) - 1
        values[rng.random(len(ages)) < 0.002] -= 2
        return _BINS[values - _SMALLEST] + _BIN_SHIFT, list(map(str, values.tolist()))


class _Category:
    """A category of ``size`` values, as 8 hexadecimal digits. Tokens are the values by frequency; the last is missing."""

    def __init__(self, number: int, size: int, rows: int, rng: np.random.Generator):
        self._edges = zipf_edges(size, 3.0, 1.2 if size < 500 else 2.0)
        self._names = np.array([f"{(7_919 * number + 2_654_435_761 * value) % 2**32:08x}" for value in range(size)], object)
        self._births = np.zeros(size)
        if size >= 1000:
            late = rng.random(size - size // 2) < _LATE_VALUES
            self._births[size // 2 :] = np.where(late, rng.random(len(late)), 0.0)
        expected = rows * np.diff(self._edges, prepend=0.0)
        learnable = np.append(expected / (expected + _HALF_WEIGHT_ROWS), 1.0)
        spread = [spread_normal(size + 1, step, rng.random()) * learnable for step in _STEPS]
        self.weights = 0.22 * spread[0]
        self.factors = 0.43 * np.stack(spread[1:], axis=1)

    def draw(self, ages: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
        tokens = draw_index(self._edges, len(ages), rng)
        unborn = self._births[tokens] > ages
        tokens[unborn] //= 4  # a value of the more frequent half
        return tokens, self._names[tokens].tolist()

"""Click rows in Criteo's raw format from a planted FM over 39 tokens, counts being tokens after log-squared binning."""

import math

import numpy as np

from data_tools.synth.base import Draw, calibrate, draw_index, sigmoid, spread_normal, zipf_edges

_NUM_COUNTS = 13
# Values of C1 to C26.
_SIZES = (20, 40, 10_000, 50, 30, 8, 60, 30, 3, 1_000, 40, 80, 25, 15, 40, 50, 10, 20, 25, 4, 2_000, 12, 15, 50, 20, 20)
_MISSING = {0: 0.35, 2: 0.2, 3: 0.2, 9: 0.4, 11: 0.3, 18: 0.1, 31: 0.3, 32: 0.3, 34: 0.15, 37: 0.25}
# Fields whose pairs interact: of few values, so that their factors can be learnt.
_INTERACTING = (18, 21, 29, 32, 34)
_FACTORS = 3
_STEPS = tuple(math.sqrt(prime) for prime in (2, 3, 5, 7))  # of a field's weights and of its factors
_POSITIVE_RATE = 0.2
_AUC = 0.83
_LATE_VALUES = 0.3  # of a category of 1,000 values or more, its most frequent ones apart: absent from the first rows
_ALWAYS_THERE = 16
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
        self._fields: list[_Field] = [_Count(number, rng) for number in range(_NUM_COUNTS)]
        self._fields += [_Category(_NUM_COUNTS + number, size, rows, rng) for number, size in enumerate(_SIZES)]
        scores = np.concatenate([self._scores(self._draw_tokens(age, 5_000, rng)) for age in np.linspace(0, 1, 10)])
        self._scale, self._bias = calibrate(scores, _POSITIVE_RATE, _AUC)

    def about(self) -> dict[str, int]:
        return {"fields": len(self._fields), "interacting_fields": len(_INTERACTING), "factors": _FACTORS}

    def draw(self, first_row: int, rows: int, rng: np.random.Generator) -> Draw:
        drawn = self._draw_tokens((first_row + np.arange(rows)) / self._rows, rows, rng)
        probabilities = sigmoid(self._scale * self._scores(drawn) + self._bias)
        labels = rng.random(rows) < probabilities
        columns = [field.cells(tokens, raw) for field, (tokens, raw) in zip(self._fields, drawn, strict=True)]
        lines = map("\t".join, zip(np.where(labels, "1", "0").tolist(), *columns, strict=True))
        return Draw(probabilities, labels, "\n".join(lines) + "\n")

    def _draw_tokens(self, ages, rows: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per field the tokens [N], and what they stand for, of rows ``ages`` (from 0 to 1) into the file."""
        drawn = []
        for number, field in enumerate(self._fields):
            tokens, raw = field.draw(ages, rows, rng)
            tokens[rng.random(rows) < _MISSING.get(number, 0.0)] = field.missing
            drawn.append((tokens, raw))
        return drawn

    def _scores(self, drawn: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """float64 [N]; times the scale (w times it, v times its root) and plus the bias, the logits."""
        scores = sum(field.weights[tokens] for field, (tokens, _) in zip(self._fields, drawn, strict=True))
        factors = [self._fields[number].factors[drawn[number][0]] for number in _INTERACTING]
        squares = sum(factor**2 for factor in factors)
        return scores + 0.5 * (sum(factors) ** 2 - squares).sum(axis=1)


class _Field:
    """A column: what it draws, and the weight [T] and factors [T, K] of each of its T tokens, the last for missing."""

    weights: np.ndarray
    factors: np.ndarray

    @property
    def missing(self) -> int:
        return len(self.weights) - 1

    def draw(self, ages, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def cells(self, tokens: np.ndarray, raw: np.ndarray) -> list[str]:
        """What the file says."""
        raise NotImplementedError


class _Count(_Field):
    """The floor of a log-normal number, less 1, now and then less 3. Tokens are its log-squared bins."""

    def __init__(self, number: int, rng: np.random.Generator):
        self._mean, self._spread = 0.5 + 0.25 * number, 0.9 + 0.03 * number
        typical = np.arange(_BINS[-1] + _BIN_SHIFT + 1) - _BIN_SHIFT
        typical = np.where(typical > 0, np.exp(np.sqrt(np.maximum(typical, 0))), typical + 2.0)
        position = ((np.log(np.maximum(typical + 1.5, 0.5)) - self._mean) / self._spread).clip(-2, 2)
        slopes = rng.choice([-1.0, 1.0], 1 + _FACTORS)
        self.weights = np.append(0.135 * slopes[0] * position, 0.2)
        self.factors = np.append(np.outer(position, 0.2 * slopes[1:]), np.full((1, _FACTORS), 0.1), axis=0)

    def draw(self, ages, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        values = np.exp(rng.normal(self._mean, self._spread, rows)).clip(0, _LARGEST).astype(np.int64) - 1
        values[rng.random(rows) < 0.002] -= 2
        return _BINS[values - _SMALLEST] + _BIN_SHIFT, values

    def cells(self, tokens: np.ndarray, raw: np.ndarray) -> list[str]:
        cells = list(map(str, raw.tolist()))
        for row in np.flatnonzero(tokens == self.missing).tolist():
            cells[row] = ""
        return cells


class _Category(_Field):
    """One of ``size`` values, written as 8 hexadecimal digits. Tokens are the values, the most frequent first."""

    def __init__(self, number: int, size: int, rows: int, rng: np.random.Generator):
        self._edges = zipf_edges(size, 3.0, 1.2) if number in _INTERACTING else zipf_edges(size, 2.0, 2.5)
        names = [f"{(7_919 * number + 2_654_435_761 * value) % 2**32:08x}" for value in range(size)]
        self._names = np.array([*names, ""], object)
        self._births = np.zeros(size)
        if size >= 1_000:
            late = rng.random(size - _ALWAYS_THERE) < _LATE_VALUES
            self._births[_ALWAYS_THERE:] = np.where(late, rng.random(len(late)), 0.0)
        expected = rows * np.diff(self._edges, prepend=0.0)
        learnable = np.append(expected / (expected + _HALF_WEIGHT_ROWS), 1.0)
        spread = [spread_normal(size + 1, step, rng.random()) * learnable for step in _STEPS]
        self.weights = 0.22 * spread[0]
        self.factors = 0.43 * np.stack(spread[1:], axis=1)

    def draw(self, ages, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        tokens = draw_index(self._edges, rows, rng)
        unborn = self._births[tokens] > ages
        tokens[unborn] %= _ALWAYS_THERE
        return tokens, tokens

    def cells(self, tokens: np.ndarray, raw: np.ndarray) -> list[str]:
        return self._names[tokens].tolist()

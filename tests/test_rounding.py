"""Stochastic rounding to bfloat16: unbiased, within the two neighbours, its bits independent and a row's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dist_fm.tables.rounding import _random_bits, stochastic_round

MULTIPLIER = 24_918_857  # physical rows are multiples of such a number, see TableSpec
STANDARD_ERRORS = 5.0


@jax.jit
def round_(x, rows, step):
    return stochastic_round(x, rows, 7, step)


def bits(x):
    return np.asarray(x).view({2: np.uint16, 4: np.uint32}[x.dtype.itemsize]).astype(np.int64)


def hashes(rows, width=17, seed=7, step=0):
    """The 16 bits that are used, uniform on [0, 1)."""
    return np.asarray(_random_bits(jnp.asarray(rows, jnp.int32), width, seed, jnp.int32(step)) >> 16) / 2**16


def test_what_bfloat16_can_say_is_unchanged():
    every = np.arange(1 << 16, dtype=np.uint32).reshape(256, 256) << 16
    x = every.view(np.float32)
    for step in range(3):
        rounded = round_(x, np.arange(256), step)
        assert rounded.dtype == jnp.bfloat16
        np.testing.assert_array_equal(bits(rounded)[~np.isnan(x)], (every >> 16)[~np.isnan(x)])
        assert np.isnan(np.asarray(rounded, np.float32)[np.isnan(x)]).all()


def test_a_number_goes_to_a_neighbour_and_beyond_the_largest_it_is_cast():
    """Random bit patterns, so all exponents; and those around the largest number, infinity and NaN."""
    patterns = np.random.default_rng(0).integers(0, 1 << 32, (2048, 64), dtype=np.uint32)
    patterns[:, :8] = patterns[:, :8] & 0x8000FFFF | 0x7F7F0000
    patterns[:, 8:16] = patterns[:, 8:16] & 0x8000FFFF | 0x7F800000
    patterns[:, 16:24] |= 0x7FFFFF00
    x = patterns.view(np.float32)
    rounded, cast = bits(round_(x, np.arange(2048), 0)), bits(jnp.asarray(x).astype(jnp.bfloat16))
    beyond = (patterns & 0x7FFFFFFF) >= 0x7F7F0000
    assert beyond.sum() > 2048 * 16
    np.testing.assert_array_equal(rounded[beyond], cast[beyond])
    below = bits(patterns) >> 16
    assert np.isin((rounded - below)[~beyond], (0, 1)).all()
    assert 0.45 < (rounded - below)[~beyond].mean() < 0.55


@pytest.mark.parametrize("x", [1.003, -1.003, 1.9999, -7.77, 3e-5, 1e-4 + 1, 3e30, 1.3e-38, 3.3e-40, -1e-43])
def test_rounding_is_unbiased(x):
    x = np.float32(x)
    low = bits(x) >> 16 << 16
    share_up = (bits(x) - low) / 2**16
    shape, steps = (4096, 16), 4
    ups = [
        bits(round_(np.full(shape, x), np.arange(4096) * MULTIPLIER % 40_320_000, step)) - (low >> 16)
        for step in range(steps)
    ]
    assert set(np.unique(ups)) <= {0, 1}
    n = np.size(ups)
    assert abs(np.mean(ups) - share_up) < STANDARD_ERRORS * np.sqrt(share_up * (1 - share_up) / n) + 1 / n


def test_200_small_updates_add_up():
    def update(step, weights):
        return round_(weights.astype(jnp.float32) + 1e-4, jnp.arange(1000), step)

    ones = jnp.ones((1000, 17), jnp.bfloat16)
    mean = np.asarray(jax.lax.fori_loop(0, 200, update, ones), np.float64).mean()
    gap, share = 2**-7, 1e-4 / 2**-7
    assert abs(mean - 1.02) < STANDARD_ERRORS * gap * np.sqrt(200 * share * (1 - share) / ones.size)
    assert (ones + jnp.bfloat16(1e-4) == 1).all()  # what a plain bfloat16 table would make of every one of them


@pytest.mark.parametrize("rows", ["consecutive", "physical", "high bits"])
def test_bits_are_uniform_and_independent(rows):
    row = np.arange(4096)
    rows = {"consecutive": row, "physical": row * MULTIPLIER % 40_320_000, "high bits": row << 16}[rows]
    draws = np.stack([hashes(rows, step=step) for step in range(8)])  # [steps, rows, columns]
    for byte in (draws * 256, draws * 65536):
        counts = np.bincount(byte.astype(np.int64).ravel() % 256, minlength=256)
        expected = draws.size / 256
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_square - 255) < STANDARD_ERRORS * np.sqrt(2 * 255)
    neighbours = [(draws[1:], draws[:-1]), (draws[:, 1:], draws[:, :-1]), (draws[:, :, 1:], draws[:, :, :-1])]
    neighbours += [(draws[1:, 1:], draws[:-1, :-1]), (draws[:, 1:, 1:], draws[:, :-1, :-1])]
    for seed in (8, 7 + (1 << 32)):
        neighbours.append((draws, np.stack([hashes(rows, seed=seed, step=step) for step in range(8)])))
    for a, b in neighbours:
        correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        assert abs(correlation) < STANDARD_ERRORS / np.sqrt(a.size)


def test_every_bit_is_fair_and_follows_no_single_input_bit():
    """Flipping one bit of row or step flips each of the 16 bits used half of the time."""
    rows = np.random.default_rng(0).integers(0, 1 << 31, 20_000)
    as_bits = lambda draws: np.unpackbits((draws[:, :1] * 2**16).astype(np.uint16).view(np.uint8), axis=1)
    base = as_bits(hashes(rows, width=1))
    changed = [as_bits(hashes(rows ^ (1 << k), width=1)) for k in range(31)]
    changed += [as_bits(hashes(rows, width=1, step=1 << k)) for k in range(31)]
    bound = 0.5 * (STANDARD_ERRORS + 0.5) / np.sqrt(len(rows))
    assert np.abs(base.mean(0) - 0.5).max() < bound
    for other in changed:
        assert np.abs((base ^ other).mean(0) - 0.5).max() < bound


def test_a_row_rounds_alike_wherever_it_lies_in_whatever_batch():
    rng = np.random.default_rng(1)
    x, rows = rng.normal(size=(500, 17)).astype(np.float32), rng.choice(40_320, 500, replace=False)
    whole = bits(round_(x, rows, 3))
    some = rng.permutation(500)[:123]
    np.testing.assert_array_equal(bits(round_(x[some], rows[some], 3)), whole[some])
    padded = np.pad(x, ((0, 12), (0, 0))), np.append(rows, 40_320 + np.arange(12))
    np.testing.assert_array_equal(bits(round_(*padded, 3))[:500], whole)
    np.testing.assert_array_equal(bits(round_(x, rows, 3)), whole)
    assert 0.3 < (bits(round_(x, rows, 4)) != whole).mean() < 0.37  # 2 p (1 - p) over uniform p: 1/3

"""Hashed random numbers: even, and unrelated from seed to seed, key to key and element to element."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dist_fm import hashing


def keys_of_rows(seed, rows):
    fold = jax.vmap(lambda row: jax.random.fold_in(hashing.key(seed), row))
    return fold(jnp.arange(rows))


def test_an_element_depends_on_key_and_place_alone():
    bits = lambda key, samples: jax.random.bits(key, (samples, 7), jnp.uint32)
    few = bits(hashing.key(3), 5)
    np.testing.assert_array_equal(few, bits(hashing.key(3), 9)[:5])
    np.testing.assert_array_equal(few, jax.jit(lambda key: bits(key, 5))(hashing.key(3)))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(few, bits(hashing.key(3), 5))


def test_seeds_of_64_bits_and_ways_of_deriving_keys_differ():
    keys = [hashing.key(seed) for seed in (0, 1, 2**31, 2**32, 2**32 + 1, 2**63 - 1)]
    keys += list(jax.random.split(keys[0], 4)) + [jax.random.fold_in(keys[0], i) for i in range(4)]
    keys += list(jax.random.split(jax.random.fold_in(keys[0], 0), 4))
    words = {np.asarray(jax.random.key_data(key)).tobytes() for key in keys}
    assert len(words) == len(keys)
    assert len({int(jax.random.bits(key)) for key in keys}) == len(keys)


def test_keys_are_given_as_flax_gives_them():
    words = lambda give: [np.asarray(jax.random.key_data(give())) for _ in range(3)]
    key = hashing.key(3)
    np.testing.assert_array_equal(words(hashing.Keys(key).params), words(nnx.Rngs(key).params))
    np.testing.assert_array_equal(words(hashing.Keys(key).dropout), words(nnx.Rngs(dropout=key).dropout))


def test_keys_of_many_rows_are_all_different():
    """In both words: two streams with the second word alike could hold the same numbers, at other places."""
    for word in np.asarray(jax.random.key_data(keys_of_rows(0, 1 << 20))).T:
        assert len(np.unique(word)) == 1 << 20


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_draws_of_rows_are_even_and_uncorrelated(seed):
    """Within five standard deviations of independent uniform draws, by bit, by bin, and between rows and columns."""
    rows, width = 1 << 16, 16
    bits = np.asarray(jax.vmap(lambda key: jax.random.bits(key, (width,)))(keys_of_rows(seed, rows)))
    for bit in range(32):
        assert abs((bits >> bit & 1).mean() - 0.5) < 5 * 0.5 / bits.size**0.5
    counts = np.bincount((bits >> 22).ravel(), minlength=1024)
    chi_square = ((counts - bits.size / 1024) ** 2 / (bits.size / 1024)).sum()
    assert abs(chi_square - 1023) < 5 * (2 * 1023) ** 0.5
    x = bits / 2**32 - 0.5
    for one, other in [(x[1:], x[:-1]), (x[8:], x[:-8]), (x[:, 1:], x[:, :-1]), (x[: rows // 2], x[rows // 2 :])]:
        assert abs((one * other).mean() * 12) < 5 / one.size**0.5
    other_seed = np.asarray(jax.vmap(lambda key: jax.random.bits(key, (width,)))(keys_of_rows(seed + 1, rows)))
    assert abs(((other_seed / 2**32 - 0.5) * x).mean() * 12) < 5 / x.size**0.5


def test_float64_draws_use_all_their_bits():
    with jax.enable_x64(True):
        draws = np.asarray(jax.random.uniform(hashing.key(5), (4096,), jnp.float64))
    low = (draws * 2**52).astype(np.int64) & 0xFFFF
    assert len(np.unique(low)) > 3800 and abs(np.corrcoef(draws, low)[0, 1]) < 5 / 64

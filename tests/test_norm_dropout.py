"""BatchNorm and dropout against what padding, devices and neighbours must not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import keys
from flax import nnx
from float64 import check, draw, randomized
from jax.sharding import NamedSharding, PartitionSpec

from dist_fm import hashing
from dist_fm.layers.batch_norm import BatchNorm
from dist_fm.layers.dropout import dropout, keep_mask

pytestmark = pytest.mark.usefixtures("float64")


def test_batch_norm_in_training_reads_only_real_samples():
    norm, x = randomized(BatchNorm(3)), draw(7, 3)
    mask = np.array([1, 1, 0, 1, 1, 1, 0.0])
    old_mean, old_var = norm.mean[...], norm.var[...]
    real = x[mask == 1]
    mean, var = real.mean(0), real.var(0)
    loop = (x - mean) / np.sqrt(var + 1e-5) * norm.scale[...] + norm.bias[...]
    check(norm(jnp.asarray(x), jnp.asarray(mask), train=True), loop)
    check(norm.mean[...], 0.9 * old_mean + 0.1 * mean)
    check(norm.var[...], 0.9 * old_var + 0.1 * real.var(0, ddof=1))


@pytest.mark.parametrize("shape", [(7, 3), (7, 4, 3)])
def test_batch_norms_gradient_is_that_of_its_formula(shape):
    """Where padding has a gradient too, as no model gives it."""
    x, weights = draw(*shape), draw(*shape, seed=1)
    scale, bias = draw(3, seed=2), draw(3, seed=3)
    real = np.array([1, 1, 0, 1, 1, 1, 0.0]) > 0
    axes = tuple(range(len(shape) - 1))

    def formula(x, scale, bias):
        mean, var = x[real].mean(axis=axes), x[real].var(axis=axes)
        return (((x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias) * weights).sum()

    def ours(x, scale, bias):
        norm = BatchNorm(3)
        norm.scale, norm.bias = nnx.Param(scale), nnx.Param(bias)
        return (norm(x, jnp.asarray(real, x.dtype), train=True) * weights).sum()

    arguments = [jnp.asarray(part) for part in (x, scale, bias)]
    expected, found = (jax.jit(jax.grad(function, argnums=(0, 1, 2)))(*arguments) for function in (formula, ours))
    for one, other in zip(found, expected, strict=True):
        check(one, other)


def test_batch_norm_of_one_sample_and_of_none_is_finite():
    for mask in ([1.0, 0.0], [0.0, 0.0]):
        norm = BatchNorm(3)
        assert np.isfinite(norm(jnp.asarray(draw(2, 3)), jnp.array(mask), train=True)).all()
        assert np.isfinite(norm.mean[...]).all() and np.isfinite(norm.var[...]).all()


def test_batch_norm_split_over_devices_equals_one_device():
    x, mask = draw(16, 3), np.array([1.0] * 11 + [0.0] * 5)

    @jax.jit
    def run(x, mask):
        norm = BatchNorm(3)
        y = norm(x, mask, train=True)
        return y, norm.mean[...], norm.var[...]

    mesh = jax.make_mesh((4,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    batch_axis = NamedSharding(mesh, PartitionSpec("device"))
    split = run(*jax.device_put((x, mask), batch_axis))
    assert len(split[0].sharding.device_set) == 4
    for one, four in zip(run(x, mask), split, strict=True):
        np.testing.assert_allclose(one, four, rtol=1e-13, atol=1e-14)


def test_batch_norm_keeps_bfloat16_activations_and_float32_statistics():
    norm = BatchNorm(2)
    norm.scale, norm.bias = nnx.Param(jnp.ones(2, jnp.bfloat16)), nnx.Param(jnp.zeros(2, jnp.bfloat16))
    # 1,000 numbers near 100: in bfloat16 the mean itself would be off by a half.
    x = jnp.asarray(100 + draw(1000, 2), jnp.bfloat16)
    assert norm(x, jnp.ones(1000), train=True).dtype == jnp.bfloat16
    assert norm.mean.dtype == jnp.float32
    np.testing.assert_allclose(norm.mean[...], 0.1 * np.asarray(x, np.float64).mean(0), rtol=1e-5)


def test_dropout_keeps_the_mean_and_is_off_at_evaluation():
    x = jnp.ones((200, 50))
    y = dropout(x, 0.25, train=True, rngs=keys())
    assert set(np.unique(y)) == {0, 1 / 0.75}
    assert abs(float((y == 0).mean()) - 0.25) < 0.02
    assert dropout(x, 0.25, train=False, rngs=None) is x
    assert dropout(x, 0.0, train=True, rngs=None) is x
    with pytest.raises(ValueError, match="rngs"):
        dropout(x, 0.25, train=True, rngs=None)


@pytest.mark.parametrize("shape", [(7,), (5, 3)])
def test_dropout_of_a_sample_depends_on_its_position_alone(shape):
    def drop(batch, dtype=np.float64):
        run = jax.jit(lambda x: dropout(x, 0.5, train=True, rngs=keys(3)))
        return np.asarray(run(np.ones((batch, *shape), dtype)))

    np.testing.assert_array_equal(drop(8), drop(13)[:8])
    with jax.enable_x64(False):
        float32 = drop(8, np.float32)
    np.testing.assert_array_equal(drop(8), float32)


def test_dropout_bits_are_independent_of_steps_neighbours_and_columns():
    """At rate 1/2, two masks agree on half of the elements: within five standard deviations of 2^20 coin flips."""
    steps = [jax.random.fold_in(hashing.key(1), step) for step in range(12)]
    masks = np.stack([keep_mask((1024, 1024), 0.5, train=True, rngs=hashing.Keys(key)) for key in steps])
    bound = 5 * 0.5 / 1024
    pairs = [(masks[i], masks[j]) for i in range(12) for j in range(i)]
    pairs += [(masks[0][1:], masks[0][:-1]), (masks[0][:, 1:], masks[0][:, :-1]), (masks[0], masks[0].T)]
    for one, other in pairs:
        assert abs((one == other).mean() - 0.5) < 1.5 * bound
    for axis in (1, 2):  # no row and no column is favoured
        assert abs(masks.mean(axis) - 0.5).max() < 5.5 * 0.5 / 32
    for rate in (0.01, 0.9):
        kept = keep_mask((1024, 1024), rate, train=True, rngs=keys(7)).mean()
        assert abs(kept - (1 - rate)) < bound

"""The dense layers' product of matrices, and how its gradient is made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dist_fm.layers.products import PLAIN, dot_general, in_bfloat16, matmul, sum_and_product

TALL, WIDE, SQUARE = (40, 8), (8, 40), (8, 8)


def draw(shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def product(x, w):
    return dot_general(x, w, PLAIN)


def value_and_gradients(product, x, w, weights, bf16=False):
    """The compiled function of all that a dense layer's step makes of ``x`` and ``w``."""

    def both(x, w):
        with in_bfloat16(bf16):
            return jax.value_and_grad(lambda x, w: (product(x, w) * weights).sum(), argnums=(0, 1))(x, w)

    return jax.jit(both).lower(x, w).compile()


def arguments(kernel):
    return draw((30, kernel[0]), 0), draw(kernel, 2), draw((30, kernel[1]), 1)


@pytest.mark.parametrize("kernel", [TALL, WIDE, SQUARE])
@pytest.mark.parametrize("bf16", [False, True])
def test_gradients_are_those_of_the_plain_product(kernel, bf16):
    x, w, weights = arguments(kernel)
    value, (by_x, by_w) = value_and_gradients(product, x, w, weights, bf16)(x, w)
    near = {"rtol": 2e-2, "atol": 0.2} if bf16 else {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(value, (x @ w * weights).sum(), **near)
    np.testing.assert_allclose(by_x, weights @ w.T, **near)
    np.testing.assert_allclose(by_w, x.T @ weights, **near)
    if bf16:
        assert np.abs(by_w - x.T @ weights).max() > 1e-3  # it is bfloat16 indeed


def test_a_tall_kernels_gradient_is_made_lying_down():
    """XLA's CPU backend makes [L, N] faster than [N, L], and takes a transpose into the product unless kept from it."""
    lying, standing = ("f32[8,40]{1,0} dot(", "f32[40,8]{0,1} dot("), "f32[40,8]{1,0} dot("
    text = value_and_gradients(product, *arguments(TALL)).as_text()
    assert any(dot in text for dot in lying) and standing not in text
    assert standing in value_and_gradients(jnp.matmul, *arguments(TALL)).as_text()  # else no way of our own is needed


def test_the_gradient_of_few_long_rows_is_not_turned():
    """A CIN's product, kernel @ products: the gradient of the products, [40, 8], is read row by row afterwards."""
    few = np.ones((5, 40), np.float32), np.ones((40, 8), np.float32), np.ones((5, 8), np.float32)
    standing = "f32[40,8]{1,0} dot("
    assert standing in value_and_gradients(matmul, *few).as_text()
    assert standing not in value_and_gradients(product, *few).as_text()  # as a kernel's


def sum_and_product_apart(x, kernel):
    return x.sum(axis=1), jnp.matmul(x.reshape(len(x), -1), kernel)


@pytest.mark.parametrize("units", [3, 40])  # a kernel [30, units]: tall, wide
@pytest.mark.parametrize("bf16", [False, True])
def test_sum_and_product_have_the_gradients_of_each_apart(units, bf16):
    x, kernel = draw((20, 5, 6), 0), draw((30, units), 1)
    weights = draw((20, 6), 2), draw((20, units), 3)

    def gradients(function):
        def total(x, kernel):
            return sum((part * weight).sum() for part, weight in zip(function(x, kernel), weights, strict=True))

        with in_bfloat16(bf16):
            return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(x, kernel)

    near = {"rtol": 2e-2, "atol": 0.3} if bf16 else {"rtol": 1e-5, "atol": 1e-5}
    (value, found), (expected_value, expected) = gradients(sum_and_product), gradients(sum_and_product_apart)
    np.testing.assert_allclose(value, expected_value, **near)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **near)


def test_bfloat16_leaves_the_sums_gradient_as_it_is():
    x, kernel, by_sum = draw((20, 5, 6), 0), draw((30, 3), 1), draw((20, 6), 2)
    with in_bfloat16(True):
        found = jax.grad(lambda x: (sum_and_product(x, kernel)[0] * by_sum).sum())(x)
    np.testing.assert_array_equal(found, np.broadcast_to(by_sum[:, None], x.shape))

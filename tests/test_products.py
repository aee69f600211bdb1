"""The dense layers' product of matrices, and how its gradient is made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dist_fm.layers.products import in_bfloat16, matmul

TALL, WIDE, SQUARE = (40, 8), (8, 40), (8, 8)


def draw(shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


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
    value, (by_x, by_w) = value_and_gradients(matmul, x, w, weights, bf16)(x, w)
    near = {"rtol": 2e-2, "atol": 0.2} if bf16 else {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(value, (x @ w * weights).sum(), **near)
    np.testing.assert_allclose(by_x, weights @ w.T, **near)
    np.testing.assert_allclose(by_w, x.T @ weights, **near)
    if bf16:
        assert np.abs(by_w - x.T @ weights).max() > 1e-3  # it is bfloat16 indeed


def test_a_tall_kernels_gradient_is_made_lying_down():
    """XLA's CPU backend makes [L, N] faster than [N, L], and takes a transpose into the product unless kept from it."""
    lying, standing = ("f32[8,40]{1,0} dot(", "f32[40,8]{0,1} dot("), "f32[40,8]{1,0} dot("
    text = value_and_gradients(matmul, *arguments(TALL)).as_text()
    assert any(dot in text for dot in lying) and standing not in text
    assert standing in value_and_gradients(jnp.matmul, *arguments(TALL)).as_text()  # else no way of our own is needed

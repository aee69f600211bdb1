"""ANOVA kernels: interactions of any order."""

import jax
import jax.numpy as jnp


def anova_kernels(x: jax.Array, order: int) -> list[jax.Array]:
    """The sums over all sets of t fields of their product, elementwise: [B, F, K] -> [B, K] for t = 1 to ``order``.

    Blondel et al. 2016, "Higher-Order Factorization Machines". They are the coefficients of z^t in the product over
    the fields of (1 + x_f z), multiplied up in halves: O(F order^2) by long operations, in log2(F) rounds.
    """
    terms = [x]  # [B, F, K] each: the coefficients of z, z^2, ... of polynomials whose constant is 1
    while (polynomials := terms[0].shape[1]) > 1:
        if polynomials % 2:
            one = jnp.zeros_like(x[:, :1])  # the polynomial 1
            terms = [jnp.concatenate([term, one], axis=1) for term in terms]
        left, right = zip(*(jnp.split(term, 2, axis=1) for term in terms), strict=True)
        terms = [_coefficient(left, right, t) for t in range(1, min(order, 2 * len(terms)) + 1)]
    missing = order - len(terms)  # there are no sets of more fields than F
    return [term[:, 0] for term in terms] + [jnp.zeros_like(x[:, 0])] * missing


def _coefficient(left: tuple[jax.Array, ...], right: tuple[jax.Array, ...], t: int) -> jax.Array:
    """That of z^t in the product of two polynomials, 1 + left[0] z + ... and 1 + right[0] z + ..."""
    degree = len(left)
    parts = [left[t - 1], right[t - 1]] if t <= degree else []
    parts += [left[s - 1] * right[t - s - 1] for s in range(max(1, t - degree), min(t - 1, degree) + 1)]
    return sum(parts[1:], parts[0])

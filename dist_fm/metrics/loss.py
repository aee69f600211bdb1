"""Losses a sample, for the step (JAX), and their means over a split (NumPy, float64)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def sample_loss(name: str, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Losses [B] of ``logits`` [B]: ``bce`` with logits (no sigmoid before it), or ``mse``, the squared error."""
    if name == "bce":
        return optax.sigmoid_binary_cross_entropy(logits, labels)
    if name == "mse":
        return jnp.square(logits - labels)
    raise ValueError(f"loss {name!r} is not one of bce, mse")


def logloss(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean binary cross-entropy of ``logits`` [N]."""
    z = logits.astype(np.float64)
    return float(np.average(np.logaddexp(0, z) - labels * z, weights=weights))


def rmse(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> float:
    """Weighted root of the mean squared error."""
    return float(np.sqrt(np.average(np.square(predictions.astype(np.float64) - labels), weights=weights)))


def mae(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean absolute error."""
    return float(np.average(np.abs(predictions.astype(np.float64) - labels), weights=weights))

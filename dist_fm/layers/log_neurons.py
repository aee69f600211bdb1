"""Logarithmic neurons: products of fields to learned powers, as sums of logarithms."""

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.layers.batch_norm import BatchNorm
from dist_fm.layers.dense import dense

TINY = 1e-7


class LogNeurons(nnx.Module):
    """y_j = prod_i |x_i| ^ w_ij = exp(sum_i w_ij ln |x_i|), elementwise: [B, F, K] -> [B, K * J].

    Cheng et al. 2020, "Adaptive Factorization Network", the logarithmic transformation layer. With ``floor`` > 0 as its
    authors compute it: |x| is at least that, and BatchNorm, by field and by neuron, comes after the logarithm and after
    the exponential. With 0 as torchfm does: ReLU(expm1(sum_i w_ij log1p(|x_i| + 1e-7))). `logs` is the part that treats
    each sample by itself.
    """

    def __init__(self, num_fields: int, neurons: int, *, floor: float, layer_init: str, rngs: nnx.Rngs):
        self.floor = floor
        self.powers = dense(num_fields, neurons, use_bias=False, layer_init=layer_init, rngs=rngs)
        self.log_norm = BatchNorm(num_fields) if floor > 0 else None
        self.exp_norm = BatchNorm(neurons) if floor > 0 else None

    def logs(self, x: jax.Array) -> jax.Array:
        """Logarithms of ``x`` [B, F, K], by factor: [B, K, F]."""
        size = jnp.abs(x).swapaxes(1, 2)
        return jnp.log(jnp.maximum(size, self.floor)) if self.floor > 0 else jnp.log1p(size + TINY)

    def __call__(self, logs: jax.Array, mask: jax.Array, *, train: bool) -> jax.Array:
        """The neurons [B, K * J] from the batch's `logs`, of which ``mask`` [B] tells the real samples."""
        if self.log_norm is None or self.exp_norm is None:
            y = jax.nn.relu(jnp.expm1(self.powers(logs)))
        else:
            y = jnp.exp(self.powers(self.log_norm(logs, mask, train=train)))
            y = self.exp_norm(y, mask, train=train)
        return y.reshape(y.shape[0], -1)

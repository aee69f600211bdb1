"""The compressed interaction network of xDeepFM."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dist_fm.errors import UserError
from dist_fm.layers.dense import bias_init, weight_init
from dist_fm.layers.fm import pair_order, pair_products
from dist_fm.layers.mlp import ACTIVATIONS
from dist_fm.layers.products import matmul
from dist_fm.layers.turned import turned


@jax.custom_vjp
def outer_products(x: jax.Array, maps: jax.Array) -> jax.Array:
    """x_f * maps_p of every field and map: [F, N], [P, N] -> [F * P, N]."""
    return (x[:, None] * maps[None]).reshape(len(x) * len(maps), -1)


def _forward(x: jax.Array, maps: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return outer_products(x, maps), (x, maps)


def _backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The sums over fields and over maps are written out, as one loop over N each: XLA's CPU backend has a reduction
    # over the outermost axis wait for memory, which took half of a step (two fields: 20 of 33 ms, not 1).
    x, maps = saved
    gradient = gradient.reshape(len(x), len(maps), -1)
    by_x = functools.reduce(jnp.add, [gradient[:, p] * maps[p] for p in range(len(maps))])
    by_maps = functools.reduce(jnp.add, [gradient[f] * x[f] for f in range(len(x))])
    return by_x, by_maps


outer_products.defvjp(_forward, _backward)


class CINLayer(nnx.Module):
    """Weights of one layer: y_h = sum over fields f and maps p of kernel[f, h, p] (x_f * maps_p), plus bias_h.

    Lian et al. 2018, eq. 6, with torchfm's bias.
    """

    def __init__(self, num_fields: int, num_maps: int, size: int, *, layer_init: str, rngs: nnx.Rngs):
        fan_in = num_fields * num_maps
        kernel = weight_init(layer_init, fan_in, size)(rngs.params(), (num_fields, size, num_maps), jnp.float32)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(bias_init(layer_init, fan_in)(rngs.params(), (size,), jnp.float32))

    def of_products(self) -> jax.Array:
        """The kernel by products x_f * maps_p: [H, F * P]."""
        return self.kernel[...].transpose(1, 0, 2).reshape(self.kernel.shape[1], -1)

    def of_pairs(self) -> jax.Array:
        """The kernel of the first layer, whose maps are x: by squares, then pairs in `pair_order`: [H, F + F(F-1)/2].

        x_i * x_j and x_j * x_i are one product there, so half of the work is saved.
        """
        kernel = self.kernel[...].transpose(1, 0, 2)
        i, j = pair_order(kernel.shape[1])
        both = np.arange(kernel.shape[1])
        # No place is taken twice: told so, the gradient's way back need not add atomically on a GPU.
        at = lambda f, p: kernel.at[:, f, p].get(unique_indices=True, mode="promise_in_bounds")
        return jnp.concatenate([at(both, both), at(i, j) + at(j, i)], axis=1)


class CIN(nnx.Module):
    """Layers of explicit interactions, each summed over K: [B, F, K] -> [B, ``features``] (eq. 6 and 7).

    With ``split_half`` the first half of a layer's maps is its output and the second half feeds the next layer (all of
    the last layer is output), as in torchfm; otherwise all maps do both.
    """

    def __init__(
        self,
        num_fields: int,
        layer_sizes: Sequence[int],
        *,
        split_half: bool,
        activation: str,
        layer_init: str,
        rngs: nnx.Rngs,
    ):
        self.split_half, self.activation = split_half, activation
        halved = layer_sizes[:-1] if split_half else ()
        if any(size % 2 for size in halved):
            raise UserError(f"split_half halves every CIN layer but the last: {tuple(layer_sizes)} must be even there")
        fed = [size // 2 for size in halved] if split_half else list(layer_sizes[:-1])
        self.layers = nnx.List(
            [
                CINLayer(num_fields, num_maps, size, layer_init=layer_init, rngs=rngs)
                for num_maps, size in zip((num_fields, *fed), layer_sizes, strict=True)
            ]
        )
        self.features = sum(fed) + layer_sizes[-1]
        self._products = num_fields * max((num_fields + 1) // 2, *fed, 1)

    def floats(self, embed_dim: int) -> int:
        """Numbers made for one sample."""
        return self._products * embed_dim

    def weights(self) -> list[tuple[jax.Array, jax.Array]]:
        """Kernel [H, products] and bias [H, 1] of each layer, as `apply` takes them."""
        kernels = [layer.of_products() if i else layer.of_pairs() for i, layer in enumerate(self.layers)]
        return [(kernel, layer.bias[...][:, None]) for kernel, layer in zip(kernels, self.layers, strict=True)]

    def apply(self, weights: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
        """Features of ``x``; the layers' ``weights`` come apart from ``self``, so that they can be differentiated."""
        batch, fields, width = x.shape
        # Fields first: each sample and factor is one column, and a layer is one product of two matrices.
        x = turned(x, (1, 0, 2)).reshape(fields, batch * width)
        maps, outputs = x, []
        for i, (kernel, bias) in enumerate(weights):
            if i == 0:
                products = jnp.concatenate([jnp.square(x), pair_products(x, axis=0)])
            else:
                products = outer_products(x, maps)
            output = maps = ACTIVATIONS[self.activation](matmul(kernel, products) + bias)
            if self.split_half and i < len(weights) - 1:
                output, maps = jnp.split(maps, 2)
            outputs.append(output.reshape(-1, batch, width).sum(axis=2).T)
        return jnp.concatenate(outputs, axis=1)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.apply(self.weights(), x)

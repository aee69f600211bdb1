"""The compressed interaction network of xDeepFM."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from dist_fm.errors import UserError
from dist_fm.layers.dense import bias_init, weight_init
from dist_fm.layers.mlp import ACTIVATIONS


class CINLayer(nnx.Module):
    """One layer: y_h = sum over fields f and maps p of kernel[f, h, p] (x_f * maps_p), plus bias_h.

    ``x`` [B, K, F] and ``maps`` [B, K, P] give [B, K, H] (Lian et al. 2018, eq. 6, with torchfm's bias).
    """

    def __init__(self, num_fields: int, num_maps: int, size: int, *, layer_init: str, rngs: nnx.Rngs):
        fan_in = num_fields * num_maps
        kernel = weight_init(layer_init, fan_in, size)(rngs.params(), (num_fields, size, num_maps), jnp.float32)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(bias_init(layer_init, fan_in)(rngs.params(), (size,), jnp.float32))

    def __call__(self, x: jax.Array, maps: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        batch, width, fields = x.shape
        _, size, num_maps = kernel.shape
        # Either all F*P products are formed first, or the H*P weighted maps: whichever is smaller. Products of two
        # matrices, as XLA's CPU backend runs a general einsum of these shapes several times slower.
        if fields <= size:
            products = (x[:, :, :, None] * maps[:, :, None, :]).reshape(batch * width, fields * num_maps)
            mixed = products @ kernel.swapaxes(1, 2).reshape(fields * num_maps, size)
            return mixed.reshape(batch, width, size) + self.bias[...]
        weighted = x.reshape(batch * width, fields) @ kernel.reshape(fields, size * num_maps)
        weighted = weighted.reshape(batch, width, size, num_maps)
        return (weighted * maps[:, :, None, :]).sum(axis=-1) + self.bias[...]


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

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.swapaxes(1, 2)
        maps, outputs = x, []
        for i, layer in enumerate(self.layers):
            output = maps = ACTIVATIONS[self.activation](layer(x, maps))
            if self.split_half and i < len(self.layers) - 1:
                output, maps = jnp.split(maps, 2, axis=-1)
            outputs.append(output.sum(axis=1))
        return jnp.concatenate(outputs, axis=-1)

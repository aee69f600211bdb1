"""Hashed bits: random numbers that depend on where they are used, not on how work is split or in which order."""

import math
from typing import Any

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
from flax import nnx

GOLDEN = np.uint32(0x9E3779B9)  # 2^32 / golden ratio, odd: multiples of it lie far apart


def mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 that spreads every bit over all (C. Wellons, hash-prospector, "lowbias32")."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def key(seed: int) -> jax.Array:
    """A key for `jax.random` whose bits, of element n, are a hash of (key, n) alone; ``seed`` is of 64 bits at most.

    JAX's default generator, of twenty rounds, takes a CPU seventy times as long (a dropout mask [2048, 2964]: 108 ms,
    not 1.5), and XLA half a second to compile wherever it is used: most of what a model's first values took.
    """
    low, high = np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32)
    return jax.random.fold_in(jax.random.key(low, impl=_HASHED), high)


class Keys(nnx.Rngs):
    """The keys that nnx.Rngs(key) gives layers for parameters, or for dropout.

    The count of nnx.Rngs is an array: where it is traced each key costs milliseconds, and all of them half of an
    engine's start, as nnx compares shardings, which tracers have not, and JAX prints the program so far to say so.
    """

    def __init__(self, key: jax.Array):
        self._key, self._given = key, 0

    def params(self) -> jax.Array:
        self._given += 1
        return jax.random.fold_in(self._key, self._given - 1)

    dropout = params


def _seed(seed: jax.Array) -> jax.Array:
    low = mix(seed.astype(jnp.uint32) ^ GOLDEN)
    return jnp.stack([low, mix(low + GOLDEN)])


@jax.jit  # traced once, not operation by operation for every layer's key
def _fold_in(key: jax.Array, data: Any) -> jax.Array:
    first = _hash(key, jnp.asarray(data).astype(jnp.uint32))
    return jnp.stack([first, _hash(key[::-1], first + GOLDEN)])


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    # Apart from `_fold_in` of the same numbers: keys that are split are others than those folded in.
    apart = _fold_in(key[::-1], jnp.uint32(0))
    numbers = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return jax.vmap(lambda number: _fold_in(apart, number))(numbers).reshape(*shape, 2)


def _random_bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    place = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    bits = _hash(key, place)
    if width == 64:
        return bits.astype(jnp.uint64) << 32 | mix(bits + GOLDEN).astype(jnp.uint64)
    return bits.astype(jnp.dtype(f"uint{width}"))


@jax.jit
def _hash(key: jax.Array, number: jax.Array) -> jax.Array:
    return mix(mix(number ^ key[0]) + key[1])


_HASHED = jax.extend.random.define_prng_impl(
    key_shape=(2,), seed=_seed, split=_split, random_bits=_random_bits, fold_in=_fold_in, name="hashed", tag="hashed"
)

"""Interactions against brute-force loops in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import keys
from float64 import check, draw, randomized

from dist_fm import hashing
from dist_fm.errors import UserError
from dist_fm.layers.anova import anova_kernels
from dist_fm.layers.attention import PairAttention, weighted_sum
from dist_fm.layers.cin import CIN
from dist_fm.layers.dense import FirstOrder, bias_init, weight_init
from dist_fm.layers.field_aware import (
    field_aware_inner_products,
    field_aware_pair_sum,
    field_aware_products,
    own_vectors,
    partner_vectors,
)
from dist_fm.layers.fm import (
    bi_interaction,
    half_square,
    less_squares,
    pair_firsts,
    pair_order,
    pair_products,
    pair_seconds,
    pair_sum,
    pairs_by_distance,
)
from dist_fm.layers.log_neurons import LogNeurons
from dist_fm.layers.mlp import MLP
from dist_fm.layers.self_attention import Heads, SelfAttention
from dist_fm.layers.turned import turned, turned_in_memory

FIELDS, FACTORS = 4, 3
PAIRS = list(itertools.combinations(range(FIELDS), 2))
batches = pytest.mark.parametrize("batch", [1, 5])
pytestmark = pytest.mark.usefixtures("float64")


@batches
def test_first_order_is_the_sum_of_weights_and_bias(batch):
    layer, w = randomized(FirstOrder()), draw(batch, FIELDS, 1)
    check(layer(w), [layer.bias[0] + sum(w[b, f, 0] for f in range(FIELDS)) for b in range(batch)])


@batches
def test_fm_pair_sum(batch):
    x = draw(batch, FIELDS, FACTORS)
    loop = [sum(sum(x[b, i, k] * x[b, j, k] for k in range(FACTORS)) for i, j in PAIRS) for b in range(batch)]
    check(jax.jit(pair_sum)(x), loop)


@batches
def test_pairs_are_half_of_the_squared_sum_and_of_what_rows_bring_by_themselves(batch):
    rows = {"linear": draw(batch, FIELDS, 1, seed=1), "factors": draw(batch, FIELDS, FACTORS)}
    alone = jax.jit(less_squares)(rows)
    assert np.array_equal(alone["factors"], rows["factors"])
    parts = alone["linear"].sum(axis=(1, 2)) + half_square(alone["factors"].sum(axis=1))
    check(parts, rows["linear"].sum(axis=(1, 2)) + pair_sum(rows["factors"]))


@batches
def test_bi_interaction(batch):
    x = draw(batch, FIELDS, FACTORS)
    loop = [[sum(x[b, i, k] * x[b, j, k] for i, j in PAIRS) for k in range(FACTORS)] for b in range(batch)]
    check(jax.jit(bi_interaction)(x), loop)


@batches
@pytest.mark.parametrize("fields", [1, 2, 3, 4, 5])
def test_pair_products(batch, fields):
    x = draw(batch, fields, FACTORS)
    order = list(zip(*pair_order(fields), strict=True))
    assert {frozenset(pair) for pair in order} == {frozenset(p) for p in itertools.combinations(range(fields), 2)}
    loop = np.array([[x[b, i] * x[b, j] for i, j in order] for b in range(batch)]).reshape(batch, -1, FACTORS)
    check(jax.jit(pair_products)(x), loop)
    check(jax.jit(lambda x: pair_products(x, axis=0))(x.swapaxes(0, 1)), loop.swapaxes(0, 1))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("fields", [1, 2, 3, 4, 5, 8, 9])
def test_pair_products_gradient_is_that_of_each_product(fields, axis):
    x = draw(fields, 6) if axis == 0 else draw(2, fields, 6)
    i, j = pair_order(fields)
    weights = draw(*np.moveaxis(x, axis, 0)[i].shape, seed=1)  # [P, ...]
    apart = lambda x: (weights * jnp.moveaxis(x, axis, 0)[i] * jnp.moveaxis(x, axis, 0)[j]).sum()
    ours = lambda x: (weights * jnp.moveaxis(pair_products(x, axis), axis, 0)).sum()
    check(jax.jit(jax.grad(ours))(x), jax.grad(apart)(jnp.asarray(x)))


def test_weighted_sum_has_the_gradients_of_its_formula():
    weights, x, pull = draw(7, 3), draw(4, 7, 3, seed=1), draw(4, 3, seed=2)
    gradients = lambda function: jax.jit(jax.grad(lambda *both: (pull * function(*both)).sum(), argnums=(0, 1)))
    expected = gradients(lambda weights, x: jnp.einsum("pb,kpb->kb", weights, x))(weights, x)
    for ours, other in zip(gradients(weighted_sum)(weights, x), expected, strict=True):
        check(ours, other)


@pytest.mark.parametrize("first", [0.5, np.nan, np.inf, -np.inf])
def test_turned_arrays_are_turned_whatever_they_hold_and_their_gradients_too(first):
    x, pull = draw(2, 3, 4), draw(4, 2, 3, seed=1)
    x[0, 0, 0] = first
    gradient = jax.jit(jax.value_and_grad(lambda x: (pull * turned(x, (2, 0, 1))).sum()))
    with turned_in_memory(True):
        compiled = gradient.lower(x).compile()
    assert compiled.as_text().count(" conditional(") == 2  # there and back, or XLA has seen through it
    value, by_x = compiled(x)
    np.testing.assert_allclose(value, (pull * x.transpose(2, 0, 1)).sum(), rtol=1e-12)
    check(by_x, pull.transpose(1, 2, 0))
    assert "conditional" not in jax.jit(lambda x: turned(x, (2, 0, 1))).lower(x).compile().as_text()  # elsewhere


@batches
def test_field_aware_pairs(batch):
    rows = draw(batch, FIELDS, FIELDS * FACTORS)

    def vector(b, i, j):
        """Field i's vector for partner field j."""
        return rows[b, i, j * FACTORS : (j + 1) * FACTORS]

    loop = np.array([[vector(b, i, j) * vector(b, j, i) for i, j in PAIRS] for b in range(batch)])
    x = partner_vectors(rows)
    check(jax.jit(field_aware_products)(x), loop)
    check(jax.jit(field_aware_pair_sum)(x), loop.sum(axis=(1, 2)))
    check(jax.jit(field_aware_inner_products)(x), loop.sum(axis=2))
    check(jax.jit(own_vectors)(x), [[vector(b, i, i) for i in range(FIELDS)] for b in range(batch)])


@batches
@pytest.mark.parametrize("fields", [2, 3, 5])
def test_pairs_by_distance(batch, fields):
    x = draw(batch, fields, FACTORS)
    pairs = list(zip(*pairs_by_distance(fields), strict=True))
    assert sorted(pairs) == list(itertools.combinations(range(fields), 2))
    check(pair_firsts(x, fields), np.array([[x[b, i] for i, _ in pairs] for b in range(batch)]))
    check(pair_firsts(x[:, :-1], fields), pair_firsts(x, fields))
    check(pair_seconds(x), np.array([[x[b, j] for _, j in pairs] for b in range(batch)]))


@pytest.mark.parametrize("fields, order", [(1, 2), (2, 3), (3, 2), (5, 7), (6, 4), (7, 7)])
def test_anova_kernels_are_sums_over_sets_of_fields(fields, order):
    x = draw(3, fields, FACTORS)
    ours = jax.jit(anova_kernels, static_argnums=1)(x, order)
    assert len(ours) == order
    for t, kernel in enumerate(ours, 1):
        zero = np.zeros((3, FACTORS))
        loop = sum((np.prod(x[:, list(some)], axis=1) for some in itertools.combinations(range(fields), t)), zero)
        check(kernel, loop)


@batches
def test_self_attention_leaves_out_what_dropout_takes(batch):
    heads = Heads(FIELDS, 4, num_heads=2, scale=True, dropout=0.25, layer_init="torch")
    layer = randomized(SelfAttention(FACTORS, heads, use_bias=True, rngs=keys()))
    x = draw(batch, FIELDS, FACTORS)
    keep = layer.keep_mask(batch, train=True, rngs=keys(1))
    assert keep.shape == (batch, 2, FIELDS, FIELDS) and not keep.all()
    query, key, value = (x @ part.kernel[...] + part.bias[...] for part in (layer.query, layer.key, layer.value))
    loop = np.zeros((batch, FIELDS, 4))
    for b, head, m in itertools.product(range(batch), range(2), range(FIELDS)):
        own = slice(2 * head, 2 * head + 2)
        weights = np.exp([query[b, m, own] @ key[b, k, own] / np.sqrt(2) for k in range(FIELDS)])
        for k in range(FIELDS):
            loop[b, m, own] += keep[b, head, m, k] / 0.75 * weights[k] / weights.sum() * value[b, k, own]
    check(jax.jit(lambda x: layer(x, keep))(x), loop)


def test_log_neurons_normalise_by_field_and_by_neuron_over_real_samples_and_factors():
    layer = randomized(LogNeurons(FIELDS, 2, floor=0.3, layer_init="torch", rngs=keys()))
    x, mask = draw(5, FIELDS, FACTORS), np.array([1, 0, 1, 1, 0.0])
    powers, norms = np.asarray(layer.powers.kernel[...]), (layer.log_norm, layer.exp_norm)
    scale, bias = ([np.asarray(getattr(norm, name)[...]) for norm in norms] for name in ("scale", "bias"))
    old = [np.asarray(norm.var[...]) for norm in norms]

    def normalise(y, which):
        """Each of the last axis by mean and variance of the real samples' numbers."""
        out = np.empty_like(y)
        for h in range(y.shape[-1]):
            real = np.concatenate([y[b, :, h] for b in range(5) if mask[b]])
            out[..., h] = (y[..., h] - real.mean()) / np.sqrt(real.var() + 1e-5) * scale[which][h] + bias[which][h]
        return out

    logs = np.array(
        [[[np.log(max(abs(x[b, f, k]), 0.3)) for f in range(FIELDS)] for k in range(FACTORS)] for b in range(5)]
    )
    neurons = np.exp(normalise(logs, 0) @ powers)
    ours = layer(layer.logs(jnp.asarray(x)), jnp.asarray(mask), train=True)
    check(ours, normalise(neurons, 1).reshape(5, -1))
    for norm, before, y in zip(norms, old, (logs, neurons), strict=True):
        real = y[mask == 1].reshape(-1, y.shape[-1])
        check(norm.var[...], 0.9 * before + 0.1 * real.var(axis=0, ddof=1))


@batches
@pytest.mark.parametrize("use_bias", [True, False])
def test_pair_attention(batch, use_bias):
    layer = PairAttention(FIELDS, FACTORS, 2, dropout=0.5, use_bias=use_bias, layer_init="torch", rngs=keys())
    randomized(layer)
    x = draw(batch, FIELDS, FACTORS)
    W, b0, h = (np.asarray(v[...]) for v in (layer.hidden.kernel, layer.hidden.bias, layer.projection.kernel))
    b1 = float(layer.projection.bias[0]) if use_bias else 0.0
    loop = []
    for b in range(batch):
        scores = [sum(h[a, 0] * max(0, (x[b, i] * x[b, j]) @ W[:, a] + b0[a]) for a in range(2)) + b1 for i, j in PAIRS]
        weights = np.exp(scores) / np.exp(scores).sum()
        loop.append(sum(weight * x[b, i] * x[b, j] for weight, (i, j) in zip(weights, PAIRS, strict=True)))
    check(jax.jit(lambda x: layer(x, None))(x), loop)


@batches
@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("split_half", [True, False])
def test_cin(batch, split_half, activation):
    sizes = (6, 2, 5)
    layer = CIN(FIELDS, sizes, split_half=split_half, activation=activation, layer_init="torch", rngs=keys())
    randomized(layer)
    x = draw(batch, FIELDS, FACTORS)
    act = (lambda v: np.maximum(v, 0)) if activation == "relu" else (lambda v: v)
    loop = []
    for b in range(batch):
        maps, outputs = x[b], []
        for level, (size, cin_layer) in enumerate(zip(sizes, layer.layers, strict=True)):
            W, bias = np.asarray(cin_layer.kernel[...]), np.asarray(cin_layer.bias[...])
            new = np.array(
                [
                    act(bias[h] + sum(W[f, h, p] * x[b, f] * maps[p] for f in range(FIELDS) for p in range(len(maps))))
                    for h in range(size)
                ]
            )
            halve = split_half and level < len(sizes) - 1
            outputs += [row.sum() for row in (new[: size // 2] if halve else new)]
            maps = new[size // 2 :] if halve else new
        loop.append(outputs)
    ours = jax.jit(lambda x: layer(x))(x)
    assert ours.shape == (batch, layer.features)
    check(ours, loop)


def test_cin_refuses_to_halve_odd_sizes():
    with pytest.raises(UserError, match=r"\(5, 4\) must be even"):
        CIN(FIELDS, (5, 4), split_half=True, activation="relu", layer_init="torch", rngs=keys())
    CIN(FIELDS, (4, 5), split_half=True, activation="relu", layer_init="torch", rngs=keys())


@batches
@pytest.mark.parametrize(("activation", "batch_norm"), [("relu", True), ("tanh", False)])
def test_mlp(batch, activation, batch_norm):
    mlp = randomized(
        MLP(3, (4, 2), dropout=0.5, batch_norm=batch_norm, activation=activation, rngs=keys()),
        seed=3,
    )
    if batch_norm:
        for norm in mlp.norms:
            norm.var[...] = jnp.abs(norm.var[...])
    x = draw(batch, 3)
    loop = x
    for i, hidden in enumerate(mlp.hidden):
        loop = loop @ hidden.kernel[...] + hidden.bias[...]
        if batch_norm:
            norm = mlp.norms[i]
            loop = (loop - norm.mean[...]) / np.sqrt(norm.var[...] + 1e-5) * norm.scale[...] + norm.bias[...]
        loop = np.maximum(loop, 0) if activation == "relu" else np.tanh(loop)
    loop = loop @ mlp.output.kernel[...] + mlp.output.bias[...]
    check(jax.jit(lambda x: mlp(x, np.ones(batch), train=False))(x), loop[:, 0])


def test_layer_init():
    key = hashing.key(0)
    kernel = weight_init("torch", 25, 3)(key, (25, 4000), jnp.float32)
    assert 0.199 < float(jnp.abs(kernel).max()) <= 0.2 and abs(float(kernel.std()) - 0.2 / 3**0.5) < 1e-3
    assert 0.19 < float(jnp.abs(bias_init("torch", 25)(key, (1000,), jnp.float32)).max()) <= 0.2
    kernel = weight_init("xavier_normal", 25, 7)(key, (25, 4000), jnp.float32)
    assert abs(float(kernel.std()) - 0.25) < 2e-3
    assert not bias_init("xavier_normal", 25)(key, (1000,), jnp.float32).any()
    with pytest.raises(UserError, match="did you mean xavier_normal"):
        weight_init("xavier", 25, 7)

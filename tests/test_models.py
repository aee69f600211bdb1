"""One suite over the registry: what every model must do, tested the moment it is registered."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_schema
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from dist_fm.data.schema import SchemaError
from dist_fm.models import ALIASES, MODELS, ModelConfig, get_model
from dist_fm.tables.spec import RowLayout

# Three fields or more: with two, a model that reads only the pair (0, 1) looks right.
SCHEMA = make_schema((11, 7, 5, 3), ("user", "item", None, None))
B, F = 20, SCHEMA.num_fields

VARIANTS = {
    "afm published": ("afm", {"projection_bias": False, "attention_dropout": 0.0}),
    "fnn first-order": ("fnn", {"first_order": True, "batch_norm": False, "activation": "tanh"}),
    "ncf neumf": ("ncf", {"variant": "neumf", "mlp_embed_dim": 3}),
    "nfm without BatchNorm": ("nfm", {"batch_norm": False}),
    "xdeepfm split, linear": ("xdeepfm", {"split_half": True, "cin_activation": "linear"}),
}
CASES = {**{name: (name, {}) for name in MODELS}, **VARIANTS}
every_model = pytest.mark.parametrize("case", CASES)


class Batch(NamedTuple):
    rows: dict
    labels: np.ndarray
    mask: np.ndarray


def build(case, **settings):
    name, variant = CASES[case]
    config = get_model(name).Config(**{"layer_init": "torch", **variant, **settings})
    return get_model(name)(config, SCHEMA, rngs=nnx.Rngs(0))


def make_batch(model, size, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    columns = {name: column.width for name, column in model.columns(SCHEMA).items()}
    rows = {name: rng.normal(0, 0.5, (size, F, width)).astype(dtype) for name, width in columns.items()}
    return Batch(rows, rng.integers(0, 2, size).astype(dtype), np.ones(size, dtype))


def pad(batch, size):
    """``batch`` with rows of junk at the end, masked."""
    junk = size - len(batch.mask)
    rows = {name: np.concatenate([row, np.full((junk, *row.shape[1:]), 7.0)]) for name, row in batch.rows.items()}
    return Batch(rows, np.append(batch.labels, np.ones(junk)), np.append(batch.mask, np.zeros(junk)))


def train_step(model, dtype):
    """The compiled (loss, running statistics, gradients) of a batch, and the network it is called with."""
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)

    def loss(params, rows, stats, batch, key):
        model = nnx.merge(graph, params, stats)
        logits = model(rows, batch, train=True, rngs=nnx.Rngs(dropout=key))
        losses = jnp.where(batch.mask > 0, optax.sigmoid_binary_cross_entropy(logits, batch.labels), 0)
        return losses.sum() / batch.mask.sum(), nnx.state(model, nnx.BatchStat)

    @jax.jit
    def step(params, stats, batch, key):
        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, batch.rows, stats, batch, key)

    params, stats = jax.tree.map(lambda x: x.astype(dtype), (params, stats))
    return lambda batch: step(params, stats, batch, jax.random.key(5))


@every_model
def test_a_batch_padded_and_split_over_devices_trains_as_the_plain_one(case):
    with jax.enable_x64(True):
        model = build(case)
        step, batch = train_step(model, jnp.float64), make_batch(model, B)
        (loss, stats), (network, rows) = step(batch)
        over_devices = NamedSharding(jax.make_mesh((4,), ("device",)), PartitionSpec("device"))
        (padded_loss, padded_stats), (padded_network, padded_rows) = step(jax.device_put(pad(batch, 28), over_devices))

        assert loss.dtype == jnp.float64
        assert not any(row[B:].any() for row in padded_rows.values())
        real_rows = {name: row[:B] for name, row in padded_rows.items()}
        padded = (padded_loss, padded_stats, padded_network, real_rows)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), (loss, stats, network, rows), padded
        )
        if jax.tree.leaves(stats):
            assert not any(np.allclose(s, value) for s in jax.tree.leaves(stats) for value in (0, 1))


@every_model
def test_every_field_and_every_weight_gets_a_gradient(case):
    model = build(case, **({"dropout": 0.0} if hasattr(build(case).config, "dropout") else {}))
    _, (network, rows) = train_step(model, jnp.float32)(make_batch(model, B, np.float32))
    for path, gradient in nnx.to_flat_state(network):
        # A bias that feeds a BatchNorm has a gradient of zero.
        assert path[-1] == "bias" or np.abs(gradient[...]).max() > 1e-6, path
    for name, gradient in rows.items():
        reads = np.abs(gradient).max(axis=0) > 1e-7
        if case == "ncf neumf":
            assert reads[:2].all() and not np.abs(gradient[:, 2:]).any()
        elif case in ("ffm", "fnfm") and name == "factors":
            # Every partner field's vector, but a field's for itself.
            reads = reads.reshape(F, F, -1)
            assert (reads.all(axis=-1) == ~np.eye(F, dtype=bool)).all()
        else:
            assert reads.all(), (name, reads)


@every_model
def test_evaluation_is_a_function_of_the_weights_alone(case):
    model = build(case)
    batch = make_batch(model, B, np.float32)
    graph, state = nnx.split(model)

    @jax.jit
    def logits(state, batch, key):
        model = nnx.merge(graph, state)
        return model(batch.rows, batch, train=False, rngs=nnx.Rngs(dropout=key)), nnx.state(model)

    first, after = logits(state, batch, jax.random.key(0))
    assert first.shape == (B,) and first.dtype == jnp.float32 and np.isfinite(first).all()
    jax.tree.map(np.testing.assert_array_equal, state, after)
    np.testing.assert_array_equal(first, logits(state, batch, jax.random.key(1))[0])
    # Not a probability, and each sample alone.
    alone = logits(state, jax.tree.map(lambda x: x[3:4], batch), jax.random.key(0))[0]
    np.testing.assert_allclose(alone, first[3:4], rtol=1e-5, atol=1e-6)


@every_model
def test_the_network_is_weights_biases_and_statistics(case):
    model = build(case)
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # raises if there is anything else
    for path, value in nnx.to_flat_state(params):
        assert path[-1] in ("kernel", "bias", "scale")
        assert (value.ndim >= 2) == (path[-1] == "kernel"), path
    assert all(path[-1] in ("mean", "var") for path, _ in nnx.to_flat_state(stats))


@every_model
def test_bfloat16_weights_give_bfloat16_logits(case):
    model = build(case)
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    batch = make_batch(model, B, np.float32)

    def logits(params, stats, rows):
        return nnx.merge(graph, params, stats)(rows, batch, train=True, rngs=nnx.Rngs(dropout=0))

    half = jax.eval_shape(logits, *jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, stats, batch.rows)))
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", MODELS)
def test_columns_and_their_first_values(name):
    def first_values(**settings):
        model = get_model(name)(get_model(name).Config(**settings), SCHEMA, rngs=nnx.Rngs(0))
        columns = model.columns(SCHEMA)
        assert RowLayout(columns).width == sum(column.width for column in columns.values())
        shape = (20_000, 1)
        return {k: np.asarray(c.init(jax.random.key(0), shape, jnp.float32)) for k, c in columns.items()}

    default, torchfm, normal = first_values(), first_values(init="torchfm"), first_values(embed_std=0.1)
    assert "linear" not in default or not default["linear"].any()
    assert "linear" not in torchfm or abs(torchfm["linear"].std() - 1) < 0.02
    if "factors" in default:
        bound = (6 / (SCHEMA.num_rows + get_model(name).Config().embed_dim)) ** 0.5
        for factors in (default["factors"], torchfm["factors"]):
            assert 0.99 * bound < np.abs(factors).max() <= bound
        assert abs(normal["factors"].std() - 0.1) < 0.002


def test_neumf_is_a_product_and_a_tower_of_the_user_and_the_item():
    model = build("ncf neumf", dropout=0.0, mlp_dims=(5, 4), embed_dim=2)
    with jax.enable_x64(True):
        batch = make_batch(model, 3)
        gmf, mlp = batch.rows["gmf"], batch.rows["mlp"]
        assert gmf.shape[-1] == 2 and mlp.shape[-1] == 3
        expected = []
        for b in range(3):
            product = [gmf[b, 0, k] * gmf[b, 1, k] for k in range(2)]
            tower = np.concatenate([mlp[b, 0], mlp[b, 1]])
            for hidden in model.mlp.hidden:
                tower = np.maximum(tower @ np.float64(hidden.kernel[...]) + np.float64(hidden.bias[...]), 0)
            expected.append(np.concatenate([product, tower]) @ np.float64(model.output.kernel[...])[:, 0])
        np.testing.assert_allclose(model(batch.rows, batch, train=False), expected, rtol=1e-12)
    assert model.output.bias is None and model.mlp.norms is None


def test_fnn_first_order_reads_w0_and_every_weight_beside_its_factors():
    model = build("fnn first-order", embed_dim=2, mlp_dims=(5,))
    model.bias[...] = jnp.array([0.7])
    batch = make_batch(model, 2, np.float32)
    linear, factors = batch.rows["linear"], batch.rows["factors"]
    expected = []
    for b in range(2):
        z = np.concatenate([[0.7], *([*linear[b, f], *factors[b, f]] for f in range(F))])
        hidden = np.tanh(z @ model.mlp.hidden[0].kernel[...] + model.mlp.hidden[0].bias[...])
        expected.append((hidden @ model.mlp.output.kernel[...] + model.mlp.output.bias[...])[0])
    np.testing.assert_allclose(model(batch.rows, batch, train=False), expected, rtol=1e-5)


def test_ncf_needs_a_user_and_an_item():
    with pytest.raises(SchemaError, match="role 'item'"):
        get_model("ncf")(get_model("ncf").Config(), make_schema((4, 5), ("user", None)), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_its_own_settings_and_file(name):
    model = get_model(name)
    assert issubclass(model.Config, ModelConfig) and model.Config.__module__ == model.__module__
    assert model.__module__ == f"dist_fm.models.{name}"
    assert model.Config() == dataclasses.replace(model.Config())
    assert name in ("lr",) or model.Config().embed_dim == {"ffm": 4, "fnfm": 4, "nfm": 64}.get(name, 16)


def test_aliases_and_unknown_names():
    assert all(get_model(alias) is MODELS[name] for alias, name in ALIASES.items())
    assert get_model("wd") is MODELS["wide_deep"]
    with pytest.raises(ValueError, match="unknown model 'deep_fm': did you mean deepfm?"):
        get_model("deep_fm")
    with pytest.raises(ValueError, match="unknown model 'zzz': allowed: lr, fm, ffm"):
        get_model("zzz")

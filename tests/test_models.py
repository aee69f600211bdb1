"""One suite over the registry: what every model must do, tested the moment it is registered."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import SMALL, keys, make_schema
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from dist_fm import hashing
from dist_fm.data.schema import SchemaError
from dist_fm.errors import UserError
from dist_fm.models import ALIASES, MODELS, ModelConfig, get_model
from dist_fm.models.base import GivenRows
from dist_fm.tables.spec import RowLayout

# Three fields or more: with two, a model that reads only the pair (0, 1) looks right.
SCHEMA = make_schema((11, 7, 5, 3), ("user", "item", None, None))
B, F = 20, SCHEMA.num_fields

IN_LAYERS = {"variant": "paper", "attention_layers": 2}
VARIANTS = {
    "afm published": ("afm", {"projection_bias": False, "attention_dropout": 0.0}),
    "fnn first-order": ("fnn", {"first_order": True, "batch_norm": False, "activation": "tanh"}),
    "ncf neumf": ("ncf", {"variant": "neumf", "mlp_embed_dim": 3}),
    "ncf gmf": ("ncf", {"variant": "gmf"}),
    "ncf mlp": ("ncf", {"variant": "mlp", "mlp_embed_dim": 3}),
    "nfm without BatchNorm": ("nfm", {"batch_norm": False}),
    "xdeepfm split, linear": ("xdeepfm", {"split_half": True, "cin_activation": "linear"}),
    "dcn cross alone": ("dcn", {"mlp_dims": ()}),
    "dcnv2 low rank, stacked": ("dcnv2", {"low_rank": 4, "structure": "stacked"}),
    "dcnv2 experts": ("dcnv2", {"low_rank": 4, "num_experts": 3}),
    "autoint paper": ("autoint", {**IN_LAYERS, "layer_norm": True, "attention_dropout": 0.2, "linear": False}),
    "autoint paper alone": ("autoint", {**IN_LAYERS, "scale": False, "residual": "identity", "mlp_dims": ()}),
    "pnn both": ("pnn", {"product": "both"}),
    "pnn outer vec": ("pnn", {"product": "outer", "kernel": "vec"}),
    "fibinet all": ("fibinet", {"bilinear": "field_all"}),
    "fibinet each": ("fibinet", {"bilinear": "field_each"}),
    "afn paper": ("afn", {"variant": "paper", "dnn_dims": (8,), "dnn_dropout": 0.2, "linear": False}),
    "hofm shared": ("hofm", {"order": 4, "reuse": True}),
}
CASES = {**{name: (name, {}) for name in MODELS}, **VARIANTS}
every_model = pytest.mark.parametrize("case", CASES)
# Compiling a training step takes seconds: the fast tests do so for two of these models' cases, and for no variant run
# an evaluation, which tests/test_model_loops.py does.
SLOW = {"dcn", "dcnv2", "autoint", "pnn", "fibinet", "onn", "afn", "hofm"}
FAST = {"autoint", "afn paper"}


def cases(is_slow):
    marks = lambda case: pytest.mark.slow if CASES[case][0] in SLOW and is_slow(case) else ()
    return pytest.mark.parametrize("case", [pytest.param(case, marks=marks(case)) for case in CASES])


every_trained = cases(lambda case: case not in FAST)
every_evaluated = cases(lambda case: case in VARIANTS)


class Batch(NamedTuple):
    rows: dict
    labels: np.ndarray
    mask: np.ndarray


def build(case, **settings):
    name, variant = CASES[case]
    given = {**SMALL.get(name, {}), **variant, **settings}
    return get_model(name)(get_model(name).Config(**given), SCHEMA, rngs=keys())


@functools.cache
def split(case):
    """The model of ``case`` without its arrays, its graph, its parameters and its running statistics."""
    model = build(case)
    return nnx.eval_shape(lambda: build(case)), *nnx.split(model, nnx.Param, nnx.BatchStat)


def make_batch(model, dtype=np.float64, size=B):
    rng = np.random.default_rng(0)
    columns = {name: column.width for name, column in model.columns(SCHEMA).items()}
    rows = {name: rng.normal(0, 0.5, (size, F, width)).astype(dtype) for name, width in columns.items()}
    return Batch(rows, rng.integers(0, 2, size).astype(dtype), np.ones(size, dtype))


def pad(batch, size):
    """``batch`` with rows of junk at the end, masked."""
    junk = size - len(batch.mask)
    rows = {name: np.concatenate([row, np.full((junk, *row.shape[1:]), 7.0)]) for name, row in batch.rows.items()}
    return Batch(rows, np.append(batch.labels, np.ones(junk)), np.append(batch.mask, np.zeros(junk)))


def train_step(case, batch):
    """Loss, running statistics, and gradients of the network and of the rows, in float64, dropout on."""
    _, graph, params, stats = split(case)

    def loss(params, rows, stats, batch, key):
        model = nnx.merge(graph, params, stats)
        logits = model(GivenRows(rows), batch, train=True, rngs=hashing.Keys(key))
        losses = jnp.where(batch.mask > 0, optax.sigmoid_binary_cross_entropy(logits, batch.labels), 0)
        return losses.sum() / batch.mask.sum(), nnx.state(model, nnx.BatchStat)

    @jax.jit
    def step(params, stats, batch, key):
        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, batch.rows, stats, batch, key)

    params, stats = jax.tree.map(lambda x: np.asarray(x, np.float64), (params, stats))
    (value, stats), (network, rows) = step(params, stats, batch, hashing.key(5))
    return value, stats, network, rows


@functools.cache
def plain_step(case):
    return jax.tree.map(np.asarray, train_step(case, make_batch(split(case)[0])))


@every_trained
def test_a_batch_padded_and_split_over_devices_trains_as_the_plain_one(case):
    with jax.enable_x64(True):
        plain = plain_step(case)
        mesh = jax.make_mesh((4,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
        padded = jax.device_put(pad(make_batch(split(case)[0]), 28), NamedSharding(mesh, PartitionSpec("device")))
        loss, stats, network, rows = train_step(case, padded)
        assert loss.dtype == jnp.float64 and len(loss.sharding.device_set) == 4
        assert not any(row[B:].any() for row in rows.values())
        padded = loss, stats, network, {name: row[:B] for name, row in rows.items()}
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), plain, padded)


@every_trained
def test_every_field_and_every_kernel_gets_a_gradient(case):
    with jax.enable_x64(True):
        _, stats, network, rows = plain_step(case)
    for path, gradient in nnx.to_flat_state(network):
        assert path[-1] != "kernel" or np.abs(gradient[...]).max() > 1e-6, path
    for path, value in nnx.to_flat_state(stats):
        assert not np.any(value[...] == (0 if path[-1] == "mean" else 1)), path
    for name, gradient in rows.items():
        reads = np.abs(gradient).max(axis=0) > 1e-9
        if case in ("ncf neumf", "ncf gmf", "ncf mlp"):
            assert reads[:2].all() and not np.any(gradient[:, 2:])
        elif case in ("ffm", "fnfm") and name == "factors":
            # Every partner field's vector, but a field's for itself.
            assert (reads.reshape(F, F, -1).all(axis=-1) == ~np.eye(F, dtype=bool)).all()
        else:
            assert reads.all(), (name, reads)


@every_evaluated
def test_evaluation_is_a_function_of_the_weights_and_the_sample(case):
    model, graph, params, stats = split(case)
    batch = make_batch(model, np.float32)

    @jax.jit
    def logits(params, stats, batch, key):
        model = nnx.merge(graph, params, stats)
        logits = model(GivenRows(batch.rows), batch, train=False, rngs=hashing.Keys(key))
        return logits, nnx.state(model, nnx.BatchStat)

    first, after = logits(params, stats, batch, hashing.key(0))
    assert first.shape == (B,) and first.dtype == jnp.float32 and np.isfinite(first).all()
    jax.tree.map(np.testing.assert_array_equal, stats, after)
    np.testing.assert_array_equal(first, logits(params, stats, batch, hashing.key(1))[0])
    reverse = logits(params, stats, jax.tree.map(lambda x: x[::-1].copy(), batch), hashing.key(0))[0]
    np.testing.assert_allclose(reverse[::-1], first, rtol=1e-5, atol=1e-6)


@every_model
def test_the_network_is_weights_biases_and_statistics(case):
    _, _, params, stats = split(case)  # which raises if there is anything else
    for path, value in nnx.to_flat_state(params):
        assert path[-1] in ("kernel", "bias", "scale")
        assert (value.ndim >= 2) == (path[-1] == "kernel"), path
    assert all(path[-1] in ("mean", "var") for path, _ in nnx.to_flat_state(stats))


@every_model
def test_bfloat16_weights_give_bfloat16_logits(case):
    model, graph, params, stats = split(case)
    batch = make_batch(model, np.float32)

    def logits(params, stats, rows):
        return nnx.merge(graph, params, stats)(GivenRows(rows), batch, train=True, rngs=keys())

    half = jax.eval_shape(logits, *jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, stats, batch.rows)))
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", MODELS)
def test_columns_and_their_first_values(name):
    def first_values(**settings):
        columns = nnx.eval_shape(lambda: build(name, **settings)).columns(SCHEMA)
        assert RowLayout(columns).width == sum(column.width for column in columns.values())
        shape = (20_000, 1)
        return {k: np.asarray(c.init(hashing.key(0), shape, jnp.float32)) for k, c in columns.items()}

    default, torchfm, normal = first_values(), first_values(init="torchfm"), first_values(embed_std=0.1)
    assert "linear" not in default or not default["linear"].any()
    assert "linear" not in torchfm or abs(torchfm["linear"].std() - 1) < 0.02
    if "factors" in default:
        width = get_model(name).Config().embed_dim * (2 if name == "hofm" else 1)  # its orders' factors are one table
        bound = (6 / (SCHEMA.num_rows + width)) ** 0.5
        for factors in (default["factors"], torchfm["factors"]):
            assert 0.99 * bound < np.abs(factors).max() <= bound
        assert abs(normal["factors"].std() - 0.1) < 0.002


def test_neumf_is_a_product_and_a_tower_of_the_user_and_the_item():
    model = build("ncf neumf", dropout=0.0, mlp_dims=(5, 4), embed_dim=2)
    with jax.enable_x64(True):
        batch = make_batch(model, size=3)
        gmf, mlp = batch.rows["gmf"], batch.rows["mlp"]
        assert gmf.shape[-1] == 2 and mlp.shape[-1] == 3
        expected = []
        for b in range(3):
            product = [gmf[b, 0, k] * gmf[b, 1, k] for k in range(2)]
            tower = np.concatenate([mlp[b, 0], mlp[b, 1]])
            for hidden in model.mlp.hidden:
                tower = np.maximum(tower @ np.float64(hidden.kernel[...]) + np.float64(hidden.bias[...]), 0)
            h = np.concatenate([model.gmf_output.kernel[...], model.mlp_output.kernel[...]]).astype(np.float64)
            expected.append(np.concatenate([product, tower]) @ h[:, 0])
        np.testing.assert_allclose(model(GivenRows(batch.rows), batch, train=False), expected, rtol=1e-12)
    assert model.gmf_output.bias is None and model.mlp_output.bias is None and model.mlp.norms is None


def test_fnn_first_order_reads_w0_and_every_weight_beside_its_factors():
    model = build("fnn first-order", embed_dim=2, mlp_dims=(5,))
    model.linear.bias[...] = jnp.array([0.7])
    batch = make_batch(model, np.float32, size=2)
    linear, factors = batch.rows["linear"], batch.rows["factors"]
    expected = []
    for b in range(2):
        z = np.concatenate([[0.7], *([*linear[b, f], *factors[b, f]] for f in range(F))])
        hidden = np.tanh(z @ model.mlp.hidden[0].kernel[...] + model.mlp.hidden[0].bias[...])
        expected.append((hidden @ model.mlp.output.kernel[...] + model.mlp.output.bias[...])[0])
    np.testing.assert_allclose(model(GivenRows(batch.rows), batch, train=False), expected, rtol=1e-5)


def test_ncf_needs_a_user_and_an_item():
    with pytest.raises(SchemaError, match="role 'item'"):
        get_model("ncf")(get_model("ncf").Config(), make_schema((4, 5), ("user", None)), rngs=keys())


WIDE = {"mlp_dims": (400, 400, 400)}
ATTENTION = {"variant": "paper", "attention_dim": 128, "num_heads": 4, "residual": "identity", "linear": False}
LOGARITHMS = {"variant": "paper", "log_neurons": 1000, "linear": False, "mlp_dims": (400,), "batch_norm": False}
PUBLISHED = {  # by FuxiCTR's benchmark for Frappe: ten fields, 5,389 rows, K = 10
    "DCN": (418_591, "dcn", WIDE),
    "CrossNet": (55_191, "dcn", {"mlp_dims": (), "cross_layers": 6}),
    "DCNv2": (458_391, "dcnv2", {**WIDE, "cross_layers": 4}),
    "CrossNetv2": (94_391, "dcnv2", {"mlp_dims": (), "cross_layers": 4}),
    "AutoInt": (306_051, "autoint", {**ATTENTION, "attention_layers": 6, "scale": False, "mlp_dims": ()}),
    "AutoInt+": (622_180, "autoint", {**WIDE, **ATTENTION, "attention_layers": 5, "layer_norm": True}),
    "IPNN": (433_491, "pnn", {**WIDE, "batch_norm": False}),
    "FiBiNET": (743_480, "fibinet", {**WIDE, "bilinear": "field_all", "reduction_ratio": 2}),
    "AFN": (4_066_711, "afn", LOGARITHMS),
    "AFN+": (4_482_205, "afn", {**LOGARITHMS, "dnn_dims": (400, 400, 400)}),
    "HOFM": (113_170, "hofm", {"order": 3}),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_settings_give_the_published_number_of_parameters(case):
    parameters, name, settings = PUBLISHED[case]
    schema = make_schema((5380, *[1] * 9), (None,) * 10)
    config = get_model(name).Config(embed_dim=10, **settings)
    model = nnx.eval_shape(lambda: get_model(name)(config, schema, rngs=keys()))
    table = schema.num_rows * sum(column.width for column in model.columns(schema).values())
    assert table + sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param))) == parameters


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("autoint", {"num_heads": 3}, "attention_dim = 64 .*num_heads = 3 must divide it"),
        ("autoint", {"num_heads": 0}, "num_heads = 0: must be at least 1"),
        ("autoint", {"layer_norm": True}, 'layer_norm = true: .*variant = "paper"'),
        ("dcn", {"cross_layers": 0}, "cross_layers = 0: must be at least 1"),
        ("dcnv2", {"num_experts": 2}, "num_experts = 2: .* give model.low_rank"),
        ("dcnv2", {"low_rank": -1}, "low_rank = -1: must be at least 0"),
        ("fibinet", {"reduction_ratio": 0}, "reduction_ratio = 0: must be at least 1"),
        ("afn", {"log_floor": 0.0}, "log_floor = 0.0: must be above 0"),
        ("afn", {"log_neurons": 0}, "log_neurons = 0: must be at least 1"),
        ("afn", {"dnn_dropout": 1.0}, "dnn_dropout = 1.0: must be at least 0 and below 1"),
        ("hofm", {"order": 1}, "order = 1: must be from 2 to 7"),
        ("hofm", {"order": 8}, "order = 8: must be from 2 to 7"),
        ("pnn", {"mlp_dims": ()}, "no hidden layer"),
    ],
)
def test_settings_that_cannot_be_are_refused(name, settings, words):
    with pytest.raises(UserError, match=words):
        config = get_model(name).Config(**settings)
        get_model(name)(config, SCHEMA, rngs=keys())


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_its_own_settings_and_file(name):
    model = get_model(name)
    assert issubclass(model.Config, ModelConfig) and model.Config.__module__ == model.__module__
    assert model.__module__ == f"dist_fm.models.{name}"
    assert name == "lr" or model.Config().embed_dim == {"ffm": 4, "fnfm": 4, "onn": 4, "nfm": 64}.get(name, 16)


def test_aliases_and_unknown_names():
    assert all(get_model(alias) is MODELS[name] for alias, name in ALIASES.items())
    assert get_model("wd") is MODELS["wide_deep"]
    with pytest.raises(ValueError, match="unknown model 'deep_fm': did you mean deepfm?"):
        get_model("deep_fm")
    with pytest.raises(ValueError, match="unknown model 'zzz': allowed: lr, fm, ffm"):
        get_model("zzz")

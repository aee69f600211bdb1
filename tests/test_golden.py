"""Parity with torchfm 0.7.0: its weights, loaded here, give its logits, gradients and first three Adam losses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import SHARED, USERS_FUSION, keys, make_schema
from flax import nnx

from dist_fm.errors import UserError
from dist_fm.models import MODELS, get_model
from dist_fm.models.base import GivenRows
from dist_fm.models.torchfm import (
    columns_from_torchfm,
    config_from_torchfm,
    load_network,
    model_from_torchfm,
    network_from_torchfm,
    roles_from_torchfm,
)

# Gradients that are truly zero (biases that feed a BatchNorm; AFM's projection bias and AutoInt's of keys, before a
# softmax) hold rounding noise alone, up to 2e-8 in torchfm's: less than ZERO there must be less than ZERO_ATOL here.
# Before a BatchNorm they are known by their place: there torchfm's noise is up to 8e-8 (pnn_inner).
ZERO, ZERO_ATOL = 3e-8, 2e-7

GOLDEN = SHARED / "golden" / "torchfm"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs ../shared/golden, which is not in the repository")

NO_GOLDEN = {"dcnv2", "fibinet", "onn", "hofm"}  # not in torchfm 0.7.0; tests/test_model_loops.py has them
FILES = [*(name for name in MODELS if name not in {*NO_GOLDEN, "pnn"}), "pnn_inner", "pnn_outer"]


class FullBatch:
    """What a model reads of a batch without padding."""

    def __init__(self, size):
        self.mask = jnp.ones(size)


def logit(probability):
    probability = np.asarray(probability, np.float64)
    return np.log(probability) - np.log1p(-probability)


def test_every_model_has_a_golden_file_or_is_known_to_have_none():
    assert {model_from_torchfm({"model": name}) for name in FILES} == set(MODELS) - NO_GOLDEN


@needs_golden
@pytest.mark.parametrize("name", FILES)
def test_torchfm_parity(name):
    golden = np.load(GOLDEN / f"{name}.npz")
    theirs = json.loads(bytes(golden["config"]))
    state, gradients = (
        {key.removeprefix(prefix): golden[key] for key in golden.files if key.startswith(prefix)}
        for prefix in ("state/", "grad/")
    )
    roles = roles_from_torchfm(theirs)
    field_dims = theirs["field_dims"]
    schema = make_schema(field_dims, [roles.get(i) for i in range(len(field_dims))])
    model = get_model(model_from_torchfm(theirs))(config_from_torchfm(theirs), schema, rngs=keys())
    load_network(model, network_from_torchfm(theirs, state))
    graph, network, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    columns = {key: jnp.asarray(value) for key, value in columns_from_torchfm(theirs, state).items()}
    assert {key: c.shape[1] for key, c in columns.items()} == {k: c.width for k, c in model.columns(schema).items()}
    ids = golden["x"] + np.array([field.offset for field in schema.fields])
    labels, batch = jnp.asarray(golden["y"]), FullBatch(len(ids))

    def logits(weights, stats, train):
        model = nnx.merge(graph, weights["network"], stats)
        rows = {key: column[ids] for key, column in weights["columns"].items()}
        rngs = keys() if train else None
        return model(GivenRows(rows), batch, train=train, rngs=rngs), nnx.state(model, nnx.BatchStat)

    @jax.jit
    def evaluate(weights, stats):
        return logits(weights, stats, train=False)[0]

    def loss(weights, stats):
        z, stats = logits(weights, stats, train=True)
        return optax.sigmoid_binary_cross_entropy(z, labels).mean(), (z, stats)

    weights = {"network": network, "columns": columns}
    np.testing.assert_allclose(evaluate(weights, stats), logit(golden["prob_eval"]), rtol=0, atol=1e-5)

    optimizer = optax.adam(1e-2)

    differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=USERS_FUSION)

    @jax.jit
    def update(gradient, slots, weights):
        updates, slots = optimizer.update(gradient, slots)
        return optax.apply_updates(weights, updates), slots

    slots, losses = optimizer.init(weights), []
    for i in range(3):
        (value, (z, stats)), gradient = differentiate(weights, stats)
        losses.append(value)
        if i == 0:
            np.testing.assert_allclose(z, logit(golden["prob_train"]), rtol=0, atol=1e-5)
            expected = network_from_torchfm(theirs, gradients)
            check_gradients(gradient, expected, columns_from_torchfm(theirs, gradients))
            take_noise(gradient["network"], expected)
        weights, slots = update(gradient, slots, weights)
    np.testing.assert_allclose(losses, golden["adam_losses"], rtol=0, atol=1e-5)


def check_gradients(ours, network, columns):
    largest = max(np.abs(array).max() for array in (*network.values(), *columns.values()))
    ours_network = dict(nnx.to_flat_state(ours["network"]))
    assert ours_network.keys() == network.keys() and ours["columns"].keys() == columns.keys()
    for mine, theirs in ((ours_network, network), (ours["columns"], columns)):
        for path, expected in theirs.items():
            size = np.abs(expected).max()
            feeds_batch_norm = path[:2] == ("mlp", "hidden") and path[-1] == "bias"
            assert size < ZERO_ATOL or not feeds_batch_norm
            atol = ZERO_ATOL if size < ZERO or feeds_batch_norm else 1e-5 * max(size, 0.01 * largest)
            np.testing.assert_allclose(mine[path][...], expected, rtol=0, atol=atol, err_msg=str(path))


def take_noise(ours, theirs):
    """Puts torchfm's gradients in the place of ours where both are rounding noise.

    Adam's first step is a gradient over its own size: it makes noise as large as any. The BatchNorm biases of two units
    of pnn_outer, whose ReLU lets every sample through to the next BatchNorm, move its losses so by 6e-6 from float64's.
    """
    for path, gradient in nnx.to_flat_state(ours):
        noise = (np.abs(theirs[path]) < ZERO) & (np.abs(gradient[...]) < ZERO_ATOL)
        gradient[...] = jnp.where(noise, theirs[path], gradient[...])


FM = {"model": "fm", "torchfm_class": "FactorizationMachineModel", "field_dims": [2, 3], "embed_dim": 2}


def test_settings_that_are_unknown_or_missing_are_named():
    assert config_from_torchfm(FM).embed_dim == 2
    with pytest.raises(UserError, match="no argument 'embed_size'"):
        config_from_torchfm({**FM, "embed_size": 4})
    with pytest.raises(UserError, match="does not give embed_dim"):
        config_from_torchfm({"model": "fm", "field_dims": [2, 3]})
    with pytest.raises(UserError, match="does not give attention_dropout, dropout"):
        config_from_torchfm({"model": "afm", "field_dims": [2, 3], "embed_dim": 2, "attn_size": 3})


def test_arrays_that_do_not_fit_are_named():
    model = get_model("fm")(config_from_torchfm(FM), make_schema((2, 3), (None, None)), rngs=keys())
    good = {"linear.bias": np.full(1, 3, np.float32)}
    load_network(model, network_from_torchfm(FM, good))
    assert model.linear.bias[0] == 3
    with pytest.raises(UserError, match=r"linear\.bias: not given"):
        load_network(model, {})
    with pytest.raises(UserError, match=r"linear\.bias: \(2,\), the model's is \(1,\)"):
        load_network(model, network_from_torchfm(FM, {"linear.bias": np.zeros(2)}))
    with pytest.raises(UserError, match="no module 'cross'"):
        network_from_torchfm(FM, {**good, "cross.weight": np.zeros((2, 2))})
    with pytest.raises(UserError, match="has 4 rows, but field_dims sum to 5"):
        columns_from_torchfm(FM, {"embedding.embedding.weight": np.zeros((4, 2))})

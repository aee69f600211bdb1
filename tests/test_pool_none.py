"""Fields with ``pool = none``: every entry is a model's input by itself, against loops over the entries, in float64.

All through the engine: packed records, looked-up rows, the compiled step.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import keys, make_config, make_engine

from dist_fm.data.schema import EMPTY, Field, Label, Schema, SchemaError
from dist_fm.errors import UserError
from dist_fm.layers.attention import PairAttention
from dist_fm.models import MODELS
from dist_fm.parallel.mesh import make_mesh
from dist_fm.training.placement import choose_update
from dist_fm.training.state import named
from dist_fm.training.step import Engine

TAKES_SLOTS = ("lr", "fm", "afm", "nfm", "hofm")
DROPOUTS = {"nfm": {"interaction_dropout": 0.0, "dropout": 0.0, "batch_norm": False}}
DROPOUTS["afm"] = {"attention_dropout": 0.0, "dropout": 0.0}
ROWS = 20
SLOW = {("hofm", (False, 1)), *((model, (False, 4)) for model in TAKES_SLOTS)}
every_model = pytest.mark.parametrize(
    "model", [pytest.param(model, marks=pytest.mark.slow if model == "hofm" else ()) for model in TAKES_SLOTS]
)


def schema_of(most=5, mixed=True):
    """Up to ``most`` entries, not pooled; with ``mixed``, between a single column, a mean of two, and a number."""
    entries = Field("entries", "categorical", ROWS, 0, slots=most, transform={"pool": "none"})
    if not mixed:
        return Schema("entries", (entries,), Label("y", "binary"), has_values=True)
    single = Field("single", "categorical", 7, ROWS)
    mean = Field("mean", "categorical", 6, ROWS + 7, slots=2, transform={"pool": "mean"})
    fields = (single, entries, mean, Field("number", "numeric", 2, ROWS + 13))
    return Schema("mixed", fields, Label("y", "binary"), has_values=True)


def batch_of(schema, size, padded=None, seed=0):
    """Rows of 3, 4, 0, 1, ... entries at the front of the slots; the last ``padded - size`` rows are padding."""
    rng = np.random.default_rng(seed)
    made = {name: np.zeros(padded or size, np.float32) for name in ("labels", "weights", "mask")}
    made["labels"][:size], made["weights"][:size], made["mask"][:size] = rng.integers(0, 2, size), 1, 1
    made["rows"] = np.full((padded or size, schema.num_slots), EMPTY, np.int32)
    made["values"] = np.zeros((padded or size, schema.num_slots), np.float32)
    for b in range(size):
        parts = []
        for field in schema.fields:
            filled = (b + 3) % 5 if not field.is_pooled else field.slots
            ids = rng.integers(0, field.rows, filled) + field.offset
            parts.append((np.append(ids, [EMPTY] * (field.slots - filled)),
                          np.append(rng.normal(1, 0.5, filled), [0] * (field.slots - filled))))  # fmt: skip
        made["rows"][b], made["values"][b] = (np.concatenate(part) for part in zip(*parts, strict=True))
    return made


def engine_of(model, schema, update="dense", devices=1, hosts=1, placement="replicated", **optimizer):
    tables = {"update": update, "placement": placement, **({"optimizer": "sgd"} if update == "sparse" else {})}
    optimizer = {"name": "sgd", "lr": 1.0, **optimizer}
    sizes = {} if model == "lr" else {"embed_dim": 3}
    given = {"tables": tables, "optimizer": optimizer, "model": {**sizes, **DROPOUTS.get(model, {})}}
    return Engine(make_config(model, sections=given), schema, make_mesh(jax.devices()[: devices * hosts], hosts),
                  dtype=jnp.float64)  # fmt: skip


def drawn(engine, seed=3):
    """A state whose every array is drawn, so that no weight hides at zero; the table's padding rows stay zero."""
    rng, state = np.random.default_rng(seed), jax.device_get(engine.init())
    table = np.zeros_like(state.table)
    logical = engine.spec.physical(np.arange(engine.spec.rows))
    table[logical] = rng.normal(0, 0.5, (engine.spec.rows, state.table.shape[1]))
    params = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape), state.params)
    return jax.device_put(dataclasses.replace(state, table=table, params=params), engine.shardings)


def inputs_of(schema, ids, values):
    """What a model should see of one sample: for each input that is there, its (row, value) pairs."""
    found, at = [], 0
    for field in schema.fields:
        slots = [(int(ids[s]), float(values[s])) for s in range(at, at + field.slots) if ids[s] != EMPTY]
        found += [slots] if field.is_pooled else [[slot] for slot in slots]
        at += field.slots
    return found


def loop_logit(model, table, network, inputs):
    """By loops over the inputs, their pairs and threes; ``table`` [rows, 1 + width], ``network`` arrays by path."""
    vectors = [sum(value * table[row] for row, value in slots) for slots in inputs]
    logit = network["linear.bias"][0] + sum(vector[0] for vector in vectors)
    products = [a[1:] * b[1:] for a, b in itertools.combinations(vectors, 2)]
    if model == "fm":
        logit += sum(product.sum() for product in products)
    if model == "hofm":
        logit += sum(product[:3].sum() for product in products)
        logit += sum(jnp.prod(jnp.stack(three), axis=0)[4:].sum() for three in itertools.combinations(vectors, 3))
    if model == "nfm":
        hidden = sum(products, jnp.zeros(table.shape[1] - 1))
        hidden = hidden @ network["mlp.hidden.0.kernel"] + network["mlp.hidden.0.bias"]
        logit += (jnp.maximum(hidden, 0) @ network["mlp.output.kernel"] + network["mlp.output.bias"])[0]
    if model == "afm":
        pooled = jnp.zeros(table.shape[1] - 1)
        if products:
            hidden = [p @ network["attention.hidden.kernel"] + network["attention.hidden.bias"] for p in products]
            scores = [jnp.maximum(h, 0) @ network["attention.projection.kernel"][:, 0]
                      + network["attention.projection.bias"][0] for h in hidden]  # fmt: skip
            total = sum(jnp.exp(score) for score in scores)
            pooled = sum(jnp.exp(score) / total * p for score, p in zip(scores, products, strict=True))
        logit += (pooled @ network["output.kernel"] + network["output.bias"])[0]
    return logit


def loop_logits(model, schema, table, params, made):
    network = named(params)
    real = range(int(made["mask"].sum()))
    return jnp.stack([loop_logit(model, table, network, inputs_of(schema, made["rows"][b], made["values"][b]))
                      for b in real])  # fmt: skip


def put(engine, made):
    return engine.place(engine.prepare(made))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    "model, mixed, size",
    [
        pytest.param(model, *case, marks=pytest.mark.slow if (model, case) in SLOW else ())
        for model in TAKES_SLOTS
        for case in ((False, 1), (False, 4), (True, 4))
    ],
)
def test_logits_and_gradients_are_those_of_loops_over_the_entries(model, mixed, size):
    """Gradients of table and network as one step of SGD at rate 1 shows them."""
    schema = schema_of(mixed=mixed)
    made = batch_of(schema, size, padded=size + 2)
    engine = engine_of(model, schema)
    state = drawn(engine)
    logical = engine.spec.physical(np.arange(schema.num_rows))
    table, params = np.asarray(state.table)[logical], jax.tree.map(np.asarray, state.params)

    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def by_loops(table, params):
        logits, labels = loop_logits(model, schema, table, params, made), made["labels"][:size]
        return jnp.mean(jnp.logaddexp(0, logits) - labels * logits), logits

    (loss, logits), (table_gradient, gradient) = by_loops(table, params)
    np.testing.assert_allclose(engine.eval_step(state, put(engine, made)).logits[:size], logits, rtol=1e-12, atol=1e-12)
    new, metrics = engine.train_step(state, put(engine, made))
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(new.table)[logical], table - table_gradient, rtol=1e-12, atol=1e-12)
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(new, old - g, rtol=1e-12, atol=1e-12),
        *(new.params, params, gradient),
    )
    squares = sum(float((g**2).sum()) for g in jax.tree.leaves((table_gradient, gradient)))
    np.testing.assert_allclose(metrics.gradient_norm, squares**0.5, rtol=1e-12)  # empty slots have no part in it


@every_model
def test_more_empty_slots_change_nothing(model):
    few, many = schema_of(5), schema_of(9)
    made = batch_of(few, 6)
    wide = {**made, "rows": np.insert(made["rows"], [3, 6, 6, 6], EMPTY, axis=1)}
    wide["values"] = np.insert(made["values"], [3, 6, 6, 6], 0, axis=1)
    logits, tables = [], []
    for schema, batch in ((few, made), (many, wide)):
        engine = engine_of(model, schema)
        logits.append(engine.eval_step(drawn(engine), put(engine, batch)).logits)
        tables.append(engine.train_step(drawn(engine), put(engine, batch))[0].table)
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-12)
    np.testing.assert_allclose(tables[1], tables[0], rtol=1e-12, atol=1e-14)


@functools.cache
def steps_of(model, update="dense", devices=1, hosts=1, placement="replicated", steps=8):
    """Losses and the table after some steps of batches with padding, L2, and a bound on the gradient."""
    schema = schema_of()
    engine = engine_of(model, schema, update, devices, hosts, placement, lr=0.25, clip_norm=0.5)
    state, losses = drawn(engine), []
    for step in range(steps):
        state, metrics = engine.train_step(state, put(engine, batch_of(schema, 13, padded=16, seed=step)))
        losses.append(float(metrics.loss))
    return np.array(losses), np.asarray(state.table)


@every_model
def test_sparse_updates_are_dense_ones(model):
    """SGD moves no row that a batch does not touch."""
    for dense, sparse in zip(steps_of(model), steps_of(model, "sparse"), strict=True):
        np.testing.assert_allclose(sparse, dense, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "model, devices, hosts, placement", [("fm", 4, 1, "replicated"), ("nfm", 4, 1, "sharded"), ("afm", 2, 2, "sharded")]
)
def test_every_mesh_gives_the_same_answer(model, devices, hosts, placement):
    for one, many in zip(steps_of(model), steps_of(model, "sparse", devices, hosts, placement), strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-9, atol=1e-9)


def test_slices_sorted_sums_and_ids_made_by_the_step_change_nothing(monkeypatch):
    schema = schema_of()
    made = batch_of(schema, 11, padded=12)
    engine = engine_of("afm", schema)
    whole = engine.train_step(drawn(engine), put(engine, made))

    def check(other):
        found = other.train_step(drawn(other), put(other, made))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), found, whole)

    sections = {name: engine.config.to_dict()[name] for name in ("model", "optimizer")}
    in_step = make_config("afm", sections={**sections, "tables": {"update": "dense", "unique": "device"}})
    check(Engine(in_step, schema, engine.mesh, dtype=jnp.float64))
    as_on_gpu = engine_of("afm", schema)
    as_on_gpu.lookup.sorts = True
    check(as_on_gpu)
    monkeypatch.setattr("dist_fm.tables.lookup.slice_size", lambda samples, floats: 5)
    check(engine_of("afm", schema))


def test_attention_gives_a_pair_that_is_not_there_no_weight_and_no_gradient():
    layer, of_three = (
        PairAttention(fields, 3, 2, dropout=0.0, use_bias=True, layer_init="torch", rngs=keys()) for fields in (4, 3)
    )
    filled = np.array([[True, True, False, True], [False, True, False, False], [False] * 4])
    x = np.random.default_rng(0).normal(size=(3, 4, 3))
    x[~filled] = 1e3  # were they heeded, they would take all weight

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def pool(x):
        pooled = layer(x, None, filled)
        return pooled.sum(), (pooled, of_three(x[:1, [0, 1, 3]], None))

    (_, (pooled, alone)), gradient = pool(x)
    assert np.isfinite(gradient).all() and not gradient[~filled].any() and gradient[0, 0].all()
    assert not pooled[1:].any()
    np.testing.assert_allclose(pooled[0], alone[0], rtol=1e-12)


@pytest.mark.parametrize("model", [name for name in MODELS if name not in TAKES_SLOTS])
def test_other_models_refuse_such_a_field_by_name(model):
    with pytest.raises(UserError) as error:
        choose_update(make_config(model), schema_of())
    assert all(word in str(error.value) for word in (f"model {model} ", "'entries'", "lr, fm, afm, nfm, hofm", "pool"))
    with jax.enable_x64(False), pytest.raises(UserError, match="'entries'"):
        make_engine(model, schema=schema_of(mixed=False))


def test_afm_needs_room_for_a_pair_and_unpooled_slots_need_values():
    with pytest.raises(UserError, match="needs 2 fields or more; .* has 1"):
        make_engine("afm", schema=schema_of(1, mixed=False))
    with pytest.raises(SchemaError, match="need values"):
        Schema("none", schema_of().fields, Label("y", "binary"))

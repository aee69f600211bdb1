"""The same answer on every mesh, and on padded batches, for every model: dropout and BatchNorm included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import host_batch, make_engine, make_schema

from dist_fm.models import MODELS
from dist_fm.parallel.mesh import replicated
from dist_fm.training.in_flight import bounded

STEPS = 20


def put(engine, batch):
    return engine.place(engine.prepare(batch))


def losses(model, devices, start):
    engine = make_engine(model, devices)
    state, found = jax.device_put(start, replicated(engine.mesh)), []
    for step in range(STEPS):
        batch = host_batch(engine.schema, 102, engine.padded_batch(102), seed=step)
        state, metrics = engine.train_step(state, put(engine, batch))
        found.append(float(metrics.loss))
    return found


# In float64 and sharded, most models are in the fast tests: tests/test_same_answer.py.
ON_4 = {"afm"}  # deepfm and fm are in tests/test_same_answer.py
CASES = [
    pytest.param(m, n, marks=[] if (n, m in ON_4) == (4, True) else pytest.mark.slow) for m in MODELS for n in (4, 2)
]


@pytest.mark.parametrize("model, devices", CASES)
def test_losses_of_20_steps_are_the_same_on_several_devices(model, devices):
    # Drawn once: compiling the draws takes as long as compiling the step.
    start = jax.device_get(make_engine(model, 1).init())
    one = losses(model, 1, start)
    assert len(set(one)) == STEPS
    np.testing.assert_allclose(losses(model, devices, start), one, rtol=1e-5)


@pytest.mark.parametrize("model", ["deepfm", "nfm"])  # every model by itself: tests/test_models.py
def test_a_batch_padded_by_30_percent_gives_the_same_step(model):
    """With plain SGD at rate 1 the change of the weights is the gradient."""
    engine = make_engine(model, 1, sections={"optimizer": {"name": "sgd", "lr": 1.0}})
    states = {}
    for padded in (100, 130):
        batch = put(engine, host_batch(engine.schema, 100, padded))
        states[padded] = engine.train_step(engine.init(), batch)
    (a, a_metrics), (b, b_metrics) = states[100], states[130]
    np.testing.assert_allclose(a_metrics.loss, b_metrics.loss, rtol=1e-6)
    for x, y in zip(
        jax.tree.leaves((a.table, a.params, a.stats)), jax.tree.leaves((b.table, b.params, b.stats)), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    start = engine.init()
    assert np.abs(np.asarray(a.table - start.table)).max() > 0


def test_2000_tiny_steps_on_4_devices_do_not_deadlock():
    engine = make_engine("lr", 4, make_schema((5, 4), ("user", "item")))
    batch = put(engine, host_batch(engine.schema, 8, 8))
    state = engine.init()

    def steps():
        nonlocal state
        for _ in range(2000):
            state, metrics = engine.train_step(state, batch)
            yield metrics

    assert sum(1 for _ in bounded(steps())) == 2000
    assert int(state.step) == 2000


def test_bounded_keeps_at_most_the_limit_in_flight_and_loses_nothing():
    sent = []

    def results():
        for i in range(20):
            sent.append(i)
            yield i

    taken = []
    for result in bounded(results(), limit=4):
        taken.append(result)
        assert len(sent) - len(taken) <= 4
    assert taken == list(range(20))


def test_unbinned_numbers_and_lists_add_up_by_field():
    """A field's row is the sum over its slots of value x row; an empty slot adds nothing."""
    from dist_fm.data.schema import EMPTY, Field, Label, Schema

    schema = Schema(
        "slots",
        (Field("a", "categorical", 6, 0), Field("tags", "categorical", 8, 6, slots=3), Field("x", "numeric", 2, 14)),
        Label("y", "binary"),
        has_values=True,
    )
    engine = make_engine("fm", 4, schema)
    batch = host_batch(schema, 10, 12)
    rng = np.random.default_rng(1)
    batch["values"] = rng.normal(1, 1, (12, 5)).astype(np.float32)
    batch["rows"][rng.random((12, 5)) < 0.3] = EMPTY
    state = engine.init()
    placed = put(engine, batch)
    touched = engine.lookup.read(state.table, placed.unique)
    looked_up = engine.lookup.rows(touched, placed.inverse, placed.values, schema.slot_fields)
    found = looked_up.map(lambda rows, network, samples: jnp.concatenate([rows["linear"], rows["factors"]], axis=-1))
    table = np.asarray(state.table)
    expected = np.zeros_like(found)
    for b in range(12):
        for s, field in enumerate(schema.slot_fields):
            row = batch["rows"][b, s]
            if row != EMPTY:
                physical = engine.spec.physical(np.array([row]))[0]
                expected[b, field] += batch["values"][b, s] * table[physical]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_l2_reaches_weights_only():
    """With gradients of zero (no weight on any sample) SGD at rate 1 shows the L2 term alone."""
    settings = {"optimizer": {"name": "sgd", "lr": 1.0, "l2_embedding": 0.25, "l2_network": 0.5}}
    engine = make_engine("deepfm", 1, sections=settings)
    batch = host_batch(engine.schema, 64, 64)
    batch["weights"][:] = 0
    start = engine.init()
    state, _ = engine.train_step(engine.init(), put(engine, batch))
    np.testing.assert_allclose(state.table, 0.75 * start.table, rtol=1e-6)
    for (path, new), (_, old) in zip(
        jax.tree_util.tree_leaves_with_path(state.params),
        jax.tree_util.tree_leaves_with_path(start.params),
        strict=True,
    ):
        factor = 0.5 if "kernel" in jax.tree_util.keystr(path) else 1.0
        np.testing.assert_allclose(new, factor * old, rtol=1e-6, err_msg=jax.tree_util.keystr(path))


def test_clipping_uses_one_global_norm():
    free = make_engine("deepfm", 1, sections={"optimizer": {"name": "sgd", "lr": 1.0}})
    clipped = make_engine("deepfm", 1, sections={"optimizer": {"name": "sgd", "lr": 1.0, "clip_norm": 1e-3}})
    moved = []
    for engine in (free, clipped):
        start = engine.init()
        state, metrics = engine.train_step(engine.init(), put(engine, host_batch(engine.schema, 64, 64)))
        weights = zip(
            jax.tree.leaves((state.table, state.params)), jax.tree.leaves((start.table, start.params)), strict=True
        )
        moved.append(np.concatenate([np.ravel(new - old) for new, old in weights]))
    assert float(metrics.gradient_norm) > 1e-3
    np.testing.assert_allclose(np.linalg.norm(moved[1]), 1e-3, rtol=1e-3)
    np.testing.assert_allclose(
        moved[1], moved[0] * 1e-3 / float(metrics.gradient_norm), rtol=1e-3, atol=1.2e-7
    )  # spacing of floats at 1

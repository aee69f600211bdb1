"""The same answer however the table lies: replicated, sharded, on one device, several, or several hosts; in float64.

Hosts are the first axis of a mesh of devices within this process. Each host makes its own unique ids, so what they
share must be found and summed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import host_batch, make_config, make_schema

from dist_fm.models import MODELS
from dist_fm.parallel.mesh import make_mesh
from dist_fm.tables.rules import ROW_OPTIMIZERS
from dist_fm.training.in_flight import bounded
from dist_fm.training.step import Engine

STEPS, BATCH = 200, 96
SCHEMA = make_schema((400, 300, 200))
ONE = ((1, 1), "replicated")
FAST = [((1, 4), "sharded"), ((1, 4), "replicated")]
HOSTS = [((2, 2), "sharded"), ((2, 2), "replicated"), ((4, 1), "sharded"), ((4, 1), "replicated")]
MORE = [((1, n), placement) for n in (2, 8) for placement in ("sharded", "replicated")]


def engine_on(mesh, placement, model="deepfm", rule="adagrad", update="sparse", dtype=jnp.float64, more_tables=None):
    """Engines differ by mesh and placement alone.

    The network learns by Adagrad (or SGD): Adam would make the rounding noise large that is the gradient of a bias
    before a BatchNorm, and so of its running mean.
    """
    tables = {"update": update, "placement": placement, **({"optimizer": rule} if update == "sparse" else {})}
    tables |= more_tables or {}
    network = "sgd" if rule == "sgd" else "adagrad"
    optimizer = {"name": network, "lr": 0.02, "l2_embedding": 1e-3, "clip_norm": 1.0}
    config = make_config(model, sections={"tables": tables, "optimizer": optimizer})
    hosts, devices = mesh
    assert hosts * devices <= len(jax.devices()), "eight CPU devices: run this by `make test-slow`"
    return Engine(config, SCHEMA, make_mesh(jax.devices()[: hosts * devices], hosts), dtype=dtype)


def batch(spec, step):
    """Every kind in turn: plain, padded, few ids, one id a field, all ids on the first of eight shards, empty slots."""
    real = BATCH if step % 3 else BATCH - 29
    made = host_batch(SCHEMA, real, BATCH, seed=step)
    fields = SCHEMA.fields
    if step % 10 in (3, 4):
        few = 4 if step % 10 == 3 else 1
        for i, field in enumerate(fields):
            made["rows"][:real, i] = field.offset + np.arange(real) % few
    if step % 10 == 6:
        owner = spec.physical(np.arange(spec.rows)) // (spec.padded_rows // 8)
        for i, field in enumerate(fields):
            own = [row for row in range(field.offset, field.offset + field.rows) if owner[row] == 0]
            made["rows"][:real, i] = np.resize(own[:40], real)  # more than one shard is asked for otherwise
    if step % 10 == 8:
        made["rows"][::5, 1] = -1
    return made


def train(engine, start, steps=range(STEPS)):
    """Losses and the final state, as NumPy arrays by name, and the sizes of the batches' unique rows."""
    state = jax.device_put(start, engine.shardings)
    prepared = [engine.prepare(batch(engine.spec, step)) for step in steps]

    def send():
        nonlocal state
        for one in prepared:
            state, metrics = engine.train_step(state, engine.place(one))
            yield metrics

    losses = [float(metrics.loss) for metrics in bounded(send())]
    arrays = {jax.tree_util.keystr(path): np.asarray(a) for path, a in jax.tree_util.tree_leaves_with_path(state)}
    return np.array(losses), arrays, {one.unique.size for one in prepared if one.unique is not None}


@functools.cache
def on_one_device(model, rule, update):
    """Start, losses and end, by unique ids that the step makes: one program, where the host's are one a bucket."""
    engine = engine_on(*ONE, model, rule, update, more_tables={"unique": "device"})
    start = jax.device_get(engine.init())
    losses, arrays, sizes = train(engine, start)
    assert not sizes and engine.compiled_steps() == 1
    return start, losses, arrays


def check(mesh, placement, model="deepfm", rule="adagrad", update="sparse"):
    with jax.enable_x64(True):
        start, losses, arrays = on_one_device(model, rule, update)
        engine = engine_on(mesh, placement, model, rule, update)
        found_losses, found, sizes = train(engine, start)
    assert len(sizes) > 1, "batches of one bucket only: the test has lost its overflow"
    np.testing.assert_allclose(found_losses, losses, rtol=1e-9)
    assert found.keys() == arrays.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, arrays[name], rtol=1e-9, atol=1e-9, err_msg=name)


both_placements = pytest.mark.parametrize("mesh, placement", FAST, ids=[placement for _, placement in FAST])
# The first eleven; the others, which have nothing new for a table, are slow.
QUICK = {"lr", "fm", "ffm", "fnn", "wide_deep", "afm", "nfm", "ncf", "fnfm", "deepfm", "xdeepfm"}


@both_placements
@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS]
)
def test_every_model(model, mesh, placement):
    check(mesh, placement, model)


@both_placements
@pytest.mark.parametrize("rule", [rule for rule in ROW_OPTIMIZERS if rule != "adagrad"])
def test_every_row_optimizer(rule, mesh, placement):
    check(mesh, placement, rule=rule)


@both_placements
@pytest.mark.parametrize("model", ["deepfm", "ffm"])
def test_samples_taken_by_slices(model, mesh, placement, monkeypatch):
    """A device's 24 samples by five, which does not divide them, against one device's uncut."""
    with jax.enable_x64(True):
        on_one_device(model, "adagrad", "sparse")
    cut = []

    def slice_size(samples, floats):
        cut.append(samples)
        return 5

    monkeypatch.setattr("dist_fm.tables.lookup.slice_size", slice_size)
    check(mesh, placement, model)
    assert set(cut) == {BATCH // 4}


@pytest.mark.slow
@pytest.mark.parametrize("mesh, placement", HOSTS[:2])
def test_two_hosts(mesh, placement):
    check(mesh, placement, rule="adam")


@pytest.mark.slow
def test_dense_updates_of_a_sharded_table():
    check((2, 2), "sharded", update="dense")


@pytest.mark.slow
@pytest.mark.parametrize("mesh, placement", [*FAST, *HOSTS, *MORE])
@pytest.mark.parametrize("rule", ROW_OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_the_full_product(model, rule, mesh, placement):
    check(mesh, placement, model, rule)


@pytest.mark.parametrize("model", ["deepfm", "fm"])
def test_float32_losses_of_20_steps(model):
    """Plain batches: where every sample has the same ids BatchNorm divides float32's rounding by sqrt(its epsilon)."""
    plain = range(0, 200, 10)
    engine = engine_on(*ONE, model, "adam", dtype=jnp.float32)
    start = jax.device_get(engine.init())
    losses = train(engine, start, plain)[0]
    for mesh, placement in [FAST[0], HOSTS[0]]:
        found = train(engine_on(mesh, placement, model, "adam", dtype=jnp.float32), start, plain)[0]
        np.testing.assert_allclose(found, losses, rtol=1e-5)


@pytest.mark.parametrize("update", ["sparse", "dense"])
@pytest.mark.parametrize("mesh, placement", [*FAST, HOSTS[0]])
def test_the_first_rows_are_the_same_and_none_holds_more_than_its_shard(mesh, placement, update):
    """Of the table and of Adagrad's sums, which are optax's where updates are dense."""
    one, engine = (engine_on(*on, update=update, dtype=jnp.float32) for on in (ONE, (mesh, placement)))
    rows = engine.spec.padded_rows
    expected, found = (
        [array for array in jax.tree.leaves(made.init()) if array.shape[:1] == (rows,)] for made in (one, engine)
    )
    assert len(found) == len(expected) == 2
    for array, like in zip(found, expected, strict=True):
        assert np.array_equal(array, like)
        shards = 4 if placement == "sharded" else 1
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {rows // shards}


@pytest.mark.parametrize("mesh, placement", [ONE, *FAST])
def test_a_run_twice_gives_the_same_bits(mesh, placement):
    ends = []
    for _ in range(2):
        engine = engine_on(mesh, placement, rule="adam", dtype=jnp.float32)
        ends.append(train(engine, jax.device_get(engine.init()), range(50))[1])
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    "model, mesh, placement",
    [
        ("fm", *ONE),
        ("fm", *HOSTS[0]),
        pytest.param("fm", *HOSTS[1], marks=pytest.mark.slow),
        ("deepfm", *FAST[0]),  # whose squares are made by the rows' owners
    ],
)
def test_duplicates_summed_by_sorting_give_the_same_step(model, mesh, placement):
    """The way of GPUs, taken here on the CPU."""
    with jax.enable_x64(True):
        start, losses, _ = on_one_device(model, "adam", "sparse")
        engine = engine_on(mesh, placement, model, "adam")
        engine.lookup.sorts = True
        found_losses, found, _ = train(engine, start, range(40))
    np.testing.assert_allclose(found_losses, losses[:40], rtol=1e-9)


@pytest.mark.parametrize("update", ["sparse", "dense"])
def test_unique_ids_made_by_the_step_and_by_the_host_give_the_same_answer(update):
    check(*ONE, update=update)

"""Row rules by themselves: decay over rests, the bound on norms, what settings are allowed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dist_fm.errors import UserError
from dist_fm.tables.optimizers import ColumnRule, TableOptimizer, parse_rule
from dist_fm.tables.rules import ROW_OPTIMIZERS, SGD
from dist_fm.tables.spec import Column, RowLayout, zeros

LR, WIDTH = 0.05, 3


def optimizer_for(text, width=WIDTH):
    return TableOptimizer(RowLayout({"c": Column(width, zeros)}), {"c": parse_rule(text, LR, {}, "a test")})


def train(text, table, touched, gradients):
    """Table and slots after one update a step: of rows ``touched[step]``, by ``gradients[step]`` [rows, width]."""
    optimizer = optimizer_for(text, table.shape[1])
    update = jax.jit(optimizer.update)
    table, slots = jnp.asarray(table, jnp.float32), optimizer.init(len(table), jnp.float32)
    for step, (rows, gradient) in enumerate(zip(touched, gradients, strict=True)):
        rows = np.asarray(rows)
        own = None if slots is None else {name: slot[rows] for name, slot in slots.items()}
        new, own = update(table[rows], jnp.asarray(gradient[rows], jnp.float32), own, jnp.float32(LR), jnp.int32(step))
        table = table.at[rows].set(new)
        slots = None if slots is None else {name: slot.at[rows].set(own[name]) for name, slot in slots.items()}
    return np.asarray(table), jax.tree.map(np.asarray, slots)


def test_adagrad_decay_is_every_row_fading_at_the_same_steps():
    """Against the eager form: at every third step all sums fade, touched or not. Rows rest over up to nine decays."""
    steps, first, rate = 30, 0.3, 0.6
    touched = [[0, *([1] if t in (0, 1, 8, 29) else []), *([2] if t > 24 else []), 3 + t % 5] for t in range(steps)]
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(8, WIDTH)), rng.normal(size=(steps, 8, WIDTH))
    table, total, floored = start.copy(), np.full((8, WIDTH), first), 0
    for t, rows in enumerate(touched):
        if (t + 1) % 3 == 0:
            floored += (total * rate < first).sum()
            total = np.maximum(total * rate, first)
        total[rows] += gradients[t, rows] ** 2
        table[rows] -= LR * gradients[t, rows] / np.sqrt(total[rows])
    assert 0 < floored < 8 * WIDTH * (steps // 3)
    rule = f"adagrad_decay:decay_step=3:decay_rate={rate}:initial_accumulator={first}"
    found, slots = train(rule, start, touched, gradients)
    np.testing.assert_allclose(found, table, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slots["c.sum"][:3], total[:3], rtol=1e-5)  # those touched at the last step
    assert slots["c.power"][:3, 0].tolist() == [steps // 3] * 3


def test_adagrad_decay_reproduces_deeprecs_own_test():
    """Its adagrad_decay_v2_test.py, doTestSparseBasic: lr 1, gradients 0.1; the third of four updates decays."""
    rule = "adagrad_decay:decay_step=3:lr=1"
    found, _ = train(rule, np.ones((1, 1)), [[0]] * 4, np.full((4, 1, 1), 0.1))
    sums = [0.11, 0.12, 0.12 * 0.9 + 0.01, 0.12 * 0.9 + 0.02]
    np.testing.assert_allclose(found, 1 - sum(0.1 / np.sqrt(s) for s in sums), rtol=1e-6)


def test_adam_async_is_adam_where_eps_is_negligible():
    rng = np.random.default_rng(1)
    arguments = rng.normal(size=(4, WIDTH)), [[0, 1], [1, 2, 3], [0, 3]] * 3, rng.normal(size=(9, 4, WIDTH))
    settings = "b1=0.8:b2=0.95:eps=1e-12"
    both = [train(f"{name}:{settings}", *arguments)[0] for name in ("adam", "adam_async")]
    np.testing.assert_allclose(*both, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ROW_OPTIMIZERS)
def test_max_norm_bounds_touched_rows_after_the_update(rule):
    rng = np.random.default_rng(2)
    start, gradients = rng.normal(size=(40, WIDTH)) / 3, rng.normal(size=(1, 40, WIDTH)) * 5
    touched = [np.arange(30)]
    free, slots = train(rule, start, touched, gradients)
    bound, bound_slots = train(f"{rule}:max_norm=0.5", start, touched, gradients)
    norms = np.linalg.norm(free[:30], axis=1, keepdims=True)
    if rule != "ftrl":  # its first update forgets the initial weights
        assert 3 < (norms > 0.5).sum() < 27
    np.testing.assert_allclose(bound[:30], free[:30] * np.minimum(1, 0.5 / np.maximum(norms, 1e-9)), rtol=1e-5)
    np.testing.assert_array_equal(bound[:30][norms[:, 0] <= 0.5], free[:30][norms[:, 0] <= 0.5])
    np.testing.assert_array_equal(bound[30:], start[30:].astype(np.float32))
    for name in slots or {}:
        np.testing.assert_array_equal(bound_slots[name], slots[name])


EDGES = [
    "adagrad:initial_accumulator=0:eps=0",
    "rowwise_adagrad:initial_accumulator=0",
    "adagrad_decay:decay_rate=1:decay_step=1",
    f"adagrad_decay:decay_step={2**31 - 1}",
    "adam:b1=0:b2=0",
    "adam_async:b1=0:b2=0",
    "adam_async:b1=0:b2=0:apply_sparse_rmsprop=1",
    "ftrl:beta=0",
]


@pytest.mark.parametrize("rule", [*ROW_OPTIMIZERS, *EDGES])
def test_no_allowed_setting_makes_nan_of_zeros(rule):
    """Zero rows, gradients and slots: a column whose gradient vanishes, and the padding of a batch's unique rows."""
    optimizer = optimizer_for(f"{rule}:max_norm=0.1")
    nothing, first = jnp.zeros((2, WIDTH)), optimizer.init(2, jnp.float32)
    for start in (jax.tree.map(jnp.zeros_like, first), first):
        for gradient in (nothing, nothing.at[0].set(1.0)):
            rows, new = optimizer.update(nothing, gradient, start, jnp.float32(LR), jnp.int32(0))
            assert all(np.isfinite(array).all() for array in (rows, *(new or {}).values()))
            np.testing.assert_array_equal(rows[1], 0)


@pytest.mark.parametrize(
    "text, words",
    [
        ("adma", ["adma", "did you mean adam"]),
        ("adam:b3=1", ["adam has no 'b3'", "b1"]),
        ("adam:b1=x", ["b1='x'", "not a number"]),
        ("adam:maxnorm=1", ["did you mean max_norm"]),
        ("sgd:l1=1", ["sgd has no 'l1'", "lr"]),
        ("sgd:lr=0", ["sgd's lr must be above 0"]),
        ("sgd:lr=nan", ["sgd's lr must be above 0"]),
        ("adam:max_norm=0", ["adam's max_norm must be above 0"]),
        ("adam:max_norm=inf", ["adam's max_norm must be above 0"]),
        ("adam:b1=1", ["adam's b1 must be at least 0 and below 1"]),
        ("adam:b2=-0.1", ["adam's b2 must be at least 0 and below 1"]),
        ("adam:eps=0", ["adam's eps must be above 0"]),
        ("adam_async:b2=1", ["adam_async's b2 must be at least 0 and below 1"]),
        ("adam_async:apply_sparse_rmsprop=0.5", ["apply_sparse_rmsprop must be 0 or 1"]),
        ("adagrad:eps=-1e-9", ["adagrad's eps must be at least 0"]),
        ("adagrad:initial_accumulator=-1", ["initial_accumulator must be at least 0"]),
        ("rowwise_adagrad:eps=0", ["rowwise_adagrad's eps must be above 0"]),
        ("adagrad_decay:initial_accumulator=0", ["initial_accumulator must be above 0"]),
        ("adagrad_decay:decay_rate=0", ["decay_rate must be above 0 and at most 1"]),
        ("adagrad_decay:decay_rate=1.1", ["decay_rate must be above 0 and at most 1"]),
        ("adagrad_decay:decay_step=0", ["decay_step must be a whole number from 1"]),
        ("adagrad_decay:decay_step=2.5", ["decay_step must be a whole number from 1"]),
        ("adagrad_decay:decay_step=inf", ["decay_step must be a whole number from 1"]),
        ("ftrl:l1=-1", ["ftrl's l1 must be at least 0"]),
        ("ftrl:l2=-1", ["ftrl's l2 must be at least 0"]),
    ],
)
def test_bad_rules_are_named(text, words):
    with pytest.raises(UserError) as error:
        parse_rule(text, LR, {}, "--tables.optimizer")
    for word in [f"--tables.optimizer={text}", *words]:
        assert word in str(error.value)


def test_settings_are_kept_as_what_they_are():
    assert parse_rule("sgd:max_norm=2:lr=0.1", LR, {}, "x") == ColumnRule(SGD(), 2.0, 2.0)
    rule = parse_rule("adagrad_decay:decay_step=1e5", LR, {}, "x")
    assert rule.optimizer.decay_step == 100_000 and isinstance(rule.optimizer.decay_step, int)
    assert parse_rule("adam_async:apply_sparse_rmsprop=1", LR, {}, "x").optimizer.apply_sparse_rmsprop is True
    assert parse_rule("adam_async:apply_sparse_rmsprop=0", LR, {}, "x").optimizer.apply_sparse_rmsprop is False


def test_settings_of_the_optimizer_reach_its_row_rule_where_it_has_them():
    assert parse_rule("sgd", LR, {"b1": 0.5}, "x").optimizer == SGD()
    assert parse_rule("adam", LR, {"b1": 0.5}, "x").optimizer.b1 == 0.5
    assert parse_rule("adam:b1=0.6", LR, {"b1": 0.5}, "x").optimizer.b1 == 0.6
    with pytest.raises(UserError, match=r"--optimizer.b1=1.5: adam's b1 on touched rows must be at least 0 and"):
        parse_rule("adam", LR, {"b1": 1.5}, "--tables.optimizer")

"""Row optimizers on touched rows, against plain NumPy and their dense optax twins, through the compiled step."""

import functools

import jax
import numpy as np
import pytest
from conftest import host_batch, make_engine, make_schema

from dist_fm.data.schema import EMPTY, Field, Label, Schema
from dist_fm.errors import UserError
from dist_fm.tables.rules import FTRL, ROW_OPTIMIZERS

LR, L2, STEPS, BOUND = 0.05, 0.01, 6, 0.02


def sgd(w, g, s, t):
    return w - LR * g


def adagrad(w, g, s, t):
    s["sum"] = s.get("sum", 0.1) + g * g
    return w - LR * g / np.sqrt(s["sum"] + 1e-7)


def rowwise_adagrad(w, g, s, t):
    s["sum"] = s.get("sum", 0.0) + np.mean(g * g)
    return w - LR * g / (np.sqrt(s["sum"]) + 1e-8)


def adam(w, g, s, t):
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g * g
    return w - LR * (s["m"] / (1 - 0.9 ** (t + 1))) / (np.sqrt(s["v"] / (1 - 0.999 ** (t + 1))) + 1e-8)


def adagrad_decay(w, g, s, t):
    """decay_step=2, decay_rate=0.5, initial_accumulator=1e-5."""
    power = (t + 1) // 2
    faded = s.get("sum", 1e-5) * 0.5 ** (power - s.get("power", 0))
    s["power"], s["sum"] = power, np.maximum(faded, 1e-5) + g * g
    return w - LR * g / np.sqrt(s["sum"])


def adam_async(w, g, s, t):
    """eps=1e-3, large enough to show that the bias correction leaves it alone."""
    m, v, s["b1_power"], s["b2_power"] = s.get("m", 0), s.get("v", 0), 0.9 ** (t + 1), 0.999 ** (t + 1)
    s["m"], s["v"] = m + (g - m) * 0.1, v + (g * g - v) * 0.001
    return w - LR * np.sqrt(1 - s["b2_power"]) / (1 - s["b1_power"]) * s["m"] / (np.sqrt(s["v"]) + 1e-3)


def adam_async_rmsprop(w, g, s, t):
    """b2=0.9, eps=1e-4: without bias correction, the defaults' first steps are too large to compare float32 with."""
    s["v"] = 0.9 * s.get("v", 0) + 0.1 * g * g
    s["m"] = 0.9 * s.get("m", 0) + LR * g / np.sqrt(s["v"] + 1e-4)
    return w - s["m"]


def bounded_sgd(w, g, s, t):
    new = sgd(w, g, s, t)
    return new * min(1, BOUND / max(np.sqrt(np.sum(new * new)), 1e-30))


def ftrl(w, g, s, t, l1=0.0, l2=0.0, beta=1.0):
    new, old = np.empty_like(w), s.get("n", np.zeros_like(w))
    s["n"] = old + g * g
    s["z"] = s.get("z", np.zeros_like(w)) + g - (np.sqrt(s["n"]) - np.sqrt(old)) / LR * w
    for i, z in enumerate(s["z"]):
        denominator = (beta + np.sqrt(s["n"][i])) / LR + l2
        new[i] = 0.0 if abs(z) <= l1 else -(z - np.sign(z) * l1) / denominator
    return new


def regular_ftrl(w, g, s, t):
    return ftrl(w, g, s, t, l1=0.005, l2=2.0, beta=0.5)


REFERENCES = {
    "sgd": sgd,
    f"sgd:max_norm={BOUND}": bounded_sgd,
    "adagrad": adagrad,
    "rowwise_adagrad": rowwise_adagrad,
    "adagrad_decay:decay_step=2:decay_rate=0.5:initial_accumulator=1e-5": adagrad_decay,
    "adam": adam,
    "adam_async:eps=1e-3": adam_async,
    "adam_async:apply_sparse_rmsprop=1:b2=0.9:eps=1e-4": adam_async_rmsprop,
    "ftrl": ftrl,
    "ftrl:l1=0.005:l2=2:beta=0.5": regular_ftrl,
}


def engine_for(rule, model="fm", columns=(), **optimizer):
    network = rule if rule in ("sgd", "adagrad", "adam") else "sgd"
    sections = {
        "tables": {"update": "sparse", "optimizer": rule, "columns": [*columns]},
        "optimizer": {"name": network, "lr": LR, **optimizer},
    }
    return make_engine(model, sections=sections)


def put(engine, batch):
    return engine.place(engine.prepare(batch))


def test_every_rule_has_a_reference():
    assert {rule.partition(":")[0] for rule in REFERENCES} == set(ROW_OPTIMIZERS)


@pytest.mark.parametrize("rule", REFERENCES)
def test_touched_rows_follow_the_rule_and_others_stay(rule):
    """Duplicates included: rows occur many times in a batch of 64, and their gradients are summed before the rule."""
    follows(engine_for(rule, l2_embedding=L2), dict.fromkeys(("linear", "factors"), REFERENCES[rule]))


def test_columns_follow_rules_of_their_own():
    """As Wide & Deep's paper trains it: the first-order column by FTRL with L1, the factors by Adagrad."""
    ftrl_with_l1 = "ftrl:l1=0.005:l2=2:beta=0.5"
    engine = engine_for("adagrad", columns=[f"linear={ftrl_with_l1}"], l2_embedding=L2)
    follows(engine, {"linear": REFERENCES[ftrl_with_l1], "factors": adagrad})


def test_each_partner_field_has_a_row_wise_number():
    engine = engine_for("rowwise_adagrad", "ffm", l2_embedding=L2)
    fields = engine.schema.num_fields
    assert engine.row_optimizer.slots == {"linear.sum": (1, 0.0), "factors.sum": (fields, 0.0)}

    def by_partner(w, g, s, t):
        parts = zip(np.split(w, fields), np.split(g, fields), strict=True)
        return np.concatenate([rowwise_adagrad(*part, s.setdefault(at, {}), t) for at, part in enumerate(parts)])

    follows(engine, {"linear": rowwise_adagrad, "factors": by_partner})


def follows(engine, references):
    """A few steps change the touched rows as ``references`` do, column by column, and no others."""
    state = engine.init()
    table = np.asarray(state.table, np.float64)
    slots = {}
    parts = engine.layout.slices
    assert parts.keys() == references.keys()
    for step in range(STEPS):
        batch = host_batch(engine.schema, 64 if step else 3, 64, seed=step)
        placed = put(engine, batch)
        # The dense gradient of the same loss at the same weights, by the other path: plain autodiff over the table.
        gradient = np.asarray(dense_gradient(engine.config.model_name)(state.table, state.params, placed), np.float64)
        touched = engine.spec.physical(np.unique(batch["rows"][batch["rows"] >= 0]))
        for row in touched:
            for name, part in parts.items():
                g = gradient[row, part] + L2 * table[row, part]
                table[row, part] = references[name](table[row, part], g, slots.setdefault((row, name), {}), step)
        state, _ = engine.train_step(state, placed)
        np.testing.assert_allclose(state.table, table, rtol=2e-4, atol=2e-6)
    untouched = np.setdiff1d(np.arange(engine.spec.padded_rows), [row for row, _ in slots])
    np.testing.assert_array_equal(state.table[untouched], engine.init().table[untouched])


@functools.cache
def dense_gradient(model):
    """Of ``model``'s loss with respect to the table, at a table, a network and a batch."""
    engine = make_engine(model, 1, sections={"optimizer": {"name": "sgd"}})
    start = engine.init()

    def loss(table, network, batch):
        rows = engine.lookup.read(table, batch.unique)
        return engine._loss({"table": rows, "network": network}, start, batch)[0]

    return jax.jit(jax.grad(loss))


@pytest.mark.parametrize(
    "dense, sparse",
    [
        ({"name": "sgd"}, "sgd"),
        ({"name": "adagrad"}, "adagrad"),
        ({"name": "adagrad"}, "adagrad_decay"),  # before its first decay
        ({"name": "adam"}, "adam"),
        # adam_async itself has no twin in optax: in optax's terms its eps moves with the step, eps / sqrt(1 - b2^t).
        ({"name": "rmsprop", "b2": 0.9, "momentum": 0.8, "eps": 1e-4}, "adam_async:b1=0.8:apply_sparse_rmsprop=1"),
        # Nor have ftrl, and rowwise_adagrad but for a column of one number.
        ({"name": "adagrad"}, "rowwise_adagrad:initial_accumulator=0.1"),
    ],
    ids=str,
)
def test_where_every_row_is_touched_sparse_is_dense(dense, sparse):
    row_wise = sparse.startswith("rowwise")
    schema = make_schema((5, 4), ("user", "item"))
    settings = {"lr": LR, "l2_embedding": 0.01, "l2_network": 0.01, "clip_norm": 0.05, **dense}
    ends = []
    for update in ("dense", "sparse"):
        # Without BatchNorm: Adam amplifies the rounding in biases before one, whose true gradient is zero.
        tables = {"update": update} | ({"optimizer": sparse} if update == "sparse" else {})
        model = ("lr", {}) if row_wise else ("deepfm", {"model": {"batch_norm": False}})
        engine = make_engine(model[0], 1, schema, {"tables": tables, "optimizer": settings, **model[1]})
        state = engine.init()
        for step in range(STEPS):
            batch = host_batch(schema, 64, 64, seed=step)
            assert len(np.unique(batch["rows"])) == 9
            state, metrics = engine.train_step(state, put(engine, batch))
        ends.append((state.table, state.params, metrics.gradient_norm))
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_empty_slots_have_no_part_in_the_norm():
    """Also where records have no values, which would make their rows, and so their gradients, zero."""
    lists = Field("list", "categorical", 8, 6, slots=3, transform={"pool": "sum"})
    schema = Schema("lists", (Field("one", "categorical", 6, 0), lists), Label("label", "binary"))
    batch = host_batch(schema, 8, 8)
    batch["rows"][:, 2:] = EMPTY
    norms = []
    for update in ("dense", "sparse"):
        engine = make_engine("fm", 1, schema, {"tables": {"update": update}})
        norms.append(float(engine.train_step(engine.init(), put(engine, batch))[1].gradient_norm))
    assert norms[0] == pytest.approx(norms[1], rel=1e-6) and norms[0] > 0


def test_lazy_adam_differs_from_dense_where_rows_rest():
    ends = []
    for update in ("dense", "sparse"):
        engine = make_engine("fm", 1, sections={"tables": {"update": update}, "optimizer": {"lr": LR}})
        state = engine.init()
        for step in range(3):
            state, _ = engine.train_step(state, put(engine, host_batch(engine.schema, 4, 4, seed=step)))
        ends.append(np.asarray(state.table))
    assert np.abs(ends[0] - ends[1]).max() > 1e-4


def test_columns_have_rules_of_their_own():
    """Wide & Deep as its paper trains it: the first-order column by FTRL with L1, the factors by Adagrad."""
    tables = {"update": "sparse", "optimizer": "adagrad:eps=1e-6", "columns": ["linear=ftrl:lr=0.1:l1=0.5"]}
    engine = make_engine("wide_deep", 1, sections={"tables": tables, "optimizer": {"name": "adam", "lr": LR}})
    linear, factors = engine.row_optimizer.rules["linear"], engine.row_optimizer.rules["factors"]
    assert linear.optimizer == FTRL(l1=0.5) and linear.lr_factor == pytest.approx(2.0)
    assert factors.optimizer == ROW_OPTIMIZERS["adagrad"](eps=1e-6) and factors.lr_factor == 1.0
    assert engine.row_optimizer.width == 2 + 16
    state, _ = engine.train_step(engine.init(), put(engine, host_batch(engine.schema, 64, 64)))
    assert not np.asarray(state.table[:, 0]).any()  # one batch is not enough to pass an L1 of 0.5
    assert np.abs(np.asarray(state.table[:, 1:] - engine.init().table[:, 1:])).max() > 1e-3


def test_unknown_column_and_dense_only_optimizer_are_refused():
    with pytest.raises(UserError, match="no such column; did you mean linear"):
        make_engine("fm", 1, sections={"tables": {"update": "sparse", "columns": ["linaer=sgd"]}})
    with pytest.raises(UserError, match="adamw has no sparse form"):
        make_engine("fm", 1, sections={"tables": {"update": "sparse"}, "optimizer": {"name": "adamw"}})


@pytest.mark.parametrize(
    "optimizer", [{"warmup_steps": 5}, {"schedule": "linear", "decay_steps": 5}], ids=["warm-up", "decay to 0"]
)
def test_ftrl_is_refused_where_the_learning_rate_is_0(optimizer):
    with pytest.raises(UserError, match="ftrl divides"):
        engine_for("sgd", columns=["linear=ftrl"], **optimizer)


@pytest.mark.parametrize("key, value", [("optimizer", "adagard"), ("columns", ["linear=sgd"]), ("dtype", "bfloat16")])
def test_what_dense_updates_would_not_use_is_refused(key, value):
    with pytest.raises(UserError, match=f"--tables.{key}=.* needs --tables.update=sparse"):
        make_engine("fm", sections={"tables": {"update": "dense", key: value}})

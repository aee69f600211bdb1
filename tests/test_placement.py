"""Where the table lies and how its rows are stored: what is chosen, what is refused, and what bfloat16 changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import host_batch, make_config, make_engine, make_schema, write_data_set

from dist_fm.errors import UserError
from dist_fm.training import placement
from dist_fm.training.placement import choose_update
from dist_fm.training.session import train

LARGE = make_schema((400, 300, 90))


def test_small_tables_are_replicated_and_large_ones_sharded(monkeypatch):
    assert not make_engine("fm", 4).lookup.sharded
    monkeypatch.setattr(
        placement, "memory_per_device", lambda mesh: 1_500_000
    )  # the state takes a third of it and more
    assert make_engine("fm", 4).lookup.sharded
    assert not make_engine("fm", 1).lookup.sharded


@pytest.mark.parametrize(
    "devices, sections, words",
    [
        (1, {"placement": "sharded"}, ["--tables.placement=sharded", "there is one", "replicated"]),
        (2, {"unique": "device"}, ["--tables.unique=device", "there are 2", "--tables.unique=host"]),
        (4, {"placement": "replicated"}, ["cannot fit", "GiB", "--tables.placement=sharded", "rowwise_adagrad"]),
        (1, {"update": "sparse", "optimizer": "adam"}, ["cannot fit", "rowwise_adagrad", "bfloat16"]),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(monkeypatch, devices, sections, words):
    monkeypatch.setattr(placement, "memory_per_device", lambda mesh: 500_000)
    with pytest.raises(UserError) as error:
        make_engine("fm", devices, sections={"tables": sections})
    for word in words:
        assert word in str(error.value)


def test_bfloat16_rows_are_updated_sparsely_and_keep_float32_slots():
    assert choose_update(make_config(sections={"tables": {"dtype": "bfloat16"}}), LARGE) == "sparse"
    with pytest.raises(UserError, match="tables.update=sparse"):
        make_engine("fm", 1, sections={"tables": {"dtype": "bfloat16", "update": "dense"}})
    ends = []
    for devices, where in ((1, "replicated"), (4, "sharded"), (4, "sharded")):
        tables = {"dtype": "bfloat16", "update": "sparse", "optimizer": "adam", "placement": where}
        engine = make_engine("deepfm", devices, LARGE, sections={"tables": tables})
        state = engine.init()
        assert state.table.dtype == jnp.bfloat16 and {slot.dtype for slot in state.slots.values()} == {
            jnp.dtype(jnp.float32)
        }
        for step in range(5):
            state, metrics = engine.train_step(state, engine.place(engine.prepare(host_batch(LARGE, 96, 96, step))))
        ends.append((np.asarray(state.table.astype(jnp.float32)), float(metrics.loss)))
    assert np.array_equal(ends[1][0], ends[2][0])
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-3)  # sums in another order round a row here and there
    assert np.mean(ends[0][0] == ends[1][0]) > 0.98


@pytest.mark.parametrize("model", ["deepfm", "afm", pytest.param("xdeepfm", marks=pytest.mark.slow)])
def test_bf16_multiplies_in_bfloat16_and_trains(model):
    batch = host_batch(LARGE, 96, 96)
    losses, logits = [], []
    for bf16 in (False, True):
        engine = make_engine(model, 1, LARGE, {"optimizer": {"lr": 0.05}}, bf16=bf16)
        placed = engine.place(engine.prepare(batch))
        state = engine.init()
        logits.append(np.asarray(engine.eval_step(state, placed).logits))
        for _ in range(10):
            state, metrics = engine.train_step(state, placed)
        assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
        losses.append(float(metrics.loss))
    assert logits[1].dtype == np.float32
    assert 0 < np.abs(logits[1] - logits[0]).max() < 2e-2
    assert losses[0] != losses[1] and abs(losses[1] - losses[0]) < 0.05


def test_a_checkpoint_opens_in_another_placement(tmp_path):
    data = write_data_set(tmp_path / "data", LARGE)

    def run(where, epochs, output):
        sections = {
            "tables": {"update": "sparse", "placement": where},
            "run": {"devices": 4, "output_dir": str(tmp_path / output), "quiet": True},
        }
        return train(make_config("fm", data, sections, batch_size=100, epochs=epochs))

    run("sharded", 1, "moved")
    moved = run("replicated", 2, "moved")
    stayed = run("sharded", 2, "stayed")
    assert (moved["placement"], stayed["placement"]) == ("replicated", "sharded")
    assert moved["test"]["logloss"] == pytest.approx(stayed["test"]["logloss"], rel=1e-5)
    assert len(jax.devices()) >= 4

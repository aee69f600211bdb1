"""Where the table lies and how its rows are stored: what is chosen, what is refused, and what bfloat16 changes."""

import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import host_batch, make_config, make_engine, make_schema, write_data_set

from dist_fm.errors import UserError
from dist_fm.training import placement
from dist_fm.training.placement import choose_update
from dist_fm.training.session import train
from dist_fm.training.step import Engine

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
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(devices, sections, words):
    with pytest.raises(UserError) as error:
        make_engine("fm", devices, sections={"tables": sections})
    for word in words:
        assert word in str(error.value)


FM_ROWS = 5_040 * 17 * 4  # bytes of the table of the tests' schema; Adam's slots are twice as many


@pytest.mark.parametrize(
    "free, devices, tables, told, ways",
    [
        (
            *(500_000, 4, {"placement": "replicated"}, "need 0.98 MiB (0.98 MiB a device), a device has 0.48 MiB"),
            ["--tables.placement=sharded", "--tables.update=sparse --tables.optimizer=rowwise_adagrad"],
        ),
        (
            *(500_000, 1, {"update": "sparse"}, "5,040 rows x 17 numbers"),
            ["3 hosts with --tables.placement=sharded", "--tables.optimizer=rowwise_adagrad"],
        ),
        (
            *(900_000, 1, {"update": "sparse"}, "a device has 0.86 MiB"),
            [
                *("2 hosts with --tables.placement=sharded", "--tables.optimizer=rowwise_adagrad"),
                "--tables.dtype=bfloat16",
            ],
        ),
        (
            *(300_000, 1, {"update": "sparse"}, "a device has 0.29 MiB"),
            [
                "4 hosts with --tables.placement=sharded",
                "--tables.optimizer=rowwise_adagrad --tables.dtype=bfloat16",
            ],
        ),
        (
            *(100_000, 4, {"update": "sparse", "placement": "sharded"}, "(0.25 MiB a device)"),
            ["3 hosts with --tables.placement=sharded", "--tables.optimizer=rowwise_adagrad"],
        ),
        (1_000, 1, {}, "a device has 0.00 MiB", ["1260 hosts with --tables.placement=sharded"]),
    ],
)
def test_a_table_that_cannot_fit_is_told_what_would_make_it_fit(monkeypatch, free, devices, tables, told, ways):
    """And nothing that would not."""
    monkeypatch.setattr(placement, "memory_per_device", lambda mesh: free)
    with pytest.raises(UserError) as error:
        make_engine("fm", devices, sections={"tables": tables})
    before, _, named = str(error.value).partition("what would help: ")
    assert told in before
    assert named.split("; ") == [*ways, "a smaller --embed_dim, or a larger --min_count when the data is built"]


def test_optimizers_without_slots_need_the_tables_bytes_alone(monkeypatch):
    monkeypatch.setattr(placement, "memory_per_device", lambda mesh: FM_ROWS + 100)
    for update in ("dense", "sparse"):
        make_engine("fm", 1, sections={"tables": {"update": update}, "optimizer": {"name": "sgd"}})
        with pytest.raises(UserError, match="cannot fit"):
            make_engine("fm", 1, sections={"tables": {"update": update}, "optimizer": {"name": "adagrad"}})


def test_devices_that_do_not_divide_the_rows_are_told_which_do(monkeypatch):
    monkeypatch.setattr("dist_fm.tables.spec.FINE", 16)
    with pytest.raises(UserError, match="--devices=3 does not divide the table's 80 rows .* take 2, 4, 5, 8, 10,"):
        make_engine("fm", 3, sections={"tables": {"placement": "sharded"}})


def test_rows_beyond_32_bits_are_refused():
    with pytest.raises(UserError, match="2,147,000,000 table rows; 32 bits count 2,130,706,432"):
        make_engine("fm", 1, make_schema((2_147_000_000 - 39, 30, 9)))


@pytest.mark.parametrize(
    "below, sections, update",
    [
        (3 * FM_ROWS + 100, {}, "dense"),
        (3 * FM_ROWS, {}, "sparse"),
        (FM_ROWS + 100, {"optimizer": {"name": "sgd"}}, "dense"),
        (FM_ROWS + 100, {"optimizer": {"name": "adagrad"}}, "sparse"),
        (3 * FM_ROWS + 100, {"tables": {"optimizer": "ftrl"}}, "sparse"),
        (3 * FM_ROWS + 100, {"tables": {"columns": ["linear=ftrl"]}}, "sparse"),
        (3 * FM_ROWS + 100, {"tables": {"dtype": "bfloat16"}}, "sparse"),
    ],
)
def test_updates_are_dense_while_table_and_slots_are_small(monkeypatch, below, sections, update):
    assert placement.DENSE_BELOW == 256 << 20
    monkeypatch.setattr(placement, "DENSE_BELOW", below)
    assert choose_update(make_config("fm", sections=sections), make_schema()) == update


def test_the_choice_of_updates_is_told_and_kept_by_the_run(monkeypatch, tmp_path, capsys):
    data = write_data_set(tmp_path / "data", make_schema())
    told, stored = [], []
    # The second goes on with the first, though a new run would by then have chosen otherwise, as the third does.
    for output, epochs, below in (("run", 1, 256 << 20), ("run", 2, 0), ("new", 1, 0)):
        monkeypatch.setattr(placement, "DENSE_BELOW", below)
        result = train(make_config("fm", data, {"run": {"output_dir": str(tmp_path / output)}}, epochs=epochs))
        told.append(capsys.readouterr().out.partition("tables: ")[2].partition(",")[0])
        (file,) = (tmp_path / output).rglob("config.toml")
        stored.append(tomllib.loads(file.read_text())["tables"]["update"])
        assert result["steps"] == epochs
    assert told == stored == ["dense", "dense", "sparse"]


def test_a_run_says_how_many_steps_it_compiled(monkeypatch, tmp_path):
    """One a size of unique rows."""
    schema = make_schema((120, 100, 9))
    data = write_data_set(tmp_path / "data", schema)
    sizes, place = [], Engine.place

    def placed(engine, batch):
        sizes.append((batch.labels.size, batch.unique.size))
        return place(engine, batch)

    monkeypatch.setattr(Engine, "place", placed)
    sections = {"tables": {"update": "sparse"}, "run": {"output_dir": str(tmp_path / "run"), "quiet": True}}
    result = train(make_config("fm", data, sections, batch_size=64, epochs=3, eval_batch_size=150))
    trained = [unique for samples, unique in sizes if samples == 64]
    assert len(trained) == 3 * 15
    assert result["compiled_steps"] == len(set(trained)) == 2


def test_bfloat16_rows_are_updated_sparsely_and_keep_float32_slots():
    ends = []
    for devices, where in ((1, "replicated"), (4, "sharded"), (4, "sharded")):
        tables = {"dtype": "bfloat16", "update": "sparse", "optimizer": "adam", "placement": where}
        engine = make_engine("deepfm", devices, LARGE, sections={"tables": tables})
        state = engine.init()
        assert state.table.dtype == jnp.uint16 and {slot.dtype for slot in state.slots.values()} == {
            jnp.dtype(jnp.float32)
        }
        for step in range(5):
            state, metrics = engine.train_step(state, engine.place(engine.prepare(host_batch(LARGE, 96, 96, step))))
        ends.append((engine.spec.numbers(state.table), float(metrics.loss)))
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

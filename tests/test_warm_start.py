"""First values from finished runs: by field and raw value, by column and layer."""

import numpy as np
import pytest
from conftest import make_config, make_engine, make_schema, write_data_set

from data_tools.build import build
from data_tools.encode import Encoder
from data_tools.plan import BuildOptions
from data_tools.synth import synth
from dist_fm.checkpoint import Checkpoints
from dist_fm.data.schema import read_schema
from dist_fm.data.source import EvalSource, MemoryStore
from dist_fm.errors import UserError
from dist_fm.parallel.mesh import make_mesh
from dist_fm.run_dir import RunDir
from dist_fm.tables.by_number import put, take
from dist_fm.training.evaluation import score
from dist_fm.training.opening import open_best
from dist_fm.training.session import train
from dist_fm.training.step import Engine
from dist_fm.training.warm_start import warm_start


def run(output, model_name, data, **sections):
    settings = {"run": {"output_dir": str(output), "devices": 1, "quiet": True}, **sections}
    train_keys = {"epochs": 1, "batch_size": 100, "eval_batch_size": 128, **settings.pop("train", {})}
    return train(make_config(model_name, data, settings, **train_keys))


def best(output, engine):
    return Checkpoints(output).restore_best(engine.abstract_state())


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Ratings of three days: a fifth of the users come on the second, and stay. Data sets of day 1 and day 2."""
    work = tmp_path_factory.mktemp("days")
    synth("movielens", 20_000, work / "raw", seed=4)
    rows = (work / "raw").read_text().splitlines()
    for day in range(3):
        part = [row for row in rows[day::3] if day or int(row.split("::")[0]) % 5]
        (work / f"day{day + 1}").write_text("\n".join(part) + "\n")
    common = {"format": "movielens-1m", "split": "files"}
    for day, more in ((1, {}), (2, {"vocab_from": str(work / "set1"), "grow": True})):
        files = (str(work / f"day{day}"), None, str(work / "day3"))
        build(BuildOptions(**common, output=str(work / f"set{day}"), split_files=files, **more), say=lambda _: None)
    run(work / "run1", "deepfm", work / "set1", train={"epochs": 3})
    return work


def logits(work, folder, engine, state, rows):
    """Of raw ``rows``, through the vocabulary of ``folder``."""
    columns = {"user": [row[0] for row in rows], "item": [row[1] for row in rows]}
    ids, values = Encoder.from_directory(work / folder).encode(columns)
    source = EvalSource(MemoryStore.of(engine.schema, ids, values), engine.schema, 256, **engine.reads(256))
    return np.concatenate([part[0] for part in score(engine, state, source)])


def test_a_new_day_starts_where_the_last_one_ended(days, tmp_path, capsys):
    old, trained = open_best(RunDir(days / "run1"), make_mesh(old_devices()))
    new = Engine(make_config("deepfm"), read_schema(days / "set2"), old.mesh)
    started = warm_start(new, new.init(), str(days / "run1"), days / "set2")
    said = capsys.readouterr().out
    assert f"of {old.schema.num_rows:,} rows of {new.schema.num_rows:,} by value" in said
    assert old.schema.num_rows < new.schema.num_rows and "starts fresh: nothing" in said

    known = [row.split("::") for row in (days / "day1").read_text().splitlines()]
    np.testing.assert_array_equal(
        logits(days, "set2", new, started, known), logits(days, "set1", old, trained, known)
    )  # bit-equal
    first = new.init()
    missing = np.setdiff1d(np.arange(new.schema.num_rows), known_rows(days, new))
    fresh = new.spec.physical(missing)
    np.testing.assert_array_equal(np.asarray(started.table)[fresh], np.asarray(first.table)[fresh])

    warm = run(tmp_path / "warm", "deepfm", days / "set2", train={"init_from": str(days / "run1")})
    cold = run(tmp_path / "cold", "deepfm", days / "set2")
    print(f"AUC on day 3: warm {warm['test']['auc']:.4f}, cold {cold['test']['auc']:.4f}")
    assert warm["test"]["auc"] >= cold["test"]["auc"]


def known_rows(days, engine):
    from data_tools.matching import match_rows

    return np.flatnonzero(match_rows(engine.schema, days / "set2", read_schema(days / "set1"), days / "set1").rows >= 0)


def old_devices():
    import jax

    return jax.devices()[:1]


def test_sharded_tables_start_alike(days):
    tables = []
    for devices, placement, update in (
        (1, "replicated", "dense"),
        (4, "sharded", "sparse"),
        (4, "replicated", "sparse"),
    ):
        sections = {"tables": {"placement": placement, "update": update}}
        engine = make_engine("deepfm", devices, read_schema(days / "set2"), sections)
        state = warm_start(engine, engine.init(), str(days / "run1"), days / "set2")
        assert state.table.sharding == engine.shardings.table
        tables.append(np.asarray(state.table))
    np.testing.assert_array_equal(tables[0], tables[1])
    np.testing.assert_array_equal(tables[0], tables[2])


def test_rows_are_taken_and_put_by_number():
    for devices, placement in ((1, "replicated"), (4, "replicated"), (4, "sharded")):
        engine = make_engine("fm", devices, sections={"tables": {"placement": placement, "update": "sparse"}})
        table = engine.init().table
        before = np.array(table)
        numbers = np.array([7, 5039, 2000, 10**6, 0], np.int32)
        found = np.asarray(take(engine.lookup, table, numbers))
        np.testing.assert_array_equal(found[[0, 1, 2, 4]], before[numbers[[0, 1, 2, 4]]])
        assert not found[3].any()
        after = np.asarray(put(engine.lookup, table, numbers, found + 1))
        before[numbers[[0, 1, 2, 4]]] += 1
        np.testing.assert_array_equal(after, before)


def test_fnn_starts_from_a_trained_fm(small_data, tmp_path, capsys):
    """The paper's FNN: its first layer reads the FM's w0, w and v, which start at their trained values."""
    run(tmp_path / "fm", "fm", small_data)
    source = str(tmp_path / "fm")
    fnn = {"name": "fnn", "first_order": True, "activation": "tanh", "batch_norm": False}
    run(tmp_path / "fnn", "fnn", small_data, model=fnn, train={"init_from": source})
    said = capsys.readouterr().out
    assert "columns linear, factors of 79 rows of 79 by value (f0 40 of 40, f1 30 of 30, f2 9 of 9)" in said
    assert "of the network linear.bias" in said and "starts fresh: mlp.hidden.0.bias" in said

    old, new = make_engine("fm"), make_engine("fnn", sections={"model": fnn})
    trained = best(tmp_path / "fm", old)
    state = warm_start(new, new.init(), source, small_data)
    rows = new.spec.physical(np.arange(79))
    np.testing.assert_array_equal(np.asarray(state.table)[rows], np.asarray(trained.table)[rows])
    assert float(trained.params["linear"]["bias"][...][0]) != 0
    np.testing.assert_array_equal(state.params["linear"]["bias"][...], trained.params["linear"]["bias"][...])


def test_neumf_starts_from_its_halves_which_then_count_half(small_data, tmp_path):
    size = {"embed_dim": 4, "mlp_embed_dim": 3, "mlp_dims": [5], "dropout": 0.0}
    parts = []
    for variant in ("gmf", "mlp"):
        model = {"name": "ncf", "variant": variant, **size}
        run(tmp_path / variant, "ncf", small_data, model=model)
        engine = make_engine("ncf", sections={"model": model})
        source = EvalSource(stored(small_data), engine.schema, 150, **engine.reads(150))
        parts.append(next(score(engine, best(tmp_path / variant, engine), source))[0])
    whole = make_engine("ncf", sections={"model": {"name": "ncf", "variant": "neumf", **size}})
    started = warm_start(whole, whole.init(), f"{tmp_path / 'gmf'},{tmp_path / 'mlp'}", small_data)
    source = EvalSource(stored(small_data), whole.schema, 150, **whole.reads(150))
    found = next(score(whole, started, source))[0]
    np.testing.assert_allclose(found, (parts[0] + parts[1]) / 2, rtol=1e-5, atol=1e-6)


def stored(data):
    from dist_fm.data.shards import open_split

    return open_split(data, "test")


def test_what_is_not_alike_stays_and_nothing_alike_is_refused(small_data, tmp_path, capsys):
    run(tmp_path / "lr", "lr", small_data)
    with pytest.raises(UserError, match="nothing alike; that run's columns: linear"):
        run(tmp_path / "ncf", "ncf", small_data, train={"init_from": str(tmp_path / "lr")})
    with pytest.raises(UserError, match="not a run"):
        run(tmp_path / "lr3", "lr", small_data, train={"init_from": str(tmp_path / "none")})
    other = write_data_set(tmp_path / "other", make_schema((40, 31, 9)))
    run(tmp_path / "lr2", "lr", other, train={"init_from": str(tmp_path / "lr")})
    assert "(f0 40 of 40, f1 30 of 31, f2 9 of 9)" in capsys.readouterr().out

"""The benchmark scripts: their work, their arithmetic and their errors, and a few tiny steps through each of them."""

import ast
import contextlib
import importlib
import io
import json
import pathlib
import subprocess
import sys
import types

import analysis
import common
import jax
import jax.numpy as jnp
import load
import numpy as np
import pytest
import shapes
import step
import tables
import work
from conftest import Steps, make_engine, make_schema

from dist_fm.errors import UserError

BENCHMARKS = pathlib.Path(__file__).parent / "benchmarks"
TINY = ["--shape=movielens", "--batch=64", "--steps=3"]


def call(monkeypatch, name, *flags):
    """Runs a script's main in this process; returns what it printed."""
    monkeypatch.setattr(sys, "argv", [name, *flags])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        importlib.import_module(name).main()
    return out.getvalue()


@pytest.fixture
def script(monkeypatch):
    """Runs a script, and, in this process too, the measurements that it starts; returns its JSON lines and its text."""

    def run(command, **_):
        said = call(monkeypatch, pathlib.Path(command[1]).stem, *command[2:])
        return types.SimpleNamespace(returncode=0, stdout=said, stderr="")

    def start(name, *flags):
        monkeypatch.setattr(common, "subprocess", types.SimpleNamespace(run=run))
        monkeypatch.setattr(common, "git_commit", lambda: "0" * 40)
        monkeypatch.setattr(load.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(load, "PROBE_S", 0.001)
        monkeypatch.setattr(common, "wait_for_whole_cores", lambda limit_s: load.cores_together())
        monkeypatch.setattr(sys, "argv", [name, *flags])
        with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as exit:
            importlib.import_module(name).main()
        assert exit.value.code == 0
        said = out.getvalue().splitlines()
        return [json.loads(line) for line in said if line.startswith("{")], "\n".join(said)

    return start


def test_shapes_are_those_the_figures_are_given_for():
    assert (len(shapes.CRITEO), sum(shapes.CRITEO), sum(shapes.MOVIELENS)) == (39, 1_011_278, 269_755)
    for shape in shapes.SHAPES:
        drawn = shapes.ids(4000, shape)
        assert (drawn >= 0).all() and (drawn < shapes.field_sizes(shape)).all()
        np.testing.assert_array_equal(drawn, shapes.ids(4000, shape))
    user = shapes.ids(4000, "movielens")[:, 0]
    assert 0.1 < (user == 0).mean() < 0.3  # 1 / zeta(1.2) = 0.18 of a Zipf stream is its first id


@pytest.mark.parametrize("stride", [1, 4, 40])
def test_a_larger_table_sees_the_same_stream(stride):
    small, large = (shapes.ids(3000, "criteo", stride=s) for s in (1, stride))
    assert (large < shapes.field_sizes("criteo", stride)).all()
    np.testing.assert_array_equal(large // stride, small)
    for field in range(small.shape[1]):
        assert len(np.unique(large[:, field])) == len(np.unique(small[:, field]))
    assert shapes.stride_for("criteo", stride * 1_000_000) == stride


def test_fewer_distinct_batches_than_steps_is_an_error(tmp_path):
    np.save(tmp_path / "ids.npy", shapes.ids(100, "movielens"))
    assert len(shapes.load_ids(str(tmp_path / "ids.npy"), "movielens", 1, 20, 5)) == 100
    with pytest.raises(ValueError, match="5 distinct batches of 20, fewer than the 6 asked for"):
        shapes.load_ids(str(tmp_path / "ids.npy"), "movielens", 1, 20, 6)
    options = types.SimpleNamespace(ids=str(tmp_path / "no.npy"), shape="movielens", stride=1, batch=20, steps=6)
    with pytest.raises(UserError, match=r"no\.npy"):
        work.HostBatches(options, work.make_schema("movielens"), 20)


def test_host_batches_are_distinct_and_padded():
    options = types.SimpleNamespace(ids=None, shape="movielens", stride=1, batch=6, steps=3)
    schema = work.make_schema("movielens")
    host = work.HostBatches(options, schema, 8)
    first, second = host[0], host[1]
    np.testing.assert_array_equal(first["mask"], [1] * 6 + [0] * 2)
    np.testing.assert_array_equal(second["rows"][:6], shapes.ids(18, "movielens")[6:12] + [0, shapes.MOVIELENS[0]])
    assert (second["rows"][6:] == -1).all() and second["rows"].dtype == np.int32


@pytest.mark.parametrize("batch_size, at_once", [(40_000, 1), (16_000, 2), (1, 8)])
def test_read_ahead_keeps_the_order_and_its_bound(batch_size, at_once):
    asked, schema = [], types.SimpleNamespace(num_slots=1)
    engine = types.SimpleNamespace(schema=schema, prepare_all=lambda numbers: asked.append(numbers) or numbers)
    taken = work.read_ahead(engine, Steps(100, batch_size), 2)
    assert next(taken) == 0 and len(asked) * at_once <= 16 + 2 * at_once
    assert list(taken) == list(range(1, 100))
    assert {len(numbers) for numbers in asked[:-1]} == {at_once}


def test_load_of_others_is_what_is_busy_but_not_ours(monkeypatch, capsys):
    monkeypatch.setattr(load, "_busy_seconds", iter([10.0, 13.0]).__next__)
    monkeypatch.setattr(load, "_own_seconds", iter([4.0, 5.0]).__next__)
    monkeypatch.setattr(load.time, "perf_counter", iter([0.0, 4.0, 4.0]).__next__)
    with load.OtherLoad() as others:
        pass
    assert others.cores == 0.5
    load.warn(others.cores, "then")
    assert "WARNING: then, other processes kept 0.50 cores busy" in capsys.readouterr().err
    load.warn(0.1, "then")
    load.warn(None, "then")
    assert not capsys.readouterr().err


def test_cores_together_are_compared_with_each_alone(monkeypatch, capsys):
    monkeypatch.setattr(load, "available_cores", lambda: {0, 1})
    monkeypatch.setattr(load, "_hashed", lambda cores: 140.0 if len(cores) == 2 else 100.0)
    load.warn_of_shared(load.cores_together(), "then")
    assert "WARNING: then, our cores together did 0.70 of what each does alone" in capsys.readouterr().err
    assert load.wait_for_whole_cores(limit_s=0.0) == 0.7
    probes = iter([0.6, 0.7, 0.98])
    monkeypatch.setattr(load, "cores_together", lambda: next(probes))
    assert load.wait_for_whole_cores(limit_s=30.0) == 0.98
    monkeypatch.undo()
    load.warn_of_shared(0.95, "then")
    monkeypatch.setattr(load, "available_cores", lambda: {3})
    load.warn_of_shared(load.cores_together(), "then")
    assert not capsys.readouterr().err


def test_cores_that_never_part_are_waited_for_once(monkeypatch, capsys):
    limits = []
    monkeypatch.setattr(common, "wait_for_whole_cores", lambda limit_s: limits.append(limit_s) or 0.6)
    monkeypatch.setattr(common, "cores_together", lambda: None)
    monkeypatch.setattr(load.time, "sleep", lambda seconds: None)
    report = common.Report("test", None)
    command = [sys.executable, "-c", "print('{\"other_cpu_cores\": 0.0}')"]
    assert [report.measure(command)["cores_together"] for _ in range(2)] == [0.6, 0.6]
    assert limits == [30.0, 0.0]
    assert capsys.readouterr().err.count("WARNING: around this measurement") == 2


def test_hashing_is_counted_on_the_cores_that_are_asked_for(monkeypatch):
    before, core = load.available_cores(), min(load.available_cores())
    monkeypatch.setattr(load, "PROBE_S", 0.01)
    assert load._hashed([core, core]) > 0
    assert load.available_cores() == before  # only the threads were pinned


def test_a_short_block_is_watched_for_a_second(monkeypatch):
    slept = []
    monkeypatch.setattr(load.time, "sleep", slept.append)
    with load.OtherLoad():
        pass
    assert slept == [pytest.approx(load.SHORTEST_S, abs=0.2)]


def test_load_is_unknown_without_proc(monkeypatch):
    monkeypatch.setattr(load.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(load, "_busy_seconds", lambda: None)
    with load.OtherLoad() as others:
        pass
    assert others.cores is None


@pytest.mark.parametrize(
    "module, flags, message",
    [
        (step, ["--models=fm,deepmf"], "unknown model 'deepmf': did you mean deepfm?"),
        (step, ["--shape=critoe"], "unknown shape 'critoe': did you mean criteo?"),
        (step, ["--peer=torch-fm"], "unknown peer 'torch-fm': did you mean torchfm?"),
        (step, ["--models=ncf"], "--shape=movielens"),
        (step, ["--peer=fbgemm", "--peer_python=p"], "--optimizer=rowwise_adagrad or adagrad"),
        (step, ["--peer=fbgemm", "--optimizer=adagrad", "--models=fm", "--peer_python=p"], "deepfm alone"),
        (step, ["--peer=torchfm", "--peer_python="], "needs --peer_python"),
        (step, ["--steps=0"], "not a whole number above 0"),
        (tables, ["--model=fnn2"], "did you mean fnn?"),
    ],
)
def test_flags_that_cannot_be_are_refused(monkeypatch, capsys, module, flags, message):
    monkeypatch.setattr(sys, "argv", ["script", *flags])
    with pytest.raises(SystemExit) as exit:
        module.parse()
    assert exit.value.code == 2 and message in capsys.readouterr().err


def test_models_and_network_follow_the_peer(monkeypatch):
    def parse(*flags):
        monkeypatch.setattr(sys, "argv", ["step", *flags])
        return step.parse()

    assert len(parse().models) == 18 and len(parse("--shape=movielens").models) == 19
    torchfm = parse("--peer=torchfm", "--peer_python=p").models
    assert len(torchfm) == 14 and not {"dcnv2", "fibinet", "onn", "hofm"} & set(torchfm)
    assert (parse().network, parse("--models=wd").models) == ("full", ["wide_deep"])
    peer = parse("--peer=torch-sparse", "--peer_python=p")
    assert (peer.models, peer.network) == (["deepfm"], "plain")


def test_a_plain_network_has_neither_batch_norm_nor_dropout():
    flags = {name: None for name in common.OUR_FLAGS} | {"placement": None, "set": ["tables.columns=linear=ftrl"]}
    flags |= {"model": "nfm", "optimizer": "adagrad", "update": "sparse", "devices": 1, "platform": "cpu", "batch": 64}
    plain, full = (
        work.make_engine(types.SimpleNamespace(**flags | {"network": network}), work.make_schema("movielens")).config
        for network in ("plain", "full")
    )
    assert (plain.model.batch_norm, plain.model.dropout, plain.model.interaction_dropout) == (False, 0, 0)
    assert (full.model.batch_norm, full.model.dropout) == (True, 0.2)
    assert (plain.optimizer.l2_embedding, full.optimizer.l2_embedding) == (0, 1e-6)
    assert plain.tables.columns == ("linear=ftrl",) and plain.tables.optimizer == "adagrad"


def test_copies_of_the_table_are_found():
    engine = make_engine("fm", schema=make_schema((4000, 3000), (None, None)))
    state = engine.init()
    write = lambda table: table.at[3].set(1.0)
    kept = jax.jit(write).lower(state.table).compile().as_text()
    donated = jax.jit(write, donate_argnums=0).lower(state.table).compile().as_text()
    assert analysis.table_copies(kept, engine, state) == 1
    assert analysis.table_copies(donated, engine, state) == 0
    assert analysis.table_copies(kept, engine, {"other": jnp.zeros((engine.spec.padded_rows, 3))}) == 0


def test_step_alternates_with_its_peer(script, tmp_path):
    output = tmp_path / "new" / "step.json"
    flags = ["--models=lr", "--peer=jax-dense", "--peer_steps=2", "--rounds=2", "--profile_memory"]
    lines, text = script("step", *TINY, *flags, f"--output={output}")
    assert [json.loads(line) for line in output.read_text().splitlines()] == lines
    assert [line["side"] for line in lines[:4]] == ["ours", "jax-dense"] * 2
    mine, peer, ratio, means = lines[0], lines[1], lines[4], lines[5]
    assert (mine["steps"], mine["update"], peer["steps"], peer["update"]) == (3, "sparse", 2, "dense")
    assert len(ratio["ratios"]) == 2 and ratio["median_ratio"] == pytest.approx(sum(ratio["ratios"]) / 2)
    assert means["minimum"] == pytest.approx(ratio["median_ratio"], abs=1e-3)
    assert mine["temp_bytes"] > 0 and mine["compiled_steps"] >= 1 and mine["peak_rss_bytes"] > 1 << 20
    for line in lines:
        assert line["machine"]["cores"] >= 1 and line["machine"]["cpu"] and line["git"] == "0" * 40
        assert set(line["versions"]) == {"python", "jax", "jaxlib", "numpy"} and line["date"]
    assert "| lr |" in text and "geometric mean" in text


def test_tables_grow_and_are_sharded(script):
    flags = ["--model=lr", "--rows=270_000,540_000", "--rounds=1", "--optimizer=adagrad", "--devices=4"]
    lines, text = script("tables", *TINY, *flags, "--placement=sharded")
    rows = [line["table_rows"] for line in lines if "summary" in line]
    assert rows == [269_755, 539_510]
    for line in lines[:2]:
        assert line["table_copies"] == 0 and line["placement"] == "sharded"
        assert line["table_and_slot_bytes_per_device"] * 4 == line["table_and_slot_bytes"]
    assert "| adagrad | sharded | 539,510 | 4 x CPU (virtual) |" in text


def test_end_to_end_trains_from_a_store(script):
    lines, text = script("end_to_end", "--shape=movielens", "--model=lr", "--batch=64", "--rows=300", "--rounds=1")
    assert [line["side"] for line in lines] == ["end to end", "step", "ratio"]
    assert [line["steps"] for line in lines[:2]] == [4, 4]  # full batches
    assert "| lr | 300 |" in text


def test_the_loader_is_timed_in_every_way(script):
    lines, text = script("loader", "--rows=300", "--batches=64,128", "--rounds=1")
    ways = {(line["shuffle"], line["through"], line["batch"]): line["rows"] for line in lines}
    assert ways == {
        (shuffle, through, batch): 300 // batch * batch
        for shuffle in ("exact", "window")
        for through in ("source", "grain")
        for batch in (64, 128)
    }
    assert "| ours | window | 128 | grain |" in text and all(line["rows_per_s"] > 0 for line in lines)


def test_serving_alternates_runtimes(script):
    flags = ["--shape=movielens", "--model=lr", "--rounds=1", "--calls=3", "--rows=1,5", "--runtimes=live,stablehlo"]
    lines, text = script("serving", *flags)
    assert [line["runtime"] for line in lines] == ["live", "stablehlo"]
    assert lines[0]["bytes"] == 0 < lines[1]["bytes"]
    for line in lines:
        assert all(0 < line[rows]["p50_ms"] <= line[rows]["p99_ms"] for rows in ("rows_1", "rows_5"))
    assert "| stablehlo |" in text and "5 rows, p99 ms" in text


def test_a_build_is_timed_with_its_memory(monkeypatch, capsys):
    monkeypatch.setattr(load.time, "sleep", lambda seconds: None)
    call(monkeypatch, "convert", "--rows=2_000", "--rounds=1", "--workers=1")
    convert = importlib.import_module("convert")
    record = convert.measure(
        [sys.executable, "-c", "x = bytes(range(256)) * (1 << 20); import time; time.sleep(.5)"], 100
    )
    assert record["peak_bytes"] > 256 << 20 and 0 < record["rows_per_s"] <= 200
    with pytest.raises(subprocess.CalledProcessError):
        convert.measure([sys.executable, "-c", "raise SystemExit(1)"], 100)


def test_a_measurement_that_fails_is_a_line_and_an_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(load.time, "sleep", lambda seconds: None)
    report = common.Report("step", None)
    assert report.measure([sys.executable, "-c", "import sys; sys.exit('error: too large')"], model="fm") is None
    said = capsys.readouterr()
    assert json.loads(said.out)["error"] == "code 1: error: too large" and "too large" in said.err
    assert report.failures == 1


def test_steps_and_tables_import_neither_grain_nor_lmdb():
    program = (
        "import sys, ours, step, tables\n"
        f"sys.argv = ['ours', *{TINY!r}, '--model=lr']\n"
        "ours.main()\n"
        "print(sorted({'grain', 'lmdb'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("script", ["peers.py", "peer_loader.py", "peer_convert.py"])
def test_peers_import_nothing_of_ours(script):
    tree = ast.parse((BENCHMARKS / script).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    theirs = {"peers", "shapes", "load", "lmdb", "numpy", "torch", "torchfm", "fbgemm_gpu"}
    assert {name.split(".")[0] for name in names} <= theirs | set(sys.stdlib_module_names)
    for name in ("shapes", "load"):
        source = (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
        assert "dist_fm" not in source and "jax" not in source

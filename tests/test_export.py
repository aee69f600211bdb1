"""Exported models against the live one, in the runtimes they are for; and what export says to bad input.

ONNX, SavedModel and TFLite are in test_export_runtimes.py.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest
from conftest import make_engine
from export_cases import SCHEMAS, agreement, with_drawn_weights
from test_commands import ROOT, command

from data_tools.cli import main as data_tools
from data_tools.encode import Encoder
from dist_fm.data.schema import EMPTY
from dist_fm.errors import UserError
from dist_fm.exporting.comparison import TOLERANCE, compare, draw_rows
from dist_fm.exporting.formats import FLATBUFFER_BYTES, FORMATS, check_size, get_format
from dist_fm.exporting.known import simplified
from dist_fm.exporting.scoring import Scoring
from dist_fm.files import new_directory

RAW = {"user": ["3", "7", "nobody"], "item": ["105", "120", "105"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An fm trained on raw ratings, in run/; its data set in data/."""
    work = tmp_path_factory.mktemp("export")
    random = np.random.default_rng(0)
    rows = zip(random.integers(1, 40, 1200), random.integers(100, 130, 1200), random.integers(1, 6, 1200), strict=True)
    (work / "u.data").write_text("".join(f"{u}\t{i}\t{r}\t{t}\n" for t, (u, i, r) in enumerate(rows)))
    build = ["build-lmdb", "--format=movielens-100k", f"--input={work}/u.data", f"--output={work}/data"]
    assert data_tools([*build, "--split=order"]) == 0
    flags = ("--model=fm", "--epochs=2", "--lr=0.05", "--batch_size=200", "--train.eval_batch_size=256", "--quiet")
    command("train", f"--data={work}/data", *flags, "--devices=1", f"--output_dir={work}/run")
    return work / "run"


@pytest.fixture(scope="module")
def npz(run):
    """Its export as npz."""
    output = run.parent / "npz"
    command("export", f"--run={run}", "--format=npz", f"--output={output}")
    return output


def predicted(run, tmp_path):
    """What predict says of the ``RAW`` rows."""
    lines = ["user,item", *(f"{user},{item}" for user, item in zip(*RAW.values(), strict=True))]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    command("predict", f"--run={run}", f"--input={tmp_path}/in.csv", f"--output={tmp_path}/out.csv")
    return [float(line.split(",")[1]) for line in (tmp_path / "out.csv").read_text().splitlines()[1:]]


def test_an_export_says_what_it_holds_and_what_was_compared(npz, run):
    assert sorted(path.name for path in npz.iterdir()) == ["export.json", "model.npz", "schema.json", "vocab"]
    about = json.loads((npz / "export.json").read_text())
    assert about["inputs"] == {"ids": {"dtype": "int32", "shape": ["batch", 2]}}
    assert about["outputs"] == {"probability": {"dtype": "float32", "shape": ["batch"]}}
    compared = about["compared"]
    assert compared["rows"] == 120 and compared["rows_from"] == "the test split of data set 'movielens-100k'"
    assert 0 <= compared["largest_difference"] <= compared["tolerance"] == TOLERANCE
    assert about["model"]["name"] == "fm" and about["versions"]["jax"] == jax.__version__
    assert not [path for path in npz.parent.iterdir() if path.name.startswith(".")]


def test_stablehlo_predicts_raw_rows_as_predict_does(run, tmp_path):
    output = tmp_path / "out"
    command("export", f"--run={run}", "--format=stablehlo", f"--output={output}")
    ids, values = Encoder.from_directory(output).encode(RAW)
    assert values is None
    exported = jax.export.deserialize(bytearray((output / "model.stablehlo").read_bytes()))
    np.testing.assert_allclose(exported.call(ids), predicted(run, tmp_path), atol=TOLERANCE)


def test_numpy_alone_computes_an_fm_from_the_npz_file(npz, run, tmp_path):
    with np.load(npz / "model.npz") as arrays:
        linear, factors, bias = (arrays[name] for name in ("table/linear", "table/factors", "params/linear/bias"))
    ids, _ = Encoder.from_directory(npz).encode(RAW)
    logits = [
        bias[0] + linear[row, 0].sum() + sum(factors[i] @ factors[j] for a, i in enumerate(row) for j in row[:a])
        for row in ids
    ]
    np.testing.assert_allclose(1 / (1 + np.exp(-np.array(logits))), predicted(run, tmp_path), atol=TOLERANCE)


def test_raw_values_become_ids_where_jax_is_not_installed(npz):
    code = (
        "import sys\n"
        "for name in ('jax', 'flax', 'optax', 'orbax', 'grain', 'lmdb', 'pyarrow'): sys.modules[name] = None\n"
        "from data_tools.encode import Encoder\n"
        f"ids, values = Encoder.from_directory({str(npz)!r}).encode({RAW!r})\n"
        "print(ids.tolist(), values)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == f"{Encoder.from_directory(npz).encode(RAW)[0].tolist()} None\n", done.stderr


@pytest.mark.slow
def test_the_server_of_the_docs_predicts_raw_rows_as_predict_does(run, tmp_path):
    """Over HTTP, from the ONNX file; a request without a column is refused with the column's name."""
    (tmp_path / "exports").mkdir()
    command("export", f"--run={run}", "--format=onnx", f"--output={tmp_path}/exports/onnx")
    page = (pathlib.Path(ROOT) / "docs" / "export.md").read_text()
    (code,) = re.findall(r"cat > server.py <<'END'\n(.*?)^END$", page, re.MULTILINE | re.DOTALL)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "port=8017" in code
    (tmp_path / "server.py").write_text(code.replace("8017", str(port)))
    environment = {**os.environ, "PYTHONPATH": ROOT}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "server.py"], cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until = time.monotonic() + 120
        while not answers(port) and server.poll() is None and time.monotonic() < until:
            time.sleep(0.2)
        found = post(port, RAW)
        np.testing.assert_allclose(found["probability"], predicted(run, tmp_path), atol=TOLERANCE)
        with pytest.raises(urllib.error.HTTPError, match="400") as error:
            post(port, {"user": ["3"]})
        assert "no column 'item'" in error.value.read().decode()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).status == 200
    except OSError:
        return False


def post(port, columns):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", json.dumps(columns).encode())
    request.add_header("Content-Type", "application/json")
    return json.load(urllib.request.urlopen(request, timeout=60))


def test_rows_are_drawn_where_the_data_set_is_gone(run, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    toml = (moved / "config.toml").read_text()
    (moved / "config.toml").write_text(toml.replace(str(run.parent / "data"), str(tmp_path / "gone")))
    command("export", f"--run={moved}", "--format=npz", f"--output={tmp_path}/out")
    compared = json.loads((tmp_path / "out" / "export.json").read_text())["compared"]
    assert compared["rows"] == 1000
    assert compared["rows_from"].startswith("drawn at random") and "gone: no such directory" in compared["rows_from"]


def test_drawn_rows_fill_a_field_of_several_slots_in_part():
    schema = SCHEMAS["entries"]()
    rows = draw_rows(schema, 300)
    entries = rows.ids[:, 1:6]
    assert set((entries != EMPTY).sum(1).tolist()) == set(range(6))
    assert (rows.values[:, 1:6][entries == EMPTY] == 0).all() and (rows.ids[:, 0] != EMPTY).all()
    assert (rows.ids.max(0) < schema.num_rows).all()


def test_bad_input_is_said_and_nothing_is_written(run, npz, tmp_path, monkeypatch):
    output = tmp_path / "out"
    export = lambda *flags: command("export", f"--output={output}", *flags, expect=2)
    assert "did you mean onnx?" in export(f"--run={run}", "--format=onx")
    assert "--format=... must be given" in export(f"--run={run}")
    assert "is not a run" in export(f"--run={tmp_path}", "--format=npz")
    assert "no such directory" in export(f"--run={run}", "--format=npz", f"--data={tmp_path}/none")
    assert "must be true or false" in export(f"--run={run}", "--format=npz", "--unfinished=perhaps")
    assert "not an empty directory" in command(
        "export", f"--run={run}", "--format=npz", f"--output={npz}", expect=2
    )  # fmt: skip
    deep = f"--output={tmp_path}/a/b"
    assert "there is no directory" in command("export", f"--run={run}", "--format=npz", deep, expect=2)
    for name, module, extra in (
        ("onnx", "jax2onnx", "onnx"),
        ("savedmodel", "tensorflow", "savedmodel"),
        ("tflite", "ai_edge_litert", "tflite"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        error = export(f"--run={run}", f"--format={name}")
        assert module in error and f"pip install 'dist_fm[{extra}]'" in error
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_is_refused_unless_asked_for(run, tmp_path):
    going_on = tmp_path / "run"
    shutil.copytree(run, going_on)
    (going_on / "result.json").unlink()
    flags = (f"--run={going_on}", "--format=npz", f"--output={tmp_path}/out")
    error = command("export", *flags, expect=2)
    assert "is not finished" in error and "--unfinished=true" in error and not (tmp_path / "out").exists()
    command("export", *flags, "--unfinished=true")
    assert (tmp_path / "out" / "model.npz").exists()


def test_a_model_that_predicts_something_else_is_not_kept(run, tmp_path, monkeypatch):
    def write_wrong(scoring, path):
        table = {name: column + np.float32(0.01) for name, column in scoring.weights.table.items()}
        FORMATS["npz"].write(Scoring(scoring.engine, scoring.weights._replace(table=table)), path)

    wrong = dataclasses.replace(FORMATS["npz"], write=write_wrong)
    monkeypatch.setattr("dist_fm.export.get_format", lambda name: wrong)
    error = command("export", f"--run={run}", "--format=npz", f"--output={tmp_path}/out", expect=2)
    assert "differs from the run's own predictions by" in error and "not kept" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("found", [np.full(3, np.nan, np.float32), np.zeros((3, 1), np.float32), np.zeros(3)])
def test_no_number_another_shape_or_type_is_no_agreement(found, tmp_path):
    rows = draw_rows(SCHEMAS["ids"](), 3)
    parts = iter((found[:1], found[1:]))
    with pytest.raises(UserError, match="not kept"):
        compare(lambda inputs: next(parts), rows, np.zeros(3), tmp_path / "model.onnx")


def test_weights_beyond_a_formats_limit_are_refused_with_the_formats_that_have_none():
    check_size("tflite", FLATBUFFER_BYTES)
    check_size("onnx", 10 * FLATBUFFER_BYTES)
    with pytest.raises(UserError, match=r"--format=tflite holds 2.00 GiB.* 4.00 GiB.*: onnx, savedmodel, npz"):
        check_size("tflite", 1 << 32)


def test_formats_without_packages_of_their_own_need_no_extra(monkeypatch):
    for module in ("jax2onnx", "onnxruntime", "tensorflow", "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, module, None)
    assert get_format("stablehlo").file == "model.stablehlo" and get_format("npz").file == "model.npz"


@pytest.mark.parametrize("model, kind", [("deepfm", "ids"), ("afm", "entries")])
def test_stablehlo_agrees_with_the_live_model(model, kind, tmp_path):
    assert agreement("stablehlo", model, kind, tmp_path).rows == 201


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"loss": "mse"}},
        {"data": {"negative_rate": 0.1}},
        {"tables": {"placement": "sharded"}},
        pytest.param({"train": {"bf16": True}}, marks=pytest.mark.slow),
        pytest.param({"tables": {"dtype": "bfloat16", "update": "sparse"}}, marks=pytest.mark.slow),
    ],
    ids=["mse", "negative_rate", "sharded", "bf16", "bfloat16 table"],
)
def test_every_kind_of_run_exports(sections, tmp_path):
    devices = 4 if "placement" in sections.get("tables", {}) else 1
    assert agreement("npz", "deepfm", "ids", tmp_path, sections=sections, devices=devices).rows == 201


def test_an_id_that_is_no_row_adds_nothing():
    engine = make_engine("fm", schema=SCHEMAS["ids"]())
    scoring = Scoring.of(engine, with_drawn_weights(engine))
    ids = draw_rows(engine.schema, 4).ids
    outside = [ids.copy() for _ in range(3)]
    for copy, number in zip(outside, (EMPTY, -7, engine.schema.num_rows), strict=True):
        copy[:, 2] = number
    empty, other, beyond = (np.asarray(scoring.of_inputs(copy)) for copy in outside)
    assert (empty == other).all() and (empty == beyond).all() and (empty != np.asarray(scoring.of_inputs(ids))).all()


@pytest.mark.parametrize("places", [0, slice(1, 3), [0, 1, 3], [4, 2], ([0, 2], [1, 3])], ids=str)
def test_gathers_at_known_places_become_slices_with_the_same_result(places):
    function = lambda x: x[:, *places] * 2 if isinstance(places, tuple) else x[:, np.array(places)] * 2
    if isinstance(places, slice):
        function = lambda x: x[:, places] * 2
    (batch,) = jax.export.symbolic_shape("batch")
    traced = jax.make_jaxpr(simplified(function))(jax.ShapeDtypeStruct((batch, 5, 4), np.float32))
    names = {equation.primitive.name for equation in traced.jaxpr.eqns}
    assert ("gather" in names) == isinstance(places, tuple)  # places on two axes stay as they are
    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(simplified(function)(x), function(x))


def test_what_is_known_is_computed_beforehand():
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    traced = jax.make_jaxpr(simplified(lambda x: x @ (jax.numpy.exp(kernel).T / 2)))(np.ones((4, 3), np.float32))
    assert [equation.primitive.name for equation in traced.jaxpr.eqns] == ["dot_general"]


def test_a_directory_is_whole_or_not_there(tmp_path):
    with pytest.raises(RuntimeError), new_directory(tmp_path / "out") as made:
        (made / "file").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with new_directory(tmp_path / "out") as made:
        (made / "file").write_text("whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]

"""Prediction from raw rows, and torchfm weights as a run, against golden outputs and against evaluation."""

import csv
import io
import json
import os

import numpy as np
import pytest
import sklearn.metrics
from test_commands import command

import dist_fm.import_torchfm
import dist_fm.predict
from data_tools.cli import main as data_tools
from dist_fm.data.records import RecordLayout
from dist_fm.data.schema import Schema
from dist_fm.data.store_writer import BlockWriter

MODELS = ("lr", "fm", "ffm", "fnn", "wide_deep", "afm", "nfm", "ncf", "fnfm", "deepfm", "xdeepfm")
LATER = ("dcn", "pnn_inner", "pnn_outer", "afn")
IMPORTED = {"fm", "ffm", "ncf", "deepfm", "autoint"}  # by the fast tests: tables of each kind, and attention


@pytest.fixture(scope="module")
def ratings_run(tmp_path_factory):
    """Ratings with a plain structure, in MovieLens-100k's format; their data set; an fm trained on it."""
    work = tmp_path_factory.mktemp("ratings")
    rng = np.random.default_rng(0)
    user, item = rng.integers(1, 40, 3000), rng.integers(100, 130, 3000)
    rating = np.clip(np.round(3.5 + 0.08 * (item - 115) + rng.normal(0, 1, 3000)), 1, 5).astype(int)
    raw = work / "u.data"
    raw.write_text("".join(f"{u}\t{i}\t{r}\t{t}\n" for t, (u, i, r) in enumerate(zip(user, item, rating, strict=True))))
    build = ["build-lmdb", "--format=movielens-100k", f"--input={raw}", f"--output={work}/data", "--split=order"]
    assert data_tools(build) == 0
    flags = ("--model=fm", "--epochs=3", "--lr=0.02", "--batch_size=200", "--train.eval_batch_size=256", "--quiet")
    command("train", f"--data={work}/data", *flags, f"--output_dir={work}/run")
    return work, raw


def predict(work, text, *flags, expect=0):
    """Scores ``text``; returns the lines of the output as dicts and the text of the errors file, or stderr."""
    (work / "in.txt").write_text(text)
    out = work / "scores.csv"
    arguments = (f"--run={work}/run", f"--input={work}/in.txt", f"--output={out}", *flags)
    said = command("predict", *arguments, expect=expect)
    if expect:
        return said
    errors = work / "scores.csv.errors"
    return list(csv.DictReader(io.StringIO(out.read_text()))), errors.read_text() if errors.exists() else ""


def test_scores_of_the_test_split_have_the_metrics_of_evaluate(ratings_run):
    work, raw = ratings_run
    lines = raw.read_text().splitlines(keepends=True)[2700:]
    found, errors = predict(work, "".join(lines), "--keep=user,item")
    assert not errors and [int(line["row"]) for line in found] == list(range(300))
    assert [(line["user"], line["item"]) for line in found] == [tuple(line.split("\t")[:2]) for line in lines]
    labels = np.array([int(line.split("\t")[2]) > 3 for line in lines])
    scores = np.array([float(line["score"]) for line in found])
    expected = json.loads((work / "run" / "result.json").read_text())["test"]
    assert sklearn.metrics.roc_auc_score(labels, scores) == pytest.approx(expected["auc"], abs=1e-9)
    assert sklearn.metrics.log_loss(labels, scores) == pytest.approx(expected["logloss"], abs=1e-6)


def test_columns_by_name_in_any_order_extra_ones_ignored_label_optional(ratings_run):
    work, _ = ratings_run
    plain, _ = predict(work, "3\t105\t4\t0\n7\t120\t1\t0\n")
    named, _ = predict(work, "colour,item,user\nred,105,3\nblue,120,7\n")
    bare, _ = predict(work, "3\t105\n7\t120\n")
    assert plain == named == bare


def test_unseen_values_and_missing_cells_score_as_unseen(ratings_run):
    work, _ = ratings_run
    found, errors = predict(work, "user,item\n999,105\n,105\n3,nothing\n3,\n")
    scores = [line["score"] for line in found]
    assert not errors and scores[0] == scores[1] and scores[2] == scores[3] and scores[0] != scores[2]


def test_bad_rows_keep_their_place_and_are_listed(ratings_run):
    work, _ = ratings_run
    good, _ = predict(work, "3\t105\t4\t0\n7\t120\t1\t0\n")
    found, errors = predict(work, "3\t105\t4\t0\nbroken\n7\t120\t1\t0\n7\t1\t1\n")
    assert [line["row"] for line in found] == ["0", "1", "2", "3"]
    assert [line["score"] for line in found] == [good[0]["score"], "", good[1]["score"], ""]
    assert "in.txt:2:" in errors and "in.txt:4:" in errors and len(errors.splitlines()) == 2


def test_small_chunks_and_batches_change_nothing(ratings_run, monkeypatch):
    """Many chunks give the scores of one: the input may be larger than memory."""
    module = dist_fm.predict
    work, raw = ratings_run
    text = raw.read_text()
    whole, _ = predict(work, text)
    original = module.open_rows
    monkeypatch.setattr(module, "open_rows", lambda *a, **k: original(*a, chunk_bytes=700, **k))
    out = work / "chunked.csv"
    module.main([f"--run={work}/run", f"--input={work}/in.txt", f"--output={out}"])
    assert list(csv.DictReader(io.StringIO(out.read_text()))) == whole


def test_missing_column_and_empty_input_say_so_and_write_nothing(ratings_run):
    work, _ = ratings_run
    (work / "scores.csv").unlink(missing_ok=True)
    error = predict(work, "user,colour\n3,red\n", expect=2)
    assert "'item'" in error and "colour" in error
    error = predict(work, "", expect=2)
    assert "empty" in error
    error = predict(work, "user,item\n3,5\n", "--keep=shade", expect=2)
    assert "shade" in error
    assert not (work / "scores.csv").exists()


@pytest.mark.parametrize(
    "model",
    [pytest.param(name, marks=() if name in IMPORTED else pytest.mark.slow) for name in (*MODELS, "autoint", *LATER)],
)
def test_an_imported_torchfm_model_predicts_its_golden_probabilities(model, shared, tmp_path):
    file = shared / "golden" / "torchfm" / f"{model}.npz"
    golden = np.load(file)
    dist_fm.import_torchfm.main([f"--state={file}", f"--output={tmp_path}/run"])
    ids = golden["x"]
    header = ",".join(f"f{i}" for i in range(ids.shape[1]))
    lines = [header, *(",".join(map(str, row)) for row in ids), ",".join(["99999"] * ids.shape[1])]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    dist_fm.predict.main([f"--run={tmp_path}/run", f"--input={tmp_path}/in.csv", f"--output={tmp_path}/out.csv"])
    scores = [float(line["score"]) for line in csv.DictReader((tmp_path / "out.csv").read_text().splitlines())]
    np.testing.assert_allclose(scores[:-1], golden["prob_eval"], atol=1e-5)
    assert np.isfinite(scores[-1])  # ids outside every field: the unseen row, zeros


def test_import_refuses_what_is_no_torchfm_file(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"nothing")
    error = command("import_torchfm", f"--state={tmp_path}/x.npz", f"--output={tmp_path}/run", expect=2)
    assert "x.npz" in error and not os.path.exists(tmp_path / "run")
    np.savez(tmp_path / "y.npz", config=np.frombuffer(b'{"model": "fm"}', np.uint8))
    error = command("import_torchfm", f"--state={tmp_path}/y.npz", f"--output={tmp_path}/run", expect=2)
    assert "field_dims" in error


@pytest.mark.parametrize("model", ["fm", "ncf"])
def test_an_imported_model_evaluates(model, shared, tmp_path):
    """On its golden samples, packed by the run's own schema: the log loss of torchfm's probabilities."""
    file = shared / "golden" / "torchfm" / f"{model}.npz"
    golden = np.load(file)
    dist_fm.import_torchfm.main([f"--state={file}", f"--output={tmp_path}/run"])
    schema = (tmp_path / "run" / "schema.json").read_text()
    data = tmp_path / "data"
    data.mkdir()
    (data / "schema.json").write_text(schema)
    (data / "manifest.json").write_text("{}")
    parsed = Schema.from_json(schema)
    layout = RecordLayout.for_schema(parsed)
    with BlockWriter(data / "test.lmdb", layout) as writer:
        writer.append(layout.pack(golden["y"], (golden["x"] + 1 + parsed.slot_offsets).astype(np.int32)))
    found = json.loads(command("evaluate", f"--run={tmp_path}/run", f"--data={data}"))
    assert found["logloss"] == pytest.approx(sklearn.metrics.log_loss(golden["y"], golden["prob_eval"]), abs=1e-5)
    assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(golden["y"], golden["prob_eval"]), abs=1e-5)

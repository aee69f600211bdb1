"""Every model in every format's runtime: onnxruntime, jax.export, TensorFlow, LiteRT, which the extras install."""

import json

import pytest
from export_cases import agreement
from test_commands import command

from data_tools.build import build
from data_tools.plan import BuildOptions
from dist_fm.exporting import onnx
from dist_fm.exporting.comparison import TOLERANCE, compare, rows_to_compare
from dist_fm.exporting.formats import FORMATS
from dist_fm.exporting.scoring import Scoring
from dist_fm.flags import load_config, parse_flags
from dist_fm.models import MODELS
from dist_fm.parallel.mesh import make_mesh, start_devices
from dist_fm.run_dir import RunDir
from dist_fm.training.evaluation import predictions
from dist_fm.training.opening import open_best
from dist_fm.training.session import train

pytestmark = pytest.mark.slow

GRAPHS = ("onnx", "stablehlo", "savedmodel", "tflite")
ELEVEN = ("lr", "fm", "ffm", "fnn", "wide_deep", "afm", "nfm", "ncf", "fnfm", "deepfm", "xdeepfm")
SLOTS = [("afm", "entries"), ("hofm", "entries"), ("xdeepfm", "means"), ("autoint", "means"), ("fnfm", "sums")]


@pytest.fixture(scope="module")
def movielens(shared, tmp_path_factory):
    """ml-latest-small as a data set."""
    data = tmp_path_factory.mktemp("movielens") / "data"
    ratings = str(shared / "data" / "ml-latest-small" / "ratings.csv")
    build(BuildOptions("movielens-csv", str(data), (ratings,)), say=lambda _: None)
    return data


@pytest.mark.parametrize("model", ELEVEN)
def test_every_format_agrees_on_the_whole_test_split_of_movielens(model, movielens, tmp_path):
    flags = [f"--data={movielens}", f"--model={model}", "--epochs=1", "--batch_size=2048", "--devices=1", "--quiet"]
    train(load_config(None, parse_flags([*flags, f"--output_dir={tmp_path}/run"])[0]))
    engine, state = open_best(RunDir(tmp_path / "run"), make_mesh(start_devices(1, "cpu")))
    rows = rows_to_compare(engine.schema, str(movielens), given=True, count=1 << 20)
    assert len(rows.ids) == 10_058
    expected = predictions(engine, state, rows.ids, rows.values)
    scoring = Scoring.of(engine, state)
    for name, found in FORMATS.items():
        path = tmp_path / found.file
        found.write(scoring, path)
        agreed = compare(found.load(path, scoring), rows, expected, path)
        print(f"{model} {name}: {agreed.largest_difference:.1g}")
        assert agreed.largest_difference <= TOLERANCE


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_agrees_with_the_live_one(name, model, tmp_path):
    assert agreement(name, model, "ids", tmp_path).rows == 201


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("model, kind", SLOTS)
def test_fields_of_several_slots_agree_with_the_live_model(name, model, kind, tmp_path):
    assert agreement(name, model, kind, tmp_path).rows == 201


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("sections", [{"train": {"loss": "mse"}}, {"data": {"negative_rate": 0.1}}], ids=str)
def test_predictions_are_those_of_evaluation(name, sections, tmp_path):
    assert agreement(name, "deepfm", "ids", tmp_path, sections=sections).rows == 201


def test_large_weights_lie_beside_the_onnx_file(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "ONE_FILE_BYTES", 0)
    assert agreement("onnx", "deepfm", "ids", tmp_path).rows == 201
    assert (tmp_path / "model.onnx.data").stat().st_size > 4 * 96 * 17  # the table: 96 rows of 17 numbers


@pytest.mark.parametrize("name", FORMATS)
def test_the_command_writes_each_format(name, movielens, tmp_path):
    command("train", f"--data={movielens}", "--model=fm", "--steps=5", "--quiet", f"--output_dir={tmp_path}/run")
    said = command("export", f"--run={tmp_path}/run", f"--format={name}", f"--output={tmp_path}/out")
    assert FORMATS[name].file in said
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["compared"]["rows"] == 1000 and (tmp_path / "out" / about["file"]).exists()

"""The published benchmark on Frappe, from one seed, by the commands that the configurations name. Slow."""

import pathlib

import pytest

from data_tools.cli import main as data_tools
from dist_fm.flags import load_config, parse_flags
from dist_fm.training.session import train

pytestmark = pytest.mark.slow

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
# Test AUC at least, and log loss at most (published + .010), of the models that train within minutes on two cores. The
# best settings are held to the published AUC and log loss themselves.
BARS = {
    "lr": (0.9336, 0.3176),
    "fm": (0.967, 0.2165),
    "ffm": (0.979, 0.1960),
    "fnn": (0.982, 0.1684),
    "wide_deep": (0.981, 0.1640),
    "nfm": (0.978, 0.2158),
    "deepfm": (0.982, 0.1595),
    "xdeepfm": (0.982, 0.1561),
    "dcn": (0.9809, 0.1607),
    "fm_best": (0.9671, 0.2065),
    "ffm_best": (0.9786, 0.1860),
    "afm_best": (0.9697, 0.2264),
}


@pytest.fixture(scope="module")
def frappe(shared, tmp_path_factory):
    raw, output = shared / "data" / "frappe_x1", tmp_path_factory.mktemp("frappe") / "data"
    files = [f"--{split}={raw}/{split}.csv" for split in ("train", "valid", "test")]
    assert data_tools(["build-lmdb", "--format=frappe", "--split=files", *files, f"--output={output}"]) == 0
    return output


@pytest.mark.parametrize("model", BARS)
def test_frappe(model, frappe):
    auc, logloss = BARS[model]
    flags = parse_flags([f"--data={frappe}", f"--output_dir={frappe}-{model}", "--devices=1", "--quiet"])[0]
    test = train(load_config(str(CONFIGS / f"frappe_{model}.toml"), flags))["test"]
    print(model, test)
    assert test["auc"] >= auc and test["logloss"] <= logloss

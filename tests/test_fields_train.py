"""Lists, numbers and hashed ids all the way: built, trained on, evaluated, and predicted from the raw file."""

import csv
import json

import numpy as np
import pytest
from raw_logs import eleme_rows

import dist_fm.predict
from data_tools.build import build
from data_tools.plan import BuildOptions
from dist_fm.flags import load_config, parse_flags
from dist_fm.training.session import train


@pytest.mark.parametrize("update", [pytest.param("dense", marks=pytest.mark.slow), "sparse"])
def test_ele_me_trains_and_predicts_what_it_evaluates(update, tmp_path):
    raw = tmp_path / "log.csv"
    raw.write_text(eleme_rows(600))
    build(BuildOptions("ele-me", str(tmp_path / "set"), (str(raw),), split="order"), say=lambda _: None)
    flags = [f"--data={tmp_path}/set", "--model=deepfm", f"--output_dir={tmp_path}/run", "--epochs=1", "--devices=2"]
    flags += ["--batch_size=128", f"--tables.update={update}", "--embed_dim=4", "--quiet"]
    result = train(load_config(None, parse_flags(flags)[0]))
    test = raw.read_text().splitlines(keepends=True)[-60:]  # the last tenth, in order
    (tmp_path / "test.csv").write_text("".join(test))
    scores = tmp_path / "scores.csv"
    dist_fm.predict.main([f"--run={tmp_path}/run", f"--input={tmp_path}/test.csv", f"--output={scores}"])
    found = np.array([float(line["score"]) for line in csv.DictReader(scores.read_text().splitlines())])
    labels = np.array([float(line.split(",")[0]) for line in test])
    assert np.ptp(found) > 1e-4
    mean = -np.mean(np.log(np.where(labels > 0, found, 1 - found)))
    assert mean == pytest.approx(result["test"]["logloss"], rel=1e-5)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"] == result["test"]

"""Runs on rows with groups and weights, on all or a share of the negatives: metrics, saved scores and predictions."""

import csv
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
import sklearn.metrics
from conftest import make_schema, weights, write_data_set
from test_commands import command, events
from test_metrics import loop_group_auc, loop_top_k

from data_tools.cli import main as data_tools
from dist_fm.data.shards import open_split
from dist_fm.metrics.calibration import probabilities

SCHEMA = """label = "click"
weight = "seconds"
group = "session"
[[field]]
name = "user"
role = "user"
[[field]]
name = "item"
role = "item"
"""
ROWS, TEST_ROWS = 2000, 300
FLAGS = ("--model=lr", "--epochs=4", "--lr=0.05", "--batch_size=100", "--devices=1", "--quiet")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A directory of rows.csv, in which sessions are cut by the splits, its data set, and a run on it."""
    work = tmp_path_factory.mktemp("scores")
    rng = np.random.default_rng(0)
    user, item, session = rng.integers(0, 25, ROWS), rng.integers(0, 40, ROWS), rng.integers(0, 200, ROWS)
    click = rng.random(ROWS) < probabilities(rng.normal(-1, 1, 25)[user] + rng.normal(0, 1.5, 40)[item])
    seconds = rng.choice([0.0, 0.5, 1.0, 4.0], ROWS)
    with open(work / "rows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["click", "seconds", "session", "user", "item"])
        writer.writerows(zip(click.astype(int), seconds, session, user, item, strict=True))
    (work / "schema.toml").write_text(SCHEMA)
    build = ("--format=csv", f"--input={work}/rows.csv", f"--schema={work}/schema.toml", "--split=order")
    assert data_tools(["build-lmdb", *build, "--fractions=0.7,0.15,0.15", f"--output={work}/data"]) == 0
    flags = ("--train.monitor=ndcg", "--train.top_k=1,3", "--train.eval_batch_size=256")
    command("train", f"--data={work}/data", *FLAGS, *flags, f"--output_dir={work}/run")
    return work


def test_metrics_are_those_of_the_saved_scores(run):
    said = command("evaluate", f"--run={run}/run", f"--scores={run}/scores.npz")
    found, result = json.loads(said), json.loads((run / "run" / "result.json").read_text())
    assert found == {"split": "test", "rows": TEST_ROWS, **result["test"]}
    scores = dict(np.load(run / "scores.npz"))
    logits, labels, shares, groups = (scores[name] for name in ("logit", "label", "weight", "group"))
    probability, known = scores["probability"], {"sample_weight": shares}
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logits.astype(np.float64))), rtol=1e-12)
    clicks, predicted = (np.average(x, weights=shares) for x in (labels, probability))
    expected = {
        "auc": sklearn.metrics.roc_auc_score(labels, logits, **known),
        "logloss": sklearn.metrics.log_loss(labels, probability, **known),
        "ne": sklearn.metrics.log_loss(labels, probability, **known)
        / sklearn.metrics.log_loss(labels, np.full(len(labels), clicks), **known),
        "calibration": predicted / clicks,
        "ece": found["ece"],  # see test_metrics.py
        "pr_auc": sklearn.metrics.average_precision_score(labels, logits, **known),
        **dict(zip(("gauc", "gauc_share"), loop_group_auc(groups, labels, logits, shares), strict=True)),
        **loop_top_k(groups, labels, logits, shares, 1),
        **loop_top_k(groups, labels, logits, shares, 3),
    }
    assert result["test"] == pytest.approx(expected, abs=1e-6)
    assert 0 < found["ece"] < 0.3 and found["auc"] > 0.6 and 0 < found["gauc_share"] < 1
    raw = [line.split(",") for line in (run / "rows.csv").read_text().splitlines()[-TEST_ROWS:]]
    assert labels.tolist() == [float(row[0]) for row in raw] and shares.tolist() == [float(row[1]) for row in raw]
    assert len(set(zip(groups.tolist(), (row[2] for row in raw), strict=True))) == len(set(groups.tolist()))


def test_the_best_step_is_best_at_the_first_k(run):
    valid = {event["step"]: event for event in events(run / "run") if event["split"] == "valid"}
    best = json.loads((run / "run" / "result.json").read_text())["best_step"]
    assert valid[best]["ndcg@1"] == max(event["ndcg@1"] for event in valid.values())
    assert best == min(step for step, event in valid.items() if event["ndcg@1"] == valid[best]["ndcg@1"])


def test_a_run_evaluates_data_with_groups_or_without(run, tmp_path):
    """Neither groups nor weights are part of what makes data fit a run."""
    schema = "".join(line for line in SCHEMA.splitlines(keepends=True) if not line.startswith(("weight", "group")))
    (tmp_path / "schema.toml").write_text(schema)
    build = ("--format=csv", f"--input={run}/rows.csv", f"--schema={tmp_path}/schema.toml", "--split=order")
    build += ("--fractions=0.7,0.15,0.15", f"--vocab_from={run}/data", f"--output={tmp_path}/data")
    assert data_tools(["build-lmdb", *build]) == 0
    scores = []
    for data in (run, tmp_path):
        flags = (f"--data={data}/data", f"--scores={tmp_path}/scores.npz")
        found = json.loads(command("evaluate", f"--run={run}/run", *flags))
        assert ("gauc" in found) == (data == run)
        scores.append(dict(np.load(tmp_path / "scores.npz")))
    np.testing.assert_array_equal(scores[0]["logit"], scores[1]["logit"])
    assert "group" not in scores[1] and set(scores[1]["weight"]) == {1}


def test_what_cannot_be_monitored_or_written_is_named(run, tmp_path):
    data = write_data_set(tmp_path / "data", make_schema(), rows=(10, 10, 10))
    flags = (f"--data={data}", *FLAGS, f"--output_dir={tmp_path}/run")
    error = command("train", *flags, "--train.monitor=gauc", expect=2)
    assert "--train.monitor=gauc" in error and "'made' have none" in error and "group = COLUMN" in error
    assert not (tmp_path / "run").exists()
    for name in ("scores.parquet", "nowhere/scores.csv"):
        error = command("evaluate", f"--run={run}/run", f"--scores={tmp_path}/{name}", expect=2)
        assert f"{name}: must be FILE.npz or FILE.csv" in error


@pytest.fixture(scope="module")
def sampled(run):
    """The run's directory, with another in sampled/, of the same settings but the rate."""
    flags = ("--data.negative_rate=0.3", "--data.shuffle=window", "--train.eval_batch_size=256")
    said = command("train", f"--data={run}/data", *FLAGS, *flags, f"--output_dir={run}/sampled")
    return run, flags, said


def saved_scores(work, run_dir):
    found = command("evaluate", f"--run={run_dir}", f"--scores={work}/scores.npz")
    return json.loads(found), dict(np.load(work / "scores.npz"))


def test_steps_and_progress_count_the_kept_rows(sampled):
    work, _, said = sampled
    kept, every = (int(number) for number in re.search(r"kept: ([\d,]+) of ([\d,]+)", said.replace(",", "")).groups())
    assert every == 1400 and f"data: csv, {kept:,} training rows" in said
    store = open_split(work / "data", "train")
    positives = store.meta.positives
    assert positives < kept < positives + 0.4 * (every - positives)
    result = json.loads((work / "sampled" / "result.json").read_text())
    assert result["steps"] == 4 * math.ceil(kept / 100)
    assert {event["epoch"] for event in events(work / "sampled")} == {1, 2, 3, 4}


def test_logits_are_corrected_by_the_logarithm_of_the_rate(sampled, tmp_path):
    work, _, _ = sampled
    found, corrected = saved_scores(work, work / "sampled")
    shutil.copytree(work / "sampled", tmp_path / "plain")
    config = (tmp_path / "plain" / "config.toml").read_text()
    (tmp_path / "plain" / "config.toml").write_text(config.replace("negative_rate = 0.3", "negative_rate = 1.0"))
    plainly, plain = saved_scores(tmp_path, tmp_path / "plain")
    np.testing.assert_allclose(corrected["logit"], plain["logit"] + math.log(0.3), rtol=1e-5, atol=1e-6)
    assert found["auc"] == pytest.approx(plainly["auc"], abs=1e-3)
    full, _ = saved_scores(work, work / "run")
    assert found["calibration"] == pytest.approx(full["calibration"], rel=0.15) and plainly["calibration"] > 1.4
    result = json.loads((work / "sampled" / "result.json").read_text())["test"]
    assert found == {"split": "test", "rows": TEST_ROWS, **result}


@pytest.mark.parametrize("name", ["run", "sampled"])
def test_saved_scores_are_predictions_too(sampled, name):
    work, _, _ = sampled
    command("evaluate", f"--run={work}/{name}", f"--scores={work}/scores.csv")
    saved = list(csv.DictReader(io.StringIO((work / "scores.csv").read_text())))
    lines = (work / "rows.csv").read_text().splitlines(keepends=True)
    (work / "new.csv").write_text(lines[0] + "".join(lines[-TEST_ROWS:]))
    command("predict", f"--run={work}/{name}", f"--input={work}/new.csv", f"--output={work}/predicted.csv")
    predicted = list(csv.DictReader(io.StringIO((work / "predicted.csv").read_text())))
    assert list(saved[0]) == ["logit", "probability", "label", "weight", "group"] and len(saved) == TEST_ROWS
    as_numbers = lambda lines, name: np.array([float(line[name]) for line in lines])
    np.testing.assert_allclose(as_numbers(predicted, "score"), as_numbers(saved, "probability"), rtol=1e-6)


def test_a_stopped_run_goes_on_exactly_and_with_no_other_rate(sampled, tmp_path):
    work, flags, _ = sampled
    arguments = (f"--data={work}/data", *FLAGS, *flags, f"--output_dir={tmp_path}/part")
    command("train", *arguments, "--steps=7")
    error = command("train", *arguments, "--data.negative_rate=0.4", expect=2)
    assert "data.negative_rate: the run has 0.3, this command 0.4" in error
    command("train", *arguments)
    assert weights(tmp_path / "part") == weights(work / "sampled")


def test_rates_that_are_refused(run, tmp_path):
    arguments = (f"--data={run}/data", *FLAGS, f"--output_dir={tmp_path}/run")
    for rate, words in (("0", "above 0"), ("1.5", "at most 1")):
        assert words in command("train", *arguments, f"--data.negative_rate={rate}", expect=2)
    error = command("train", *arguments, "--data.negative_rate=0.5", "--loss=mse", expect=2)
    assert "data.negative_rate=0.5" in error and "--loss=bce" in error
    assert not (tmp_path / "run").exists()

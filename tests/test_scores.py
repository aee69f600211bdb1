"""A run on rows with groups and weights: its metrics are those of the scores it saves, and predicts."""

import csv
import io
import json

import numpy as np
import pytest
import sklearn.metrics
from conftest import make_schema, write_data_set
from test_commands import command, events
from test_metrics import loop_group_auc, loop_top_k

from data_tools.cli import main as data_tools
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
    logits, labels, weights, groups = (scores[name] for name in ("logit", "label", "weight", "group"))
    probability, known = scores["probability"], {"sample_weight": weights}
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logits.astype(np.float64))), rtol=1e-12)
    clicks, predicted = (np.average(x, weights=weights) for x in (labels, probability))
    expected = {
        "auc": sklearn.metrics.roc_auc_score(labels, logits, **known),
        "logloss": sklearn.metrics.log_loss(labels, probability, **known),
        "ne": sklearn.metrics.log_loss(labels, probability, **known)
        / sklearn.metrics.log_loss(labels, np.full(len(labels), clicks), **known),
        "calibration": predicted / clicks,
        "ece": found["ece"],  # see test_metrics.py
        "pr_auc": sklearn.metrics.average_precision_score(labels, logits, **known),
        **dict(zip(("gauc", "gauc_share"), loop_group_auc(groups, labels, logits, weights), strict=True)),
        **loop_top_k(groups, labels, logits, weights, 1),
        **loop_top_k(groups, labels, logits, weights, 3),
    }
    assert result["test"] == pytest.approx(expected, abs=1e-6)
    assert 0 < found["ece"] < 0.3 and found["auc"] > 0.6 and 0 < found["gauc_share"] < 1
    raw = [line.split(",") for line in (run / "rows.csv").read_text().splitlines()[-TEST_ROWS:]]
    assert labels.tolist() == [float(row[0]) for row in raw] and weights.tolist() == [float(row[1]) for row in raw]
    assert len(set(zip(groups.tolist(), (row[2] for row in raw), strict=True))) == len(set(groups.tolist()))


def test_saved_scores_are_predictions_too(run):
    command("evaluate", f"--run={run}/run", f"--scores={run}/scores.csv")
    saved = list(csv.DictReader(io.StringIO((run / "scores.csv").read_text())))
    lines = (run / "rows.csv").read_text().splitlines(keepends=True)
    (run / "new.csv").write_text(lines[0] + "".join(lines[-TEST_ROWS:]))
    command("predict", f"--run={run}/run", f"--input={run}/new.csv", f"--output={run}/predicted.csv")
    predicted = list(csv.DictReader(io.StringIO((run / "predicted.csv").read_text())))
    assert list(saved[0]) == ["logit", "probability", "label", "weight", "group"] and len(saved) == TEST_ROWS
    as_numbers = lambda lines, name: np.array([float(line[name]) for line in lines])
    np.testing.assert_allclose(as_numbers(predicted, "score"), as_numbers(saved, "probability"), rtol=1e-6)


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

"""report.html: its numbers are the run's, raw values are text, what is missing is said, and it never harms the run."""

import html.parser
import json
import re
import shutil

import numpy as np
import pytest
import sklearn.metrics
from conftest import SCRIPT, make_config, make_engine, make_schema, write_data_set
from test_commands import command, events

import dist_fm
from data_tools.encode import Encoder
from dist_fm.config import OptimizerConfig
from dist_fm.data.schema import EMPTY
from dist_fm.data.shards import open_split
from dist_fm.errors import UserError
from dist_fm.explaining.rows import SomeRows
from dist_fm.flags import parse_repeated
from dist_fm.metrics.calibration import calibration_bins, probabilities
from dist_fm.metrics.curves import POINTS, precision_recall_curve, roc_curve, thinned
from dist_fm.reporting import slices, writing
from dist_fm.reporting.history import Line
from dist_fm.run_dir import RunDir
from dist_fm.training.evaluation import ScoredRows
from dist_fm.training.hooks import make_hooks
from dist_fm.training.optimizer import make_schedule
from dist_fm.training.progress import Progress

PANELS = {
    *("summary", "metrics", "curves", "roc", "calibration", "scores", "slices", "importance", "pairs", "time"),
    "settings",
}


class Page(html.parser.HTMLParser):
    """The text, the panels and the elements of a report; ``panel[key]`` is the text of one."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.panel, self._key = [], [], {}, None
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "section":
            self._key = dict(attributes)["data-panel"]
            self.panel[self._key] = ""

    def handle_data(self, data):
        if self._key:
            self.panel[self._key] += " " + " ".join(data.split())


@pytest.fixture(scope="module")
def page(hostile_run):
    return Page(hostile_run / "run" / "report.html")


def copied(hostile_run, tmp_path, name="run"):
    return shutil.copytree(hostile_run / "run", tmp_path / name)


def report(*flags, expect=0):
    return command("report", *flags, "--devices=1", expect=expect)


def test_training_writes_every_panel_and_the_numbers_of_the_result(hostile_run, page):
    result = json.loads((hostile_run / "run" / "result.json").read_text())
    assert set(page.panel) == PANELS
    assert not [key for key in PANELS if page.panel[key].strip() == ""] and "absent" not in dict(page.attributes)
    for split in ("valid", "test"):
        for name, value in result[split].items():
            assert f" {name} " in page.panel["metrics"] and f"{value:.5f}" in page.panel["metrics"]
    assert f"step {result['best_step']}, epoch {result['best_epoch']}" in page.panel["summary"]
    assert f"{result['parameters']:,}" in page.panel["summary"]
    assert f"{result['train_samples_per_s']:,} samples/s" in page.panel["summary"]
    for key in ("wait", "step", "compile", "evaluate", "save"):
        assert f"{result['seconds'][key]:.2f} s" in page.panel["time"]
    assert f"AUC {result['test']['auc']:.4f}" in page.panel["roc"]
    assert f"PR-AUC {result['test']['pr_auc']:.4f}" in page.panel["roc"]
    assert page.tags.count("svg") == 8
    for word in ("optimizer.lr 0.05", "model.embed_dim 4", "train.epochs 2"):
        assert word in page.panel["settings"]
    assert page.panel["importance"].index(" item ") < page.panel["importance"].index(" noise ")
    assert len(re.findall(" × ", page.panel["pairs"])) == 10


def test_raw_values_are_text_and_nothing_runs_or_is_fetched(page):
    assert SCRIPT in page.panel["slices"] and "&lt;script&gt;alert(1)&lt;/script&gt;" in page.source
    assert "<b>tags</b>" in page.panel["slices"] and "<b>tags</b>" in page.panel["importance"]
    assert "script" not in page.tags and SCRIPT not in page.source
    for value in ("quote\"'&amp;", "$x^2$", "é" * 120 + "…", "(missing)", "back\\slash"):
        assert value in page.panel["slices"]
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "href", "xlink:href") or value.startswith(("#", "data:")), (name, value)
    assert "url(http" not in page.source and "@import" not in page.source


def test_the_command_writes_the_same_page(hostile_run, page, tmp_path):
    """Nothing in it depends on when it is written."""
    out = report(f"--run={hostile_run}/run", f"--output={tmp_path}/again.html")
    assert f"{tmp_path}/again.html: written in" in out
    assert Page(tmp_path / "again.html").panel == page.panel


def test_what_goes_wrong_with_it_is_said_and_leaves_the_run_as_it_is(hostile_run, tmp_path, monkeypatch, capsys):
    run = RunDir(copied(hostile_run, tmp_path))
    (run.path / "report.html").unlink()

    def fails(*_, **__):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "find", fails)
        writing.after_training(run, None, None)
    said = capsys.readouterr().err
    assert "no report.html: OSError: no space left" in said and f"dist_fm.report --run={run.path}" in said
    monkeypatch.setattr(writing, "PACKAGES", ("jinja2", "a_package_that_is_not_there"))
    writing.after_training(run, None, None)
    assert capsys.readouterr().err == "no report.html: pip install 'dist_fm[report]'\n"
    assert not (run.path / "report.html").exists()
    error = report(f"--run={run.path}", expect=2)
    assert "needs a_package_that_is_not_there: pip install 'dist_fm[report]'" in error


def test_a_run_whose_data_is_gone_has_the_rest(hostile_run, page, tmp_path):
    run = copied(hostile_run, tmp_path)
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace(str(hostile_run / "data"), "/gone/data"))
    report(f"--run={run}")
    found = Page(run / "report.html")
    assert set(found.panel) == PANELS
    for key in ("roc", "calibration", "scores", "slices", "importance", "pairs"):
        assert "Needs the rows of the data set: /gone/data: no such directory" in found.panel[key]
    assert found.panel["metrics"] == page.panel["metrics"] and found.panel["curves"] == page.panel["curves"]
    report(f"--run={run}", f"--data={hostile_run}/data")
    assert Page(run / "report.html").panel["slices"] == page.panel["slices"]
    other = write_data_set(tmp_path / "other", make_schema())
    assert "schema fingerprint" in report(f"--run={run}", f"--data={other}", expect=2)


def test_a_run_that_is_not_finished_says_so(hostile_run, tmp_path):
    run = copied(hostile_run, tmp_path)
    (run / "result.json").unlink()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 99, "spl')  # as a kill leaves it
    report(f"--run={run}")
    found = Page(run / "report.html")
    assert "is not finished" in found.panel["summary"] and "is not finished" in found.panel["time"]
    assert "AUC, valid" in found.panel["curves"] and "AUC 0." in found.panel["roc"]


def test_several_runs_are_compared(hostile_run, tmp_path):
    flags = (f"--data={hostile_run}/data", "--model=lr", "--epochs=1", "--devices=1", "--quiet")
    other = tmp_path / "<em>other"
    command("train", *flags, "--batch_size=500", f"--output_dir={other}")
    assert not (other / "report.html").exists()  # --run.report=false
    runs = (f"--run={hostile_run}/run", f"--run={other}")
    assert "--output=FILE.html must be given" in report(*runs, expect=2)
    assert "a run is given twice" in report(runs[0], *runs, f"--output={tmp_path}/x.html", expect=2)
    report(*runs, f"--output={tmp_path}/both.html")
    found = Page(tmp_path / "both.html")
    text = found.panel["comparison"]
    assert " run " in text and " <em>other " in text and "em" not in found.tags
    assert "model.name fm lr" in text and "train.batch_size 96 500" in text and "train.seed" not in text
    for run in (hostile_run / "run", other):
        result = json.loads((run / "result.json").read_text())
        assert f"{result['test']['auc']:.5f}" in text and f"{result['test']['ece']:.5f}" in text
        assert result["test"]["auc"] == RunDir(run).result()["test"]["auc"]
    assert found.source.count('data-panel="summary"') == 2
    # No line of training: one epoch of 3 steps.
    assert "No line of training was written: run.log_steps = 100" in found.panel["curves"]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("config.toml", lambda text: text.replace("[train]", "[train]\nmoentum = 3"), "has no key 'moentum'"),
        ("config.toml", lambda text: text + "\n[storage]\nkind = 1\n", "unknown section [storage]"),
        ("result.json", lambda text: text.replace('"best_step"', '"best"'), "best_step: no such key"),
        ("result.json", lambda text: re.sub(r'"steps": \d+', '"steps": "many"', text), "steps: 'many'"),
        ("metrics.jsonl", lambda text: "[]\n" + text, "metrics.jsonl:1: not an event"),
        ("metrics.jsonl", lambda text: text.replace('"step"', '"iteration"'), "metrics.jsonl:1: not an event"),
    ],
)
def test_a_run_of_another_version_is_refused_with_both_versions(hostile_run, tmp_path, name, change, words):
    run = copied(hostile_run, tmp_path)
    before = (run / "report.html").read_bytes()
    (run / name).write_text(change((run / name).read_text()))
    config = (run / "config.toml").read_text()
    assert config.startswith(f"# dist_fm {dist_fm.__version__}\n")
    assert "the run was made by" not in report(f"--run={run}", expect=2)
    (run / "config.toml").write_text(config.replace(dist_fm.__version__, "7.1.0", 1))
    error = report(f"--run={run}", expect=2)
    assert words in error and f"(the run was made by dist_fm 7.1.0, this is {dist_fm.__version__})" in error
    assert len(error.splitlines()) == 1 and (run / "report.html").read_bytes() == before


def test_a_run_before_versions_were_written_is_read(hostile_run, tmp_path):
    run = copied(hostile_run, tmp_path)
    (run / "config.toml").write_text((run / "config.toml").read_text().split("\n", 1)[1])
    result = json.loads((run / "result.json").read_text())
    for key in ("version", "seconds", "valid_is_test"):
        del result[key]
    (run / "result.json").write_text(json.dumps(result))
    lines = [{key: x for key, x in event.items() if key != "lr"} for event in events(run)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report(f"--run={run}")
    found = Page(run / "report.html")
    assert "did not measure it" in found.panel["time"] and "Learning rate" not in found.panel["curves"]
    assert "of an unknown version" in found.panel["summary"]


def test_ratings_have_residuals(tmp_path):
    data = write_data_set(tmp_path / "ratings", make_schema(rule="value"))
    flags = ("--model=fm", "--loss=mse", "--epochs=2", "--batch_size=300", "--devices=1", "--run.log_steps=2")
    command("train", f"--data={data}", *flags, "--run.report=true", "--quiet", f"--output_dir={tmp_path}/run")
    found = Page(tmp_path / "run" / "report.html")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(found.panel) == PANELS and f"{result['test']['rmse']:.5f}" in found.panel["metrics"]
    assert "RMSE added when" in found.panel["importance"] and "label - prediction" in found.source
    assert "squared error" in found.panel["slices"] and "AUC" not in found.panel["roc"]


@pytest.mark.slow
def test_one_class_has_no_roc(tmp_path):
    data = write_data_set(tmp_path / "data", make_schema(), rows=(200, 20, 1))
    flags = ("--model=lr", "--epochs=1", "--batch_size=100", "--devices=1", "--run.report=true", "--quiet")
    command("train", f"--data={data}", *flags, f"--output_dir={tmp_path}/run")
    found = Page(tmp_path / "run" / "report.html")
    assert "one class alone" in found.panel["roc"] and "No value has that many rows" in found.panel["slices"]
    assert "Log loss added when" in found.panel["importance"]
    assert "it has first-order weights alone" in found.panel["pairs"]


def test_slices_against_a_loop(hostile_run):
    encoder = Encoder.from_directory(hostile_run / "run")
    schema = encoder.schema
    with open_split(hostile_run / "data", "train") as store:
        rows = SomeRows.draw(store, 400)
    rng = np.random.default_rng(0)
    labels, weights = rows.layout.labels(rows.words), rng.random(rows.rows).astype(np.float32)
    logits = rng.normal(0, 1, rows.rows).astype(np.float32)
    found = slices.worst_slices(schema, encoder, "bce", rows, ScoredRows(logits, labels, weights))
    p = probabilities(logits)
    loss = lambda p, y: -(y * np.log(p) + (1 - y) * np.log(1 - p))
    mean, expected = np.average(labels, weights=weights), {}
    for number, field in enumerate(schema.fields[:4]):
        for row in range(field.offset, field.offset + field.rows):
            of = [i for i in range(rows.rows) if row in rows.ids[i, schema.slot_fields == number]]
            if len(of) >= slices.LEAST_ROWS:
                w, y = weights[of].astype(float), labels[of].astype(float)
                own = (sum(w * y) + 10 * mean) / (sum(w) + 10)
                excess = sum(w * (loss(p[of], y) - loss(own, y))) / sum(w)
                area = sklearn.metrics.roc_auc_score(y, logits[of], sample_weight=w)
                about = (len(of), sum(w * y) / sum(w), sum(w * p[of]) / sum(w), sum(w * loss(p[of], y)) / sum(w))
                expected[field.name, encoder.value_of(field, row)] = (*about, excess, area)
    assert EMPTY not in expected and found.of == len(expected) and found.least == slices.LEAST_ROWS
    order = sorted(expected, key=lambda key: -expected[key][4])
    assert [(one.field, one.value) for one in found.worst] == order[: slices.WORST]
    for one in [*found.worst, *(one for of_field in found.by_field.values() for one in of_field)]:
        numbers = (one.rows, one.label, one.prediction, one.loss, one.excess, one.auc)
        assert numbers == pytest.approx(expected[one.field, one.value], abs=1e-6)


def test_curves_are_those_of_all_thresholds():
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 1, 5000).round(3)
    labels, weights = (rng.random(5000) < probabilities(scores)).astype(float), rng.random(5000)
    false, true = roc_curve(labels, scores, weights)
    every = {"sample_weight": weights, "drop_intermediate": False}
    every_false, every_true, _ = sklearn.metrics.roc_curve(labels, scores, **every)
    assert len(false) <= POINTS and (false[0], true[0], false[-1], true[-1]) == pytest.approx((0, 0, 1, 1))
    np.testing.assert_allclose(np.interp(every_false, false, true), every_true, atol=0.01)
    recall, precision = precision_recall_curve(labels, scores, weights)
    every_precision, every_recall, _ = sklearn.metrics.precision_recall_curve(labels, scores, sample_weight=weights)
    assert len(recall) <= POINTS and recall[-1] == pytest.approx(1)
    known = set(zip(every_recall.round(6), every_precision.round(6), strict=True))
    assert {*zip(recall.round(6), precision.round(6), strict=True)} <= known
    few = roc_curve(labels[:50], scores[:50], weights[:50])
    every = sklearn.metrics.roc_curve(labels[:50], scores[:50], sample_weight=weights[:50], drop_intermediate=False)
    np.testing.assert_allclose(few, every[:2], atol=1e-12)
    x, y = thinned(np.arange(1000.0), np.zeros(1000), 10)
    assert (x[0], x[-1], len(x)) == (0, 999, 10)


def test_bins_hold_all_of_the_predictions_and_labels():
    rng = np.random.default_rng(2)
    logits, labels, weights = rng.normal(0, 1, 300), rng.integers(0, 2, 300).astype(float), rng.random(300)
    predicted, happened = calibration_bins(labels, logits, weights, 7)
    assert predicted.mean() == pytest.approx(np.average(probabilities(logits), weights=weights))
    assert happened.mean() == pytest.approx(np.average(labels, weights=weights))
    assert (np.diff(predicted) > 0).all()


def test_long_histories_are_thinned_to_means():
    line = Line(np.arange(1.0, 10_001), np.arange(10_000) % 2.0)
    short = line.thinned(100)
    np.testing.assert_allclose(short.steps, np.arange(100) * 100 + 50.5)
    np.testing.assert_allclose(short.values, 0.5)
    assert line.thinned(10_000) is line


def test_lines_of_training_have_the_learning_rate_of_their_step(hostile_run, tmp_path):
    assert {event["lr"] for event in events(hostile_run / "run") if event["split"] == "train"} == {0.05}
    settings = {"warmup_steps": 4, "schedule": "linear", "decay_steps": 20}
    engine, progress, run = make_engine("lr", sections={"optimizer": settings}), Progress(), RunDir(tmp_path)
    config = make_config(sections={"run": {"log_steps": 2, "tensorboard": False}}).run
    metrics, *_ = make_hooks(config, run, progress, engine.lr, 0, 20, None, ())
    for step in range(1, 21):
        progress.lr_scale = 1.0 if step < 11 else 0.5
        metrics.on_step(step, 1, 0.7, 10)
    metrics.close()
    rate = make_schedule(OptimizerConfig(**settings))
    expected = [float(rate(step - 1)) * (1 if step < 11 else 0.5) for step in range(2, 21, 2)]
    assert [event["lr"] for event in events(tmp_path)] == pytest.approx(expected)
    assert len(set(expected)) > 5


def test_times_of_parts_add_up_to_the_loop(hostile_run):
    result = json.loads((hostile_run / "run" / "result.json").read_text())
    seconds = result["seconds"]
    assert set(seconds) == {"wait", "step", "compile", "evaluate", "save"} and min(seconds.values()) > 0
    assert seconds["wait"] + seconds["step"] == pytest.approx(result["train_seconds"], abs=0.002)


def test_repeated_flags():
    known = {"run": None, "output": "x"}
    flags, runs = parse_repeated(["--run=a", "--output", "y", "--run", "b"], known, "run")
    assert flags == {"run": "b", "output": "y"} and runs == ["a", "b"]
    with pytest.raises(UserError, match="--run"):
        parse_repeated(["--output=y"], known, "run")

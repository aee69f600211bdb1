"""What a run tells besides its result: TensorBoard's events, a user's function, and the lines at the end."""

import contextlib
import dataclasses
import io
import json
import pathlib
import resource
import shlex
import signal
import sys

import pytest
from test_commands import FLAGS, command, events
from train_runs import points, result, scalars

from dist_fm import train as train_command
from dist_fm.command import run_command
from dist_fm.config import build_config
from dist_fm.errors import UserError
from dist_fm.run_dir import RunDir
from dist_fm.training.session import train
from dist_fm.training.tensorboard import TensorBoard, open_tensorboard

ROOT = pathlib.Path(__file__).parent.parent
SHORT = (*FLAGS, "--model=fm", "--devices=1", "--epochs=2")
HOOKS = """
import json, pathlib

def log(event):
    with open(pathlib.Path(__file__).with_name("told.jsonl"), "a") as file:
        file.write(json.dumps(event) + "\\n")

def fail(event):
    log(event)
    if event["step"] == 12:
        raise ConnectionError("no server")

not_a_function = 3
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A working directory with the module hooks_of_a_user in it."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "hooks_of_a_user.py").write_text(HOOKS)
    with contextlib.chdir(folder):
        yield folder
    sys.path[:] = [path for path in sys.path if path != str(folder)]


@pytest.fixture(scope="module")
def told_run(work, small_data):
    """A finished run whose events a user's function was told: its directory, and those events."""
    command("train", f"--data={small_data}", *SHORT, f"--output_dir={work}/run", "--hook=hooks_of_a_user:log")
    told = work / "told.jsonl"
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    told.unlink()
    return work / "run", lines


def test_tensorboard_has_every_number_of_metrics_jsonl_and_of_the_test_split(told_run):
    run, _ = told_run
    found = scalars(run)
    assert found == points(run)
    assert [step for step, *_ in found["train/loss"]] == [3, 6, 9, 12, 15, 18]
    assert {"train/samples_per_s", "valid/auc", "valid/logloss", "test/auc"} <= found.keys()


def test_a_function_is_told_every_line_and_the_result(told_run):
    run, told = told_run
    assert told[:-1] == events(run)
    found = json.loads((run / "result.json").read_text())
    assert told[-1] == {
        **{"step": found["best_step"], "epoch": found["best_epoch"], "split": "test"},
        **found["test"],
        "result": found,
    }


@pytest.mark.parametrize(
    "name, words",
    [
        ("hooks_of_a_user", "must be MODULE:FUNCTION"),
        ("hook_of_a_user:log", "there is no module 'hook_of_a_user'; did you mean hooks_of_a_user?"),
        ("hooks_of_a_user:logg", "has no function 'logg'; did you mean log?"),
        ("hooks_of_a_user:not_a_function", "has no function 'not_a_function'; allowed: log, fail"),
        ("needs_more:log", "needs_more cannot be imported: No module named 'mlfow'"),
        ("broken:log", "broken cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_hook_that_is_none_is_refused_before_anything_is_written(work, small_data, name, words):
    (work / "needs_more.py").write_text("import mlfow\n")
    (work / "broken.py").write_text("1 / 0\n")
    error = command("train", f"--data={small_data}", *SHORT, "--output_dir=refused", f"--hook={name}", expect=2)
    assert words in error and f"--hook={name}" in error and len(error.splitlines()) == 1
    assert not (work / "refused").exists()


def test_no_file_names_a_hook(work):
    for key in ("hook", "hooks"):
        with pytest.raises(UserError, match=f"has no key '{key}'"):
            build_config({"model": {"name": "fm"}, "run": {key: "os:abort"}}, "a file")


def test_a_hook_that_fails_ends_the_run_which_goes_on_without_it(work, told_run, small_data):
    arguments = (f"--data={small_data}", *SHORT, "--output_dir=failed")
    error = command("train", *arguments, "--hook=hooks_of_a_user:fail", expect=2)
    line = 1 + HOOKS.splitlines().index('        raise ConnectionError("no server")')
    assert "--hook=hooks_of_a_user:fail raised ConnectionError: no server" in error
    assert f"hooks_of_a_user.py:{line}), told of train at step 12" in error and "last checkpoint" in error
    assert "going on from step 9" in command("train", *arguments)
    assert result(work / "failed") == result(told_run[0])
    assert scalars(work / "failed") == points(work / "failed")


def test_from_python_a_function_is_told_and_its_error_comes_through(told_run, small_data, tmp_path):
    config = RunDir(told_run[0]).config()
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, output_dir=str(tmp_path / "run")))

    class Pruned(Exception):
        pass

    def prune(event):
        raise Pruned(event["step"])

    with pytest.raises(Pruned, match="^3$"):
        train(config, hooks=[prune])


def test_tensorboard_may_be_switched_off_or_not_be_there(tmp_path, monkeypatch, capsys):
    run = RunDir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert open_tensorboard(run) is None and not capsys.readouterr().err
    monkeypatch.undo()
    for name in [name for name in sys.modules if name.startswith("tensorboardX.event_file_writer")]:
        monkeypatch.setitem(sys.modules, name, None)  # installed, but it does not import
    assert open_tensorboard(run) is None and "no TensorBoard events: " in capsys.readouterr().err
    assert not run.event_files()


def test_tensorboard_false_writes_no_events(told_run, small_data, tmp_path):
    steps = ("--steps=2", "--no_eval", "--run.tensorboard=false")
    command("train", f"--data={small_data}", *SHORT, *steps, f"--output_dir={tmp_path}/run")
    assert not RunDir(tmp_path / "run").event_files() and (tmp_path / "run" / "result.json").exists()


def test_a_disk_that_takes_no_more_events_is_said_once(tmp_path, capsys):
    board = TensorBoard(RunDir(tmp_path))
    event = {"step": 1, "epoch": 1, "split": "train", "loss": 0.5}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        for _ in range(3):
            board.write(event)
        board.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert capsys.readouterr().err.count("TensorBoard events can no longer be written") == 1


def test_a_run_ends_with_lines_to_read_and_json_to_parse(told_run, small_data):
    run, _ = told_run
    out, err = io.StringIO(), io.StringIO()
    loud = [flag for flag in SHORT if flag != "--quiet"]
    arguments = [f"--data={small_data}", *loud, f"--output_dir={run}"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert run_command(train_command.main, arguments) == 0
    found = json.loads((run / "result.json").read_text())
    assert json.loads(out.getvalue()[out.getvalue().index("{") :]) == found
    lines = [line.split() for line in err.getvalue().splitlines()]
    assert ["fm", "on", "1", "x", "CPU,", f"{found['parameters']:,}", "parameters:"] == lines[1][:7]
    for name, value in found["valid"].items():
        assert [name, f"{value:.5f}", f"{found['test'][name]:.5f}"] in lines
    assert ["run:", str(run)] in lines and ["tensorboard", f"--logdir={run}"] in lines
    evaluate = next(line for line in lines if "dist_fm.evaluate" in line)
    evaluated = json.loads(command("evaluate", *shlex.split(" ".join(evaluate[3:]))))
    assert evaluated["auc"] == found["test"]["auc"]


def test_quiet_leaves_the_lines_out(told_run, small_data, capsys):
    run, _ = told_run
    assert run_command(train_command.main, [f"--data={small_data}", *SHORT, f"--output_dir={run}"]) == 0
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_the_readmes_mlflow_hook_logs_to_mlflow(told_run, small_data, tmp_path, monkeypatch):
    """With MLflow itself, into its file store, by the lines of the README."""
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny, which `make test-slow` installs")
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/logging.md")]
    blocks = [block for page in pages for block in page.split("```") if block.startswith("python\nimport mlflow")]
    assert len(blocks) == 2 and blocks[0] == blocks[1]
    (tmp_path / "mlflow_hook.py").write_text(blocks[0].removeprefix("python\n"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path}/mlruns")
    command("train", f"--data={small_data}", *SHORT, "--output_dir=run", "--hook=mlflow_hook:log")
    run = mlflow.active_run()
    mlflow.end_run()
    client, numbers = mlflow.MlflowClient(), points(tmp_path / "run")
    del numbers["train/samples_per_s"]  # a whole number
    assert {"train/loss", "valid/auc", "test/auc"} <= numbers.keys()
    for tag, known in numbers.items():
        history = client.get_metric_history(run.info.run_id, tag.replace("@", "_at_"))
        assert [(point.step, point.value) for point in history] == [(step, value) for step, value, _ in known]

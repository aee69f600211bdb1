"""The commands end to end, as a user runs them: train, resume, evaluate, predict, and what they say to bad input."""

import contextlib
import dataclasses
import importlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import make_schema, weights, write_data_set
from train_runs import points, scalars

from dist_fm.command import run_command
from dist_fm.run_dir import RunDir

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLAGS = (
    "--model=deepfm",
    "--batch_size=100",
    "--epochs=3",
    "--train.eval_batch_size=128",
    "--quiet",
    "--run.log_steps=3",
)


def command(name, *arguments, expect=0):
    """Runs ``dist_fm.NAME`` here, on up to four CPU devices; returns stdout, or, if it should fail, stderr.

    Training writes no report, unless it is asked to.
    """
    module = importlib.import_module(f"dist_fm.{name}")
    if name == "train" and "--help" not in arguments:
        arguments = ("--run.report=false", *arguments)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command(module.main, list(map(str, arguments)))
    assert code == expect, err.getvalue() + out.getvalue()
    return err.getvalue() if expect else out.getvalue()


def process(name, *arguments):
    """Starts ``python -m dist_fm.NAME`` as a user does."""
    words = [sys.executable, "-m", f"dist_fm.{name}", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_after_a_checkpoint(run, *flags):
    """Trains in a process of its own, which is killed once ``run`` has a checkpoint."""
    started = process("train", *flags)
    while started.poll() is None and not list((run / "checkpoints").glob("[0-9]*")):
        time.sleep(0.01)
    started.kill()
    started.communicate()


def events(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole_run(small_data, tmp_path_factory):
    """A finished run of three epochs on two devices, its directory and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    out = command("train", f"--data={small_data}", *FLAGS, "--devices=2", f"--output_dir={run}")
    return run, out


def test_train_writes_result_metrics_and_checkpoints(whole_run, small_data):
    run, out = whole_run
    assert out.startswith("devices: 2 x CPU (virtual)")
    result = json.loads((run / "result.json").read_text())
    assert result == json.loads(out[out.index("{") :])
    assert result["model"] == "deepfm" and result["steps"] == 27 and result["train_samples_per_s"] > 0
    for split in ("valid", "test"):
        assert 0 < result[split]["auc"] < 1 and result[split]["logloss"] > 0
    assert result["best_epoch"] == math.ceil(result["best_step"] / 9)
    train = [event for event in events(run) if event["split"] == "train"]
    assert [event["step"] for event in train] == list(range(3, 28, 3))
    valid = [event for event in events(run) if event["split"] == "valid"]
    assert [event["step"] for event in valid] == [9, 18, 27]
    assert max(event["auc"] for event in valid) == result["valid"]["auc"]
    assert (run / "config.toml").is_file() and (run / "schema.json").is_file()


def test_a_finished_run_prints_its_result_and_trains_no_more(whole_run, small_data):
    run, out = whole_run
    before = (run / "metrics.jsonl").read_bytes()
    again = command("train", f"--data={small_data}", *FLAGS, "--devices=1", f"--output_dir={run}")
    assert "finished" in again and json.loads(again[again.index("{") :]) == json.loads(out[out.index("{") :])
    assert (run / "metrics.jsonl").read_bytes() == before


def test_evaluate_equals_the_result(whole_run, small_data):
    run, _ = whole_run
    result = json.loads((run / "result.json").read_text())
    for split in ("valid", "test"):
        found = json.loads(command("evaluate", f"--run={run}", f"--split={split}", "--devices=2"))
        assert found == {"split": split, "rows": 150, **result[split]}


def test_resume_is_exact(whole_run, small_data, tmp_path):
    """Stopped after 14 of 27 steps, in the middle of an epoch, and started again: bit-equal to the undisturbed run."""
    run, _ = whole_run
    part = tmp_path / "part"
    flags = (f"--data={small_data}", *FLAGS, "--devices=2", f"--output_dir={part}")
    command("train", *flags, "--steps=14")
    assert events(part)[-1]["step"] == 14
    out = command("train", *flags)
    assert "going on from step 14" in out
    assert weights(part) == weights(run)
    same = lambda event: {key: value for key, value in event.items() if key not in ("samples_per_s", "time")}
    untimed = [same(event) for event in events(run)]
    # Step 14 was evaluated as the last of the shorter run; everything else is the same event by event.
    assert [same(event) for event in events(part) if event["step"] != 14 and event["split"] == "valid"] == [
        event for event in untimed if event["split"] == "valid"
    ]
    result, expected = (json.loads((r / "result.json").read_text()) for r in (part, run))
    assert result["test"] == expected["test"] and result["best_step"] == expected["best_step"]


def test_a_killed_run_goes_on_to_the_same_end(whole_run, small_data, tmp_path):
    run, _ = whole_run
    killed = tmp_path / "killed"
    flags = (f"--data={small_data}", *FLAGS, "--devices=2", f"--output_dir={killed}", "--save_steps=5")
    kill_after_a_checkpoint(killed, *flags)
    command("train", *flags)
    assert weights(killed) == weights(run)
    assert scalars(killed) == points(killed)
    steps = [event["step"] for event in events(killed) if event["split"] == "valid"]
    assert steps == sorted(set(steps))


def test_windows_and_shards_go_on_to_the_same_end(whole_run, small_data, tmp_path):
    """A killed run on three shards, started again, is bit-equal to an undisturbed one on one store."""
    sharded = write_data_set(tmp_path / "sharded", make_schema(), shards=3)
    window = ("--data.shuffle=window", "--data.readers=4", "--data.window_blocks=1", "--devices=2", "--save_steps=5")
    command("train", f"--data={small_data}", *FLAGS, *window, f"--output_dir={tmp_path}/whole")
    flags = (f"--data={sharded}", *FLAGS, *window, f"--output_dir={tmp_path}/killed")
    kill_after_a_checkpoint(tmp_path / "killed", *flags)
    error = command("train", *flags, "--data.readers=8", "--data.window_blocks=2", expect=2)
    assert "data.readers: the run has 4, this command 8" in error and "data.window_blocks: the run has 1" in error
    command("train", *flags)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert weights(tmp_path / "killed") != weights(whole_run[0])  # exactly shuffled


@pytest.mark.parametrize("shuffle", ["exact", "window"])
def test_a_flipped_bit_stops_training_with_the_name_of_its_block(tmp_path, shuffle):
    data = write_data_set(tmp_path / "data", make_schema(), shards=2)
    path = data / "train-00001-of-00002.lmdb" / "data.mdb"
    damaged = bytearray(path.read_bytes())
    third = [at for at in range(len(damaged)) if damaged.startswith(b"DISTFMBK", at)][2]
    damaged[third + 1000] ^= 1
    path.write_bytes(damaged)
    flags = (*FLAGS, f"--data.shuffle={shuffle}", f"--output_dir={tmp_path}/run")
    error = command("train", f"--data={data}", *flags, expect=2)
    assert re.search(r"error: .*train-00001-of-00002.lmdb: block \d: the checksum does not match", error)
    assert not (tmp_path / "run" / "result.json").exists()


def test_other_settings_are_listed_and_refused(whole_run, small_data):
    run, _ = whole_run
    error = command(
        *("train", f"--data={small_data}", *FLAGS, f"--output_dir={run}", "--lr=0.5", "--seed=9", "--model.dropout=0"),
        expect=2,
    )
    for words in ("optimizer.lr: the run has 0.001, this command 0.5", "train.seed", "model.dropout"):
        assert words in error
    assert "train.epochs:" not in error


def test_fewer_epochs_are_refused_and_more_go_on(whole_run, small_data, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(whole_run[0], run)
    flags = ["--epochs=2" if flag.startswith("--epochs") else flag for flag in FLAGS]
    error = command("train", f"--data={small_data}", *flags, f"--output_dir={run}", expect=2)
    assert "train.epochs: the run has 3, this command 2" in error
    flags = ["--epochs=4" if flag.startswith("--epochs") else flag for flag in FLAGS]
    out = command("train", f"--data={small_data}", *flags, "--devices=4", f"--output_dir={run}")
    assert "going on from step 27" in out and json.loads(out[out.index("{") :])["steps"] == 36


def test_a_run_that_is_made_longer_has_no_result_until_its_end(whole_run, small_data, tmp_path):
    run = RunDir(shutil.copytree(whole_run[0], tmp_path / "copy"))
    config = run.config()
    assert run.result()["steps"] == 27
    run.create(dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=4)), small_data)
    assert run.result() is None  # killed now, it must not pass for finished by what it had found before


def test_another_vocabulary_is_refused(whole_run, tmp_path):
    run, _ = whole_run
    other = write_data_set(tmp_path / "other", make_schema((40, 31, 9)))
    error = command("evaluate", f"--run={run}", f"--data={other}", expect=2)
    assert "fingerprint" in error and str(other) in error
    error = command("train", f"--data={other}", *FLAGS, f"--output_dir={run}", expect=2)
    assert "schema" in error


def test_resume_must_and_never(whole_run, small_data, tmp_path):
    flags = (f"--data={small_data}", *FLAGS)
    error = command("train", *flags, f"--output_dir={tmp_path}/none", "--resume=must", expect=2)
    assert "--resume=must" in error
    error = command("train", *flags, f"--output_dir={whole_run[0]}", "--resume=never", expect=2)
    assert "--resume=never" in error


def test_bad_data_directories(tmp_path, small_data):
    flags = ("--model=fm", f"--output_dir={tmp_path}/run")
    error = command("train", f"--data={tmp_path}/nowhere", *flags, expect=2)
    assert "nowhere" in error and "no such directory" in error
    broken = tmp_path / "unfinished"
    shutil.copytree(small_data, broken)
    (broken / "manifest.json").unlink()
    error = command("train", f"--data={broken}", *flags, expect=2)
    assert "manifest.json" in error
    error = command("train", *flags, expect=2)
    assert "--data=DIR" in error
    assert not (tmp_path / "run").exists()


def test_bce_refuses_ratings_and_mse_reports_rmse(tmp_path):
    data = write_data_set(tmp_path / "ratings", make_schema(rule="value"))
    error = command("train", f"--data={data}", *FLAGS, f"--output_dir={tmp_path}/run", expect=2)
    assert "--loss=mse" in error and not (tmp_path / "run").exists()
    out = command("train", f"--data={data}", *FLAGS, "--loss=mse", f"--output_dir={tmp_path}/run")
    result = json.loads(out[out.index("{") :])
    assert set(result["test"]) == {"rmse", "mae"} and result["test"]["mae"] <= result["test"]["rmse"]


def test_a_diverging_run_stops_names_the_step_and_keeps_the_last_checkpoint(small_data, tmp_path):
    run = tmp_path / "run"
    flags = (f"--data={small_data}", "--model=fm", "--batch_size=100", "--epochs=50", f"--output_dir={run}", "--quiet")
    error = command("train", *flags, "--optimizer=sgd", "--lr=1e4", "--save_steps=1", "--loss=bce", expect=2)
    assert "diverged" in error and "step " in error
    kept = sorted(int(path.name) for path in (run / "checkpoints").iterdir())
    assert kept and f"checkpoint of step {kept[-1]} is kept" in error
    assert not (run / "result.json").exists()


def test_one_class_gives_auc_null_and_short_valid_is_fine(tmp_path):
    data = write_data_set(tmp_path / "d", make_schema(), rows=(300, 1, 0))
    out = command("train", f"--data={data}", *FLAGS, f"--output_dir={tmp_path}/run")
    result = json.loads(out[out.index("{") :])
    assert result["valid"]["auc"] is None and result["valid"]["logloss"] > 0
    assert result["valid"]["ne"] is None  # nothing to tell apart
    assert result["test"].keys() == result["valid"].keys() and set(result["test"].values()) == {None}


def test_early_stop_and_plateau(tmp_path):
    data = write_data_set(tmp_path / "d", make_schema(), rows=(300, 100, 100))
    flags = [flag for flag in FLAGS if not flag.startswith("--epochs")]
    stop = ("--train.patience=2", "--train.plateau_factor=0.1", "--lr=0.3", "--epochs=60")
    out = command("train", f"--data={data}", *flags, *stop, f"--output_dir={tmp_path}/run")
    result = json.loads(out[out.index("{") :])
    assert result["stopped_early"] and result["steps"] == result["best_step"] + 2 * 3 < 180
    again = command("train", f"--data={data}", *flags, *stop, f"--output_dir={tmp_path}/run")
    assert "finished" in again


def test_sample_weights_count(tmp_path):
    """Rows of weight 0 teach nothing: training on them added changes nothing but the shuffle."""
    schema = dataclasses.replace(make_schema(), has_weights=True)
    data = write_data_set(tmp_path / "d", schema)
    out = command("train", f"--data={data}", *FLAGS, f"--output_dir={tmp_path}/run")
    assert json.loads(out[out.index("{") :])["test"]["auc"] > 0.4


def test_as_a_process_errors_are_one_line_and_exit_code_2():
    started = process("__main__", "trian")
    out, err = started.communicate()
    assert started.returncode == 2 and not out
    assert err.startswith("error: unknown command 'trian'") and "train" in err and len(err.splitlines()) == 1
    started = process("train", "--model=fm", "--data=/nowhere")
    assert started.wait() == 2 and started.communicate()[1].startswith("error: /nowhere")


def test_evaluate_and_predict_refuse_what_is_no_run(tmp_path):
    error = command("evaluate", f"--run={tmp_path}", expect=2)
    assert "not a run" in error
    error = command("predict", f"--run={tmp_path}", "--input=a", expect=2)
    assert "--output" in error
    error = command("evaluate", "--rnu=a", expect=2)
    assert "--run" in error

"""Sweeps: every setting and seed trained once, gone on with, refused early, summed up by arithmetic of their own."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import pytest
from test_commands import ROOT, command

from dist_fm.errors import UserError
from dist_fm.run_dir import RunDir
from dist_fm.sweeps.grid import Run, settings_of

CONFIG = """
[model]
name = "fm"
embed_dim = 4
[train]
batch_size = 100
epochs = 2
"""


@pytest.fixture
def sweep(small_data, tmp_path):
    """Flags of four runs."""
    (tmp_path / "small.toml").write_text(CONFIG)
    grid = "--grid=optimizer.lr=1e-2,1e-3"
    return (
        f"--config={tmp_path}/small.toml",
        f"--data={small_data}",
        f"--output_dir={tmp_path}/out",
        grid,
        "--seeds=2",
        "--run.report=false",
        "--devices=1",
    )


def test_all_runs_are_trained_once_and_the_tables_are_their_means(sweep, tmp_path):
    out = command("sweep", *sweep, "--jobs=2")
    folder = tmp_path / "out"
    results = {path.parent: json.loads(path.read_text()) for path in sorted(folder.glob("*/seed-*/result.json"))}
    settings = [f"small,optimizer.lr={lr}" for lr in ("1e-2", "1e-3")]
    assert [*results] == [folder / name / f"seed-{seed}" for name in settings for seed in (0, 1)]
    for path in results:
        config = RunDir(path).config()
        assert (config.train.seed, config.optimizer.lr) == (int(path.name[-1]), float(path.parent.name[-4:]))
    with open(folder / "sweep.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["test_auc"]) for line in lines] == [result["test"]["auc"] for result in results.values()]
    assert [line["optimizer.lr"] for line in lines] == ["1e-2", "1e-2", "1e-3", "1e-3"]

    table = (folder / "sweep.md").read_text()
    assert table in out
    valid = {}
    for name, cells in zip(settings, [line.split("|")[1:-1] for line in table.splitlines()[2:]], strict=True):
        of = [result for path, result in results.items() if path.parent.name == name]
        aucs = [result["test"]["auc"] for result in of]
        expected = f"{sum(aucs) / 2:.5f} ± {abs(aucs[0] - aucs[1]) / 2**0.5:.5f}"
        assert cells[4].strip() == expected
        valid[name] = statistics.mean(result["valid"]["auc"] for result in of)
    assert f"**{max(valid, key=valid.__getitem__)}**" in table and table.count("**") == 2

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".json", ".log")}
    assert "4 of 4 runs are finished already" in command("sweep", *sweep)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert "optimizer.clip_norm" in command("sweep", *sweep, "--optimizer.clip_norm=3", expect=2)  # another run


@pytest.mark.slow
def test_stopped_it_saves_and_goes_on(sweep, tmp_path):
    flags = [*sweep, "--epochs=60", "--seeds=1", "--save_steps=50", "--eval_steps=1000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dist_fm.sweep", *flags], env={**os.environ, "PYTHONPATH": ROOT}, stderr=subprocess.PIPE
    )
    first = tmp_path / "out" / "small,optimizer.lr=1e-2" / "seed-0"
    while process.poll() is None and not list((first / "checkpoints").glob("[0-9]*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert b"asked to stop" in process.communicate()[1] and process.returncode == 75
    assert not (first / "result.json").exists()
    command("sweep", *flags)
    assert "going on from step" in (first.parent / "seed-0.log").read_text()


def test_a_run_that_fails_is_named_and_the_others_are_trained(sweep, tmp_path):
    flags = [flag for flag in sweep if "grid" not in flag]
    message = command("sweep", *flags, "--seeds=1", "--grid=optimizer.lr=1e-3,1e30", expect=2)
    assert "1 of 2 runs failed" in message and "lr=1e30/seed-0.log" in message
    assert (tmp_path / "out/small,optimizer.lr=1e-3/seed-0/result.json").is_file()


def test_what_a_grid_means():
    names = [s.name for s in settings_of("a/x.toml,y.toml", "model.mlp_dims=[4,4],(8); lr=1,2", {"data": "d"})]
    assert len(names) == 8 and names[:3] == [
        "x,model.mlp_dims=[4,4],lr=1",
        "x,model.mlp_dims=[4,4],lr=2",
        "x,model.mlp_dims=_8_,lr=1",
    ]
    assert [s.name for s in settings_of("", "", {})] == ["default"]
    setting = settings_of("", "model.mlp_dims=[4,4],(8)", {"model": "deepfm"})[1]
    assert setting.config.model.mlp_dims == (8,)
    assert "--seed=3" in Run(setting, 3, RunDir("out").path).arguments


@pytest.mark.parametrize(
    ("grid", "flags", "words"),
    [
        ("lr", {}, "KEY=VALUE"),
        ("lr=1,,2", {}, "KEY=VALUE"),
        ("optimizer.lrr=1", {}, "did you mean"),
        ("lr=1;lr=2", {}, "twice"),
        ("lr=1", {"lr": "1"}, "twice"),
        ("seed=1,2", {}, "sets it itself"),
        ("lr=1,1", {}, "called"),
        ("", {"seed": "4"}, "--seeds"),
    ],
)
def test_what_a_grid_may_not_hold(grid, flags, words):
    with pytest.raises(UserError, match=words):
        settings_of("", grid, flags)

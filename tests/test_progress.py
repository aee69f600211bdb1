"""Progress on a terminal, in a pipe, and with --quiet, for every command that shows it."""

import contextlib
import importlib
import io
import os
import pty
import sys
import termios
import threading

import pytest
from raw_logs import draw_ratings

from data_tools.cli import main as data_tools
from data_tools.progress import Progress
from dist_fm.command import run_command
from dist_fm.sweeps.grid import Run, settings_of
from dist_fm.training.hooks import ProgressBar

FLAGS = ("--model=fm", "--batch_size=100", "--epochs=1", "--devices=1", "--log_every=3")


class Terminal(io.TextIOWrapper):
    """stderr on a pseudo-terminal of 120 columns, and, once closed, what was ``shown`` there."""

    def __init__(self):
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 120))
        super().__init__(os.fdopen(slave, "wb", 0), encoding="utf-8", write_through=True)
        self._read: list[bytes] = []
        self._reader = threading.Thread(target=self._listen)
        self._reader.start()

    def _listen(self):
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(self._master, 4096):
                self._read.append(part)

    @property
    def shown(self):
        self.close()
        self._reader.join()
        return b"".join(self._read).decode()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    for bar in (Progress, ProgressBar):
        monkeypatch.setattr(bar, "REFRESH_S", 0.0)


def run(main, arguments, stderr):
    """Exit code 0 of a command whose stderr is ``stderr``; its stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(stderr):
        assert main(list(map(str, arguments))) == 0, out.getvalue()
    return out.getvalue()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Ratings as a file, the data set built from it, and a run."""
    folder = tmp_path_factory.mktemp("progress")
    text = "".join("::".join(row) + "\n" for row in draw_ratings())
    (folder / "ratings.dat").write_text(text)
    # Workers are forked, which a process with JAX's threads should not be.
    build = [
        "build-lmdb",
        "--workers=1",
        "--format=movielens-1m",
        f"--input={folder}/ratings.dat",
        f"--output={folder}/data",
    ]
    run(data_tools, build, io.StringIO())
    ours("train", f"--data={folder}/data", *FLAGS, f"--output_dir={folder}/run", stderr=io.StringIO())
    return folder


def ours(name, *arguments, stderr):
    module = importlib.import_module(f"dist_fm.{name}")
    return run(lambda words: run_command(module.main, words), arguments, stderr)


def commands(work, to, *more):
    """Every command that takes long, with ``more`` flags: how it is run, and words of its progress."""
    rows, data, trained = work / "ratings.dat", work / "data", work / "run"
    tool = lambda *words: lambda stderr: run(data_tools, [*words, *more], stderr)
    of_ours = lambda *words: lambda stderr: ours(*words, *more, stderr=stderr)
    return {
        "build": (
            tool("build-lmdb", "--workers=1", "--format=movielens-1m", f"--input={rows}", f"--output={to}/d"),
            ["reading ratings.dat", "counting", "writing"],
        ),
        "verify": (tool("verify", data), ["verifying train", "verifying test"]),
        "synth": (tool("synth", "--kind=movielens", "--rows=3000", f"--output={to}/r.dat"), ["drawing"]),
        "train": (
            of_ours("train", f"--data={data}", *FLAGS, f"--output_dir={to}/run"),
            ["epoch 1  loss", "samples/s", "evaluating"],
        ),
        "evaluate": (of_ours("evaluate", f"--run={trained}", "--devices=1"), ["evaluating"]),
        "predict": (
            of_ours("predict", f"--run={trained}", f"--input={rows}", f"--output={to}/s.csv", "--devices=1"),
            ["predict", "rows/s"],
        ),
    }


every_command = pytest.mark.parametrize("name", ["build", "verify", "synth", "train", "evaluate", "predict"])


@every_command
def test_on_a_terminal_progress_is_shown(work, tmp_path, name):
    start, words = commands(work, tmp_path)[name]
    terminal = Terminal()
    start(terminal)
    shown = terminal.shown
    assert all(word in shown for word in words), shown


@every_command
def test_in_a_pipe_nothing_is_shown_but_the_lines_at_the_end(work, tmp_path, name):
    start, _ = commands(work, tmp_path)[name]
    pipe = io.StringIO()
    out = start(pipe)
    assert pipe.getvalue().startswith("\nfm on 1 x CPU") if name == "train" else not pipe.getvalue()
    assert "\r" not in out + pipe.getvalue()
    assert name != "train" or "epoch 1  valid: auc" in out


@every_command
def test_quiet_shows_nothing_on_a_terminal_either(work, tmp_path, name):
    start, _ = commands(work, tmp_path, "--quiet")[name]
    terminal = Terminal()
    out = start(terminal)
    assert terminal.shown == "" and "valid: auc" not in out


def test_without_a_terminal_training_says_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(ProgressBar, "LINE_S", 0.0)
    for quiet in (False, True):
        bar = ProgressBar(0, 20, quiet)
        bar.on_step(1, 1, 0.5, 100)
        bar.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("step 1 of 20  epoch 1  loss 0.5000  ") and line.endswith(" samples/s")
    monkeypatch.setattr(ProgressBar, "LINE_S", 60.0)
    ProgressBar(0, 20, False).on_step(1, 1, 0.5, 100)
    assert not capsys.readouterr().out


def test_a_sweep_says_how_far_it_is(work, tmp_path):
    """Of a run that is finished, so that none is started here; nothing but the table with --quiet."""
    flags = {"data": str(work / "data"), "model": "fm", "batch_size": "100", "epochs": "1", "devices": "1"}
    (setting,) = settings_of("", "", flags)
    ours("train", *Run(setting, 0, tmp_path).arguments, stderr=io.StringIO())
    arguments = (
        "sweep",
        *(f"--{key}={value}" for key, value in flags.items()),
        f"--output_dir={tmp_path}",
        "--seeds=1",
    )
    terminal = Terminal()
    out = ours(*arguments, stderr=terminal)
    assert "1/1" in terminal.shown and out.startswith("1 of 1 runs are finished already\n|")
    terminal = Terminal()
    assert ours(*arguments, "--quiet", stderr=terminal).startswith("|") and terminal.shown == ""


def test_a_quiet_that_is_neither_is_refused(work):
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        module = importlib.import_module("dist_fm.evaluate")
        assert run_command(module.main, [f"--run={work}/run", "--quiet=maybe"]) == 2
    assert "--quiet=maybe: must be true or false" in error.getvalue()

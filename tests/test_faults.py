"""Runs that are killed, stopped, starved of disk, or find a damaged checkpoint: nothing is lost, nothing is half."""

import dataclasses
import json
import os
import pathlib
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import make_config, make_schema, write_data_set
from train_runs import Runner, environ, flags, lines, same, wait_for_step

from data_tools.manifest import sum_file
from dist_fm import checksums, evaluate, import_torchfm
from dist_fm.checkpoint import Checkpoints
from dist_fm.command import run_command
from dist_fm.data.source import TrainSource
from dist_fm.errors import Preempted, UserError
from dist_fm.parallel.mesh import make_mesh
from dist_fm.run_dir import RunDir
from dist_fm.training.loop import Loop
from dist_fm.training.opening import open_best
from dist_fm.training.session import train
from dist_fm.training.step import Engine

PREEMPTED, USER_ERROR = 75, 2
SCHEMA = make_schema((400, 300, 90))
WAYS = {
    "dense": {"devices": 1, "tables.update": "dense"},
    "sparse": {"devices": 1, "tables.update": "sparse"},
    "sharded": {"devices": 4, "tables.update": "sparse", "tables.placement": "sharded"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data_set(tmp_path_factory.mktemp("faults") / "data", SCHEMA)


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    with Runner(tmp_path_factory.mktemp("log") / "log.txt") as runner:
        yield runner


def undisturbed(runner, data, folder, **way):
    assert runner.run(flags(data, folder / "whole", **way)) == 0, runner.log.read_text()
    return folder / "whole"


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(runner, data, tmp_path, way):
    whole = undisturbed(runner, data, tmp_path, **WAYS[way])
    arguments = flags(data, tmp_path / "run", **WAYS[way])
    codes = []
    while not codes or codes[-1] == PREEMPTED:
        pid = runner.start(arguments)
        wait_for_step(tmp_path / "run", 18 * (len(codes) + 1))  # of 60
        if not (tmp_path / "run" / "result.json").exists():  # a finished run has nothing to save: SIGTERM ends it
            kill(pid, signal.SIGTERM)
        codes.append(runner.wait())
    assert codes.count(PREEMPTED) >= 2 and codes[-1] == 0
    same(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_30_kills_at_random_instants(runner, data, tmp_path, way):
    way = {**WAYS[way], "epochs": 2, "save_steps": 6, "eval_steps": 10}
    undisturbed(runner, data, tmp_path / "first", **way)  # compiles, which is not waited for again
    began = time.perf_counter()
    whole = undisturbed(runner, data, tmp_path, **way)
    seconds, draw = time.perf_counter() - began, random.Random(len(way))
    unfinished = 0
    for number in range(30):
        arguments = flags(data, tmp_path / f"run{number}", **way)
        code = runner.run_killed(arguments, draw.uniform(0, seconds))
        assert code in (0, -signal.SIGKILL)
        unfinished += code != 0
        assert runner.run(arguments) == 0, runner.log.read_text()
        same(tmp_path / f"run{number}", whole)
    assert unfinished >= 20


def kill(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def small(data, output, **more):
    """A configuration for a run in this process; ``more`` sections by name."""
    sections = {"run": {"output_dir": str(output), "quiet": True, "devices": 1, "save_steps": 4, **more.pop("run", {})}}
    return make_config("deepfm", data, sections | more.pop("sections", {}), **{"batch_size": 60, "epochs": 1, **more})


DAMAGE = {
    "a flipped bit": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "a file cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a file gone": lambda path: path.unlink(),
}


def largest(checkpoint):
    return max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    "damage", ["a flipped bit", *(pytest.param(one, marks=pytest.mark.slow) for one in list(DAMAGE)[1:])]
)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_taken(data, tmp_path, capfd, damage):
    train(small(data, tmp_path / "whole", epochs=2))
    train(small(data, tmp_path / "run"))
    newest = tmp_path / "run" / "checkpoints" / "15"
    DAMAGE[damage](largest(newest))
    train(small(data, tmp_path / "run", epochs=2))
    said = capfd.readouterr()
    assert "damaged checkpoint" in said.err and str(newest) in said.err
    assert "going on from step 12 " in said.out
    same(tmp_path / "run", tmp_path / "whole")
    assert [path.name for path in (tmp_path / "run" / "damaged").iterdir()] == ["15-0"]


def test_a_checkpoint_that_is_wrong_by_its_checksums_or_not_is_passed_over(data, tmp_path, capfd):
    train(small(data, tmp_path / "run"))
    checkpoint = tmp_path / "run" / "checkpoints" / "15"
    for path in checkpoint.rglob("*"):
        if path.is_file() and "ocdbt" in path.name:
            path.write_bytes(b"")
    (tmp_path / "run" / "checkpoints" / f"15{checksums._WRITING}").symlink_to(checkpoint)
    checksums.record(tmp_path / "run" / "checkpoints")  # of what it now is
    (tmp_path / "run" / "checkpoints" / f"15{checksums._WRITING}").unlink()
    assert checksums.damage(checkpoint) is None
    train(small(data, tmp_path / "run", epochs=2))
    assert "going on from step 12 " in capfd.readouterr().out


def test_without_any_whole_checkpoint_it_stops(data, tmp_path):
    train(small(data, tmp_path / "run"))
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        largest(checkpoint).unlink()
    with pytest.raises(UserError, match="no checkpoint can be opened.*is missing.*is missing.*--output_dir"):
        train(small(data, tmp_path / "run", epochs=2))
    largest(next((tmp_path / "run" / "best").iterdir())).write_bytes(b"?")
    with pytest.raises(UserError, match="best.*has 1 bytes"):
        open_best(RunDir(tmp_path / "run"), make_mesh(jax.devices()[:1]))


def test_a_run_killed_after_the_evaluation_that_a_stop_had_left_writes_it_once(data, tmp_path, monkeypatch):
    """Stopped before an evaluation that is due, started, evaluated, killed before it saves, started again."""
    train(small(data, tmp_path / "whole", eval_steps=6, run={"save_steps": 9}))

    class Killed(BaseException):
        pass

    def stop(self):
        raise Preempted("asked")

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_evaluate", stop)
        with pytest.raises(Preempted, match="step 6 is saved"):
            train(small(data, tmp_path / "run", eval_steps=6, run={"save_steps": 9}))
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_save", lambda self: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(small(data, tmp_path / "run", eval_steps=6, run={"save_steps": 9}))
    assert [line["step"] for line in lines(tmp_path / "run") if line["split"] == "valid"] == [6]
    train(small(data, tmp_path / "run", eval_steps=6, run={"save_steps": 9}))
    same(tmp_path / "run", tmp_path / "whole")


def test_saving_by_the_clock_changes_nothing_else(data, tmp_path):
    train(small(data, tmp_path / "whole"))
    saved = []
    with pytest.MonkeyPatch.context() as patch:
        save = Checkpoints.save
        patch.setattr(Checkpoints, "save", lambda self, state, p: saved.append(int(state.step)) or save(self, state, p))
        train(small(data, tmp_path / "run", run={"save_minutes": 1e-6}))
    assert saved == list(range(1, 16))
    same(tmp_path / "run", tmp_path / "whole")


def test_an_error_in_a_loading_thread_reaches_the_user_as_it_is(data, tmp_path, monkeypatch):
    class Broken(Exception):
        pass

    read = TrainSource.__getitem__

    def fail(self, step):
        if step == 9:
            raise Broken("block 3 is not there")
        return read(self, step)

    monkeypatch.setattr(TrainSource, "__getitem__", fail)
    with pytest.raises(Broken, match="^block 3 is not there"):
        train(small(data, tmp_path / "run"))
    assert Checkpoints(tmp_path / "run").latest_step() == 8


@pytest.mark.slow
def test_a_run_that_gets_no_further_ends_and_shows_where_it_was(data, tmp_path):
    script = (
        "import sys, time; from dist_fm.data.source import TrainSource; from dist_fm.command import run_command\n"
        "read = TrainSource.__getitem__\n"
        "TrainSource.__getitem__ = lambda self, step: time.sleep(9999) if step == 9 else read(self, step)\n"
        "from dist_fm.train import main; sys.exit(run_command(main))"
    )
    arguments = flags(data, tmp_path / "run", **{"run.stall_s": 20})
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=environ(), capture_output=True, text=True)
    assert done.returncode == 70
    assert "nothing was finished in 2" in done.stderr and "--run.stall_s=20" in done.stderr
    assert "in run_command" in done.stderr  # the stacks


# A disk of its own, in a mount namespace that takes it along when it ends: training starts on it, after some steps the
# disk is filled up, and what is left is copied away. Needs no root.
ON_A_DISK = """
mount -t tmpfs -o size=8m none "$1" || exit 9
disk=$1; left=$2; shift 2
"$@" & child=$!
until [ "$(cat "$disk/run/metrics.jsonl" 2>/dev/null | wc -l)" -gt 12 ]; do
  kill -0 $child 2>/dev/null || break
  sleep 0.05
done
head -c 100M /dev/zero > "$disk/filler" 2>/dev/null
wait $child; code=$?
cp -r "$disk/run" "$left"
exit $code
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_run_with_its_last_checkpoint_whole(data, tmp_path):
    disk, left = tmp_path / "disk", tmp_path / "left"
    disk.mkdir()
    alone = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    run = [sys.executable, "-m", "dist_fm.train", *flags(data, disk / "run", epochs=4000, eval_steps=10**6)]
    command = [*alone, "sh", "-c", ON_A_DISK, "sh", disk, left, *run]
    done = subprocess.run(command, env=environ(), capture_output=True, text=True, timeout=300)
    assert done.returncode == USER_ERROR, done.stderr
    assert "a checkpoint could not be written" in done.stderr and "No space" in done.stderr
    opens(left)


@pytest.mark.slow
def test_a_directory_that_turns_read_only_ends_the_run_with_its_last_checkpoint_whole(data, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "dist_fm.train", *flags(data, run, epochs=4000, eval_steps=10**6)]
    if os.geteuid() == 0:  # for whom else it would not be
        without = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}", *command]
    with subprocess.Popen(command, env=environ(), stderr=subprocess.PIPE, text=True) as process:
        wait_for_step(run, 40)
        (run / "checkpoints").chmod(0o555)
        error = process.communicate(timeout=120)[1]
    (run / "checkpoints").chmod(0o755)
    assert process.returncode == USER_ERROR, error
    assert "a checkpoint could not be written" in error and "Permission denied" in error
    opens(run)


def opens(run):
    """The newest checkpoint is whole."""
    steps = [int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit()]
    found = RunDir(run)
    engine = Engine(found.config(), found.schema(), make_mesh(jax.devices()[:1]))
    state, progress = Checkpoints(run).restore(engine.abstract_state())
    assert int(state.step) == max(steps) >= 24 and progress["samples"] > 0


# metrics.jsonl is cut where it cannot be read, TensorBoard's file is only written; of a manifest it counts that it is
# there.
UNREAD = {"commit_success.txt", "_CHECKPOINT_METADATA", "metrics.jsonl", "manifest.json"}


class Planted:
    """Runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (pathlib.Path.touch, (self.path,))


@pytest.mark.slow
def test_a_planted_pickle_is_never_run(data, tmp_path):
    """In the place of every file of a run and of a data set, and inside an archive to import."""
    harm = tmp_path / "harm"
    pickled = pickle.dumps(Planted(harm))
    shutil.copytree(data, tmp_path / "data")
    config = small(tmp_path / "data", tmp_path / "run", run={"keep_checkpoint_max": 1})
    train(config)
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=2))
    files = [path for name in ("run", "data") for path in (tmp_path / name).rglob("*") if path.is_file()]

    def plant(path, sums=None):
        """The larger exit code of evaluating and training with a pickle as ``path``, which ``sums`` then agree with."""
        shutil.copytree(tmp_path / "run", tmp_path / "kept")
        healthy = path.rename(tmp_path / "healthy")  # another file, as this one may still be mapped
        path.write_bytes(pickled)
        if sums is not None:
            found = json.loads(sums.read_text()) | {str(path.relative_to(sums.parent)): sum_file(path)}
            sums.write_text(json.dumps(found))
        code = 0
        if "data" not in path.relative_to(tmp_path).parts:  # first, as training writes another best step
            code = run_command(evaluate.main, [f"--run={tmp_path / 'run'}"])
        code = max(code, run_command(lambda _: train(longer), []))
        assert not harm.exists(), path
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "kept").rename(tmp_path / "run")
        healthy.replace(path)
        return code

    summed = {
        sums.parent / name: sums
        for sums in (tmp_path / "run").rglob("checksums.json")
        for name in json.loads(sums.read_text())
    }
    assert len(summed) > 10
    for path in files:
        assert plant(path) == USER_ERROR or path.name in UNREAD or path.name.startswith("events.out."), path
        if path in summed:
            plant(path, summed[path])
    np.savez(tmp_path / "state.npz", config=np.array([Planted(harm)], dtype=object))
    arguments = [f"--state={tmp_path / 'state.npz'}", f"--output={tmp_path / 'imported'}"]
    assert run_command(import_torchfm.main, arguments) == USER_ERROR
    assert len(files) > 20 and not harm.exists()
    pickle.loads(pickled)
    assert harm.exists()  # it would have been

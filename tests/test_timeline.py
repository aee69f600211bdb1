"""`--timeline=FROM:TO`: a trace that Perfetto and TensorBoard open, with the steps' numbers and the names of parts."""

import gzip
import json

import pytest
from test_commands import FLAGS, command

from dist_fm import train
from dist_fm.command import run_command
from dist_fm.errors import UserError
from dist_fm.training.in_flight import LIMIT
from dist_fm.training.timeline import Span

SHORT = (*FLAGS, "--model=fm", "--epochs=2")


@pytest.fixture(scope="module")
def traced(small_data, tmp_path_factory):
    """A run of 18 steps, evaluated and saved at 9 and 18, whose steps 7 to 12 are profiled: its folder and flags."""
    run = tmp_path_factory.mktemp("traced") / "run"
    arguments = (f"--data={small_data}", *SHORT, "--devices=2", f"--output_dir={run}")
    command("train", *arguments, "--timeline=7:12")
    return run, arguments


def test_the_trace_names_the_steps_and_their_parts(traced):
    run, _ = traced
    (folder,) = (run / "timeline" / "plugins" / "profile").iterdir()
    (file,) = folder.glob("*.trace.json.gz")
    with gzip.open(file) as opened:
        events = json.load(opened)["traceEvents"]
    steps = {int(event["args"]["step_num"]) for event in events if event.get("name") == "train"}
    # What is in flight when step 12 has finished was sent before.
    assert set(range(7, 13)) <= steps <= set(range(7, 13 + LIMIT))
    assert {"wait", "read", "prepare", "place", "evaluate", "save"} <= {event.get("name") for event in events}


def test_tensorboards_profile_is_there_too(traced):
    (plane,) = traced[0].glob("timeline/plugins/profile/*/*.xplane.pb")
    data = plane.read_bytes()
    assert b"train" in data and b"step_num" in data


def test_steps_that_are_done_are_said_to_be(traced, capsys):
    run, arguments = traced
    longer = [flag for flag in arguments if not flag.startswith("--epochs")]
    assert run_command(train.main, [*longer, "--epochs=3", "--timeline=7:12"]) == 0
    assert "--timeline: steps 7 to 12 are done already" in capsys.readouterr().err
    assert len(list((run / "timeline" / "plugins" / "profile").iterdir())) == 1


@pytest.mark.parametrize("text", ["5", "0:3", "8:5", "a:b", "3:", "19:20"])
def test_what_is_no_range_is_refused_before_anything_is_written(small_data, tmp_path, text):
    arguments = (f"--data={small_data}", *SHORT, "--devices=1", f"--output_dir={tmp_path}/run")
    error = command("train", *arguments, f"--timeline={text}", expect=2)
    assert f"--timeline={text}: " in error
    assert ("the run has 18 steps" if text == "19:20" else "must be FROM:TO") in error
    assert not (tmp_path / "run").exists()


def test_a_range_ends_with_the_run():
    assert Span.parse("17:90", 18) == (17, 18) and Span.parse("5:5", 18) == (5, 5)
    with pytest.raises(UserError, match="the run has 4 steps"):
        Span.parse("5:5", 4)

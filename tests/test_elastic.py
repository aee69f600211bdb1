"""A run that moves from 4 devices to 2, to 1, and back to 4, sharded and not, ends as one that stayed on one device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_config, make_schema, write_data_set

from dist_fm.checkpoint import Checkpoints
from dist_fm.data.schema import read_schema
from dist_fm.data.shards import open_split
from dist_fm.parallel.mesh import make_mesh
from dist_fm.training.hook import Hook
from dist_fm.training.loop import Loop
from dist_fm.training.progress import Progress
from dist_fm.training.requests import Requests
from dist_fm.training.step import Engine

PARTS = ((4, "sharded", 50), (2, "sharded", 100), (1, "replicated", 150), (4, "replicated", 200))
TWO_PARTS = ((4, "sharded", 50), (1, "replicated", 200))


class Seen(Hook):
    """Keeps what hooks are told."""

    def __init__(self):
        self.losses, self.events = [], []

    def on_step(self, step, epoch, loss, samples):
        self.losses.append(loss)

    def on_event(self, event):
        self.events.append(event)


def go_on(data, folder, devices, placement, steps, update, seen):
    """Trains to ``steps`` from the last checkpoint in ``folder``; the final state."""
    tables = {"update": update, "placement": placement, **({"optimizer": "adagrad"} if update == "sparse" else {})}
    optimizer = {"name": "adagrad", "lr": 0.02, "l2_embedding": 1e-3, "clip_norm": 1.0}
    sections = {"tables": tables, "optimizer": optimizer, "data": {"unseen_rate": 0.01}}
    config = make_config("deepfm", data, sections, batch_size=62, epochs=99, steps=steps, eval_steps=25)
    engine = Engine(config, read_schema(data), make_mesh(jax.devices()[:devices]), dtype=jnp.float64)
    checkpoints = Checkpoints(folder)
    if checkpoints.latest_step() is None:
        state, progress = engine.init(), Progress()
    else:
        state, found = checkpoints.restore(engine.abstract_state())
        progress = Progress(**found)
    splits = [open_split(data, split) for split in ("train", "valid")]
    state, progress = Loop(engine, state, progress, *splits, checkpoints, [seen], Requests()).run()
    checkpoints.close()
    return state, dataclasses.replace(progress, seconds=0.0)


@pytest.mark.parametrize(
    "update, parts",
    [("sparse", TWO_PARTS), *(pytest.param(update, PARTS, marks=pytest.mark.slow) for update in ("sparse", "dense"))],
)
def test_devices_may_change_at_any_checkpoint(tmp_path, update, parts):
    data = write_data_set(tmp_path / "data", make_schema((400, 300, 90)))
    moved, stayed = Seen(), Seen()
    with jax.enable_x64(True):
        for devices, placement, steps in parts:
            end, progress = go_on(data, tmp_path / "moved", devices, placement, steps, update, moved)
        expected, expected_progress = go_on(data, tmp_path / "stayed", 1, "replicated", 200, update, stayed)
    np.testing.assert_allclose(moved.losses, stayed.losses, rtol=1e-9)
    assert len(moved.losses) == 200 and len(moved.events) == 8
    for ours, theirs in zip(moved.events, stayed.events, strict=True):
        assert ours.pop("split") == theirs.pop("split") == "valid"
        assert ours == pytest.approx(theirs, rel=1e-9)
    assert progress.best_step == expected_progress.best_step and progress.samples == expected_progress.samples
    ours, theirs = (jax.tree_util.tree_leaves_with_path(state) for state in (end, expected))
    for (path, array), (_, other) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(array, other, rtol=1e-9, atol=1e-9, err_msg=jax.tree_util.keystr(path))

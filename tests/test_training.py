"""Parts of training that need no command line: warm start, devices, optimizers, schedules, checkpoints."""

import dataclasses
import os
import stat

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import host_batch, make_config, make_engine, make_schema, write_data_set

from dist_fm.checkpoint import Checkpoints
from dist_fm.config import OptimizerConfig
from dist_fm.errors import UserError
from dist_fm.parallel import mesh
from dist_fm.training.optimizer import _BUILDERS, make_optimizer, make_schedule
from dist_fm.training.progress import Progress
from dist_fm.training.session import train


def run(tmp_path, name, model_name, data, **sections):
    settings = {"run": {"output_dir": str(tmp_path / name), "devices": 1, "quiet": True}, **sections}
    train_keys = {"epochs": 1, "batch_size": 100, "eval_batch_size": 128, **settings.pop("train", {})}
    return train(make_config(model_name, data, settings, **train_keys))


def test_one_field_is_too_few_for_pairs(tmp_path):
    data = write_data_set(tmp_path / "one", make_schema((9,), (None,)))
    with pytest.raises(UserError, match="afm needs 2 fields"):
        run(tmp_path, "afm", "afm", data)
    assert not (tmp_path / "afm").exists()


def test_ncf_names_the_roles_it_misses(tmp_path):
    data = write_data_set(tmp_path / "roles", make_schema((9, 8), ("user", None)))
    with pytest.raises(ValueError, match="role 'item'"):
        run(tmp_path, "ncf", "ncf", data)


@pytest.mark.parametrize("name", _BUILDERS)
def test_every_optimizer_lowers_the_loss(name):
    engine = make_engine("fm", 1, sections={"optimizer": {"name": name, "lr": 0.05}})
    batch = engine.place(engine.prepare(host_batch(engine.schema, 64, 64)))
    state, losses = engine.init(), []
    for _ in range(30):
        state, metrics = engine.train_step(state, batch)
        losses.append(float(metrics.loss))
    assert losses[-1] < losses[0] - 0.01


def test_settings_an_optimizer_does_not_have_are_refused():
    for name, key in (("sgd", "b1"), ("adam", "momentum"), ("adam", "weight_decay"), ("sgd", "initial_accumulator")):
        with pytest.raises(UserError, match=f"{name} has no {key}"):
            make_optimizer(OptimizerConfig(name=name, **{key: 0.5}))


def test_settings_reach_the_optimizer():
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(3)}
    gradient = jax.tree.map(lambda p: 0.5 * p, params)
    for config, reference in (
        (OptimizerConfig("adam", b1=0.5, b2=0.6, eps=1e-2), optax.adam(1e-3, 0.5, 0.6, 1e-2)),
        (OptimizerConfig("sgd", momentum=0.9), optax.sgd(1e-3, 0.9)),
        (OptimizerConfig("adagrad", initial_accumulator=0.7), optax.adagrad(1e-3, 0.7)),
        (OptimizerConfig("rmsprop", b2=0.3), optax.rmsprop(1e-3, 0.3)),
    ):
        ours = make_optimizer(config)
        a, b = ours.init(params), reference.init(params)
        for _ in range(3):
            ours_update, a = ours.update(gradient, a, params)
            reference_update, b = reference.update(gradient, b, params)
        np.testing.assert_array_equal(ours_update["w"], reference_update["w"])


def test_adamw_decays_weights_but_not_biases():
    optimizer = make_optimizer(OptimizerConfig("adamw", lr=1.0, weight_decay=0.5))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    update, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(update["kernel"], -0.5)
    np.testing.assert_allclose(update["bias"], 0)


def test_schedules():
    at = lambda step, **keys: float(make_schedule(OptimizerConfig(lr=1.0, **keys))(step))
    assert at(7) == 1
    assert at(0, warmup_steps=10) == 0 and at(5, warmup_steps=10) == 0.5 and at(50, warmup_steps=10) == 1
    assert at(100, schedule="linear", decay_steps=100, decay_rate=0.2) == pytest.approx(0.2)
    assert at(50, schedule="cosine", decay_steps=100) == pytest.approx(0.5)
    assert at(200, schedule="exponential", decay_steps=100, decay_rate=0.5) == pytest.approx(0.25)
    for schedule in ("linear", "cosine", "exponential"):
        with pytest.raises(UserError, match="decay_steps"):
            make_schedule(OptimizerConfig(schedule=schedule))


def test_progress_keeps_the_best_stops_and_lowers_the_rate():
    config = dataclasses.replace(make_config().train, patience=2, plateau_factor=0.1, min_epochs=2)
    progress = Progress()
    assert progress.update(config, {"auc": 0.7, "logloss": 0.5}, 10, 1)
    assert not progress.update(config, {"auc": 0.6, "logloss": 0.4}, 15, 1)
    assert progress.without_improvement == 0  # before min_epochs nothing counts
    assert not progress.update(config, {"auc": 0.7, "logloss": 0.5}, 20, 2)
    assert progress.lr_scale == pytest.approx(0.1) and not progress.stopped_early
    assert progress.update(config, {"auc": 0.8, "logloss": 0.5}, 30, 3)
    assert progress.without_improvement == 0 and progress.best_step == 30
    for epoch in (4, 5):
        progress.update(config, {"auc": 0.75, "logloss": 0.5}, 10 * epoch, epoch)
    assert progress.stopped_early and progress.best_epoch == 3


@pytest.mark.parametrize(
    "monitor, better, worse",
    [
        ("auc", {"auc": 0.8, "logloss": 9.0}, {"auc": 0.7, "logloss": 0.1}),
        ("logloss", {"auc": 0.1, "logloss": 0.4}, {"auc": 0.9, "logloss": 0.5}),
        ("auc-logloss", {"auc": 0.8, "logloss": 0.5}, {"auc": 0.85, "logloss": 0.6}),
        ("rmse", {"rmse": 0.4, "mae": 1.0}, {"rmse": 0.5, "mae": 0.1}),
        ("ne", {"ne": 0.8, "auc": 0.6}, {"ne": 0.9, "auc": 0.7}),
        ("pr_auc", {"pr_auc": 0.4, "auc": 0.6}, {"pr_auc": 0.3, "auc": 0.7}),
        ("gauc", {"gauc": 0.6, "auc": 0.6}, {"gauc": 0.5, "auc": 0.7}),
        ("ndcg", {"ndcg@5": 0.6, "ndcg@10": 0.6}, {"ndcg@5": 0.5, "ndcg@10": 0.9}),
        ("recall", {"recall@5": 0.6}, {"recall@5": 0.5}),
        ("hr", {"hr@5": 0.6}, {"hr@5": 0.5}),
    ],
)
def test_monitors(monitor, better, worse):
    config = dataclasses.replace(make_config().train, monitor=monitor, top_k=(5, 10))
    progress = Progress()
    assert progress.update(config, worse, 1, 1) and progress.update(config, better, 2, 2)
    assert not progress.update(config, worse, 3, 3)


def test_lr_scale_scales_the_update():
    moved = []
    for scale in (1.0, 0.25):
        engine = make_engine("fm", 1, sections={"optimizer": {"name": "sgd", "lr": 1.0}})
        start = dataclasses.replace(engine.init(), lr_scale=jnp.float32(scale))
        before = np.asarray(start.table)
        batch = engine.place(engine.prepare(host_batch(engine.schema, 64, 64)))
        moved.append(np.asarray(engine.train_step(start, batch)[0].table) - before)
    np.testing.assert_allclose(moved[1], 0.25 * moved[0], rtol=1e-4, atol=1e-8)


def fake_gpu(tmp_path, monkeypatch, cuda="12.8"):
    """An nvidia-smi that answers as a driver with one card does."""
    script = tmp_path / "nvidia-smi"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *query*) echo "NVIDIA Test Card";; *) echo "CUDA Version: {cuda} ";; esac\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("cuda, extra", [("12.8", "cuda12"), ("13.0", "cuda13")])
def test_a_gpu_that_jax_cannot_use_stops_and_names_the_extra(tmp_path, monkeypatch, cuda, extra):
    fake_gpu(tmp_path, monkeypatch, cuda)
    with pytest.raises(UserError, match=rf"1 x NVIDIA Test Card.*dist-fm\[{extra}\].*--platform=cpu"):
        mesh.start_devices(1)
    assert len(mesh.start_devices(1, "cpu")) == 1


def test_more_devices_than_gpus_is_an_error(monkeypatch):
    class Card:
        platform, device_kind = "gpu", "NVIDIA Test Card"

    monkeypatch.setattr(jax, "local_devices", lambda: [Card()])
    with pytest.raises(UserError, match="--devices=4: this machine has 1 GPUs"):
        mesh.start_devices(4)


def test_the_scatter_flag_is_in_force_before_the_backend_starts():
    mesh.start_devices(1, "cpu")
    assert mesh.GPU_SCATTER_FLAG in os.environ["XLA_FLAGS"]


def test_platform_gpu_without_one_is_an_error():
    with pytest.raises(UserError, match="--platform=gpu"):
        mesh.start_devices(1, "gpu")


def test_a_checkpoint_opens_on_another_mesh(tmp_path):
    four, one = make_engine("deepfm", 4), make_engine("deepfm", 1)
    state = four.init()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {"best_value": 0.5})
    checkpoints.wait()
    found, progress = checkpoints.restore(one.abstract_state())
    assert progress == {"best_value": 0.5}
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(a, b)
        assert len(b.sharding.device_set) == 1

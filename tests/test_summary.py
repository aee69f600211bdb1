"""`dist_fm.summary`: the published numbers of parameters, the engine's own, and tables that no memory could hold."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import make_config, make_engine, make_schema
from test_commands import command
from test_models import PUBLISHED

from dist_fm.flags import load_config, parse_flags
from dist_fm.models import MODELS, get_model
from dist_fm.run_dir import RunDir
from dist_fm.training.sizes import describe, measure

SCHEMA = make_schema()
TABLES = {
    "dense adam": {"tables": {"update": "dense"}},
    "dense sgd": {"tables": {"update": "dense"}, "optimizer": {"name": "sgd"}},
    "dense adagrad": {"tables": {"update": "dense"}, "optimizer": {"name": "adagrad"}},
    "sparse adam": {"tables": {"update": "sparse"}},
    "sparse rules": {
        "tables": {"update": "sparse", "dtype": "bfloat16", "optimizer": "rowwise_adagrad", "columns": ["linear=ftrl"]}
    },
}


FAST = ("DCN", "AFN", "HOFM")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in FAST else pytest.mark.slow) for case in PUBLISHED]
)
def test_published_numbers_of_parameters(case):
    parameters, name, settings = PUBLISHED[case]
    schema = make_schema((5380, *[1] * 9), (None,) * 10)
    config = make_config(name, sections={"tables": {"update": "dense"}})
    config = dataclasses.replace(config, model=get_model(name).Config(embed_dim=10, **settings))
    last = describe(config, schema).splitlines()[-1]
    assert last.split()[:2] == ["all", f"{parameters:,}"]


def equals_the_engine(name, sections):
    """Parameters, and the bytes of every part of the state that training would hold."""
    engine = make_engine(name, 1, SCHEMA, sections)
    sizes, state = measure(engine.config, SCHEMA), engine.abstract_state()
    num_bytes = lambda tree: sum(x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))
    assert sizes.parameters == engine.parameters()
    arrays = [array for layer in sizes.layers for array in (*layer.parameters, *layer.statistics)]
    assert sum(array.num_bytes for array in arrays) == num_bytes((state.params, state.stats))
    counters = sum(x.size * 4 for x in jax.tree.leaves(state.optimizer) if x.ndim == 0)
    slots = sum(array.num_bytes for array in (*sizes.table_slots, *sizes.network_slots))
    assert slots == num_bytes((state.slots, state.optimizer)) - counters


@pytest.mark.parametrize("tables", TABLES)
def test_sizes_are_the_engines(tables):
    equals_the_engine("deepfm", TABLES[tables])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_the_engines_for_every_model(name):
    for update in ("dense", "sparse"):
        equals_the_engine(name, {"tables": {"update": update}})


def test_a_table_that_no_memory_holds_is_shown():
    """2 billion rows of 129 numbers: 1 TB, and as much again twice for its slots."""
    schema = make_schema((2 * 10**9, 30), ("user", "item"))
    config = make_config("fm", sections={"model": {"name": "fm", "embed_dim": 128}, "tables": {"update": "sparse"}})
    sizes = measure(config, schema)
    assert sizes.parameters == (2 * 10**9 + 30) * 129 + 1
    assert sum(slot.num_bytes for slot in sizes.table_slots) > 2 * 10**12
    assert "258,000,003,871" in describe(config, schema)


def test_of_a_run_and_of_its_settings_it_shows_the_same(small_data, tmp_path):
    flags = [f"--data={small_data}", "--model=deepfm", "--l2_embedding=1e-4", "--tables.update=sparse"]
    RunDir(tmp_path / "run").create(load_config(None, parse_flags(flags)[0]), small_data)
    shown = command("summary", f"--run={tmp_path}/run")
    assert shown == command("summary", *flags, f"--output_dir={tmp_path}/other")
    assert not (tmp_path / "other").exists()
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "linear 79 1 79 float32 316 0 0.0001 adam" in lines
    assert "linear+factors.m 5,040 17 float32 342,720" in lines
    assert "mlp.hidden.0 Linear bias [16], kernel [48, 16] 784 0 -" in lines
    assert "mlp.norms.0 BatchNorm bias [16], scale [16], mean [16], var [16] 32 32 -" in lines


def test_first_values_are_measured():
    at = {}
    for std in (0.01, 0.5):
        config = make_config("fm", sections={"model": {"name": "fm", "embed_std": std}, "tables": {"update": "dense"}})
        line = next(line for line in describe(config, SCHEMA).splitlines() if line.strip().startswith("factors"))
        at[std] = float(line.split()[6])
    assert at == {std: pytest.approx(std, rel=0.03) for std in at}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "no model was given"),
        (("--model=fm",), "--run=DIR, or --data=DIR with --model=NAME"),
        (("--run=nowhere",), "--run=nowhere is not a run"),
        (("--run=nowhere", "--model=fm"), "--model cannot go with it"),
        (("--data=nowhere", "--model=fmm"), "did you mean"),
        (("--data=nowhere", "--modle=fm"), "did you mean --model?"),
    ],
)
def test_what_cannot_be_shown(arguments, words):
    assert words in command("summary", *arguments, expect=2)

"""Every file in configs/ says how to run it and what to expect, loads, and trains two steps."""

import dataclasses
import pathlib

import pytest
from conftest import make_schema, write_data_set

from dist_fm.flags import load_config, parse_flags
from dist_fm.training.session import train

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.toml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_config_loads_and_says_how_to_run_it_and_what_to_expect(file):
    head = file.read_text(encoding="utf-8").split("\n\n")[0]
    for word in ("# Run:", "# Hardware:", "# Expect:"):
        assert word in head
    assert f"--config=configs/{file.name}" in head
    config = load_config(str(file), {})
    assert config.model_name in file.stem or config.model_name == "ncf"  # whose variants have names of their own


@pytest.mark.parametrize(
    "file", [pytest.param(f, id=f.stem, marks=[] if f.stem == "ml-1m_neumf" else pytest.mark.slow) for f in CONFIGS]
)
def test_a_config_trains_two_steps(file, tmp_path):
    positive = load_config(str(file), {}).data.negatives > 0
    schema = make_schema((40, 30), ("user", "item"), "implicit" if positive else "binary")
    schema = dataclasses.replace(schema, has_groups=positive)
    data = write_data_set(tmp_path / "data", schema, rows=(300, 50, 50), positive=positive)
    flags = (f"--data={data}", f"--output_dir={tmp_path}/run", "--batch_size=64", "--steps=2", "--devices=1", "--quiet")
    result = train(load_config(str(file), parse_flags(flags)[0]))
    assert result["steps"] == 2 and 0 < result["test"]["logloss"] < 2

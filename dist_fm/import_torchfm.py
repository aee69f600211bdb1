"""Turns the weights of a torchfm 0.7.0 model into a run that predict and evaluate accept.

python -m dist_fm.import_torchfm --state=X.npz --output=RUN

The file holds `config` (UTF-8 JSON as uint8: the constructor's arguments and the model's name) and the state_dict as
`state/NAME`. Fields are named f0, f1, ...; torchfm's id i becomes id i + 1 here, and id 0, a row of zeros, takes every
id outside the field.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np

from data_tools.formats.base import Column, TextLayout
from dist_fm.checkpoint import Checkpoints
from dist_fm.command import run_command
from dist_fm.config import Config, DataConfig
from dist_fm.data.schema import Field, Label, Schema
from dist_fm.errors import UserError
from dist_fm.files import write_whole
from dist_fm.flags import parse_own
from dist_fm.models import torchfm
from dist_fm.parallel.mesh import make_mesh, start_devices
from dist_fm.run_dir import RunDir
from dist_fm.training.state import TrainState, network_of
from dist_fm.training.step import Engine


def main(arguments: list[str]) -> None:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return
    flags = parse_own(arguments, {"state": None, "output": None})
    path = pathlib.Path(flags["output"])
    run = RunDir(path)
    if path.exists() and any(path.iterdir()):
        raise UserError(f"--output={path}: it exists and is not empty; give a new directory")
    theirs, state = read_state(flags["state"])
    schema = make_schema(theirs)
    config = Config(
        torchfm.model_from_torchfm(theirs), torchfm.config_from_torchfm(theirs), data=DataConfig(unseen_rate=0.0)
    )
    engine = Engine(config, schema, make_mesh(start_devices(1, "cpu")))
    weights = load_weights(engine, theirs, state)

    path.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(path)
    checkpoints.save_best(weights)
    checkpoints.wait()
    checkpoints.close()
    write_whole(path / "schema.json", schema.to_json())
    run.write_config(config)  # last: it makes the directory a run
    print(f"{path}: {config.model_name}, {engine.parameters():,} parameters, fields {', '.join(names(schema))}")


def read_state(file: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The constructor's arguments and the state_dict in ``file``; raises ``UserError`` if it holds none."""
    try:
        arrays = np.load(file, allow_pickle=False)
        theirs = json.loads(bytes(arrays["config"]).decode())
        state = {name.removeprefix("state/"): arrays[name] for name in arrays.files if name.startswith("state/")}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(
            f"--state={file} is not a file of torchfm weights (`config` and `state/NAME`): {error}"
        ) from error
    for key in ("model", "field_dims"):
        if key not in theirs:
            raise UserError(f"--state={file}: its config has no {key!r}; it has: {', '.join(theirs)}")
    return theirs, state


def make_schema(theirs: dict[str, Any]) -> Schema:
    """Fields f0, f1, ... of ready ids, each with one row more than torchfm's: the unseen one."""
    roles = torchfm.roles_from_torchfm(theirs)
    fields, offset = [], 0
    for i, size in enumerate(theirs["field_dims"]):
        fields.append(Field(f"f{i}", "categorical", size + 1, offset, role=roles.get(i), transform={"add": 1}))
        offset += size + 1
    columns = (Column("label", "number"), *(Column(field.name) for field in fields))
    source = TextLayout("ids", ",", columns, label="label").to_json()
    return Schema(f"torchfm-{theirs['model']}", tuple(fields), Label("label", "binary"), source=source)


def load_weights(engine: Engine, theirs: dict[str, Any], state: dict[str, np.ndarray]) -> TrainState:
    """The engine's state with torchfm's weights; raises ``UserError`` where names or shapes do not fit."""
    start = engine.init()
    table = np.zeros(start.table.shape, start.table.dtype)
    shift = np.repeat(np.arange(len(theirs["field_dims"])), theirs["field_dims"]) + 1  # an unseen row before each field
    rows = engine.spec.physical(np.arange(sum(theirs["field_dims"])) + shift)
    columns = torchfm.columns_from_torchfm(theirs, state)
    for name, part in engine.layout.slices.items():
        if name not in columns or columns[name].shape[1] != part.stop - part.start:
            raise UserError(f"the torchfm weights give no column {name!r} of width {part.stop - part.start}")
        table[rows, part] = columns[name]
    model = engine.model()
    torchfm.load_network(model, torchfm.network_from_torchfm(theirs, state))
    params, stats = network_of(model)
    return dataclasses.replace(start, table=jax.device_put(table, start.table.sharding), params=params, stats=stats)


def names(schema: Schema) -> list[str]:
    return [field.name for field in schema.fields]


if __name__ == "__main__":
    sys.exit(run_command(main))

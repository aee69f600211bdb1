"""From torchfm 0.7.0's weights to ours: which of its settings and arrays are which of our settings, columns and arrays.

``theirs`` is a torchfm model's constructor arguments with its name, ``{"model": "deepfm", "field_dims": [7, 11],
"embed_dim": 8, ...}``; ``state`` is its state_dict as NumPy arrays, ``{"mlp.mlp.0.weight": ..., ...}``.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dist_fm.errors import UserError
from dist_fm.models import get_model
from dist_fm.models.base import Model, ModelConfig

Path = tuple[Any, ...]  # of attribute names and list positions

# Their constructor arguments that are one setting of ours; ``dropouts`` is two, by model.
SETTINGS = {
    "embed_dim": "embed_dim",
    "mlp_dims": "mlp_dims",
    "dropout": "dropout",
    "attn_size": "attention_dim",
    "cross_layer_sizes": "cross_layer_sizes",
    "split_half": "split_half",
}
DROPOUTS = {
    "afm": ("attention_dropout", "dropout"),
    "nfm": ("interaction_dropout", "dropout"),
    "fnfm": ("interaction_dropout", "dropout"),
}
ROLES = {"user_field_idx": "user", "item_field_idx": "item"}
NOT_SETTINGS = {"model", "torchfm_class", "field_dims", *ROLES}

# Their modules and ours; an MLP's and a CIN's numbered layers are in ``_module_path``.
MODULES: dict[str, Path] = {
    "linear": ("linear",),
    "afm.attention": ("attention", "hidden"),
    "afm.projection": ("attention", "projection"),
    "afm.fc": ("output",),
    "fm.1": ("norm",),
    "bn": ("norm",),
    "cin.fc": ("cin_output",),
    "fc": ("output",),
}
TABLES = ("linear.fc.", "embedding.", "ffm.embeddings.")


def config_from_torchfm(theirs: Mapping[str, Any]) -> ModelConfig:
    """Our configuration of the same model."""
    name = theirs["model"]
    config = get_model(name).Config
    allowed = {field.name for field in dataclasses.fields(config)}
    settings: dict[str, Any] = {}
    for key, value in theirs.items():
        if key == "dropouts" and name in DROPOUTS:
            settings.update(zip(DROPOUTS[name], value, strict=True))
        elif SETTINGS.get(key) in allowed:
            settings[SETTINGS[key]] = tuple(value) if isinstance(value, list) else value
        elif key not in NOT_SETTINGS:
            raise UserError(f"torchfm's {name} has no argument {key!r} that is known here")
    needed = allowed & {*SETTINGS.values(), *DROPOUTS.get(name, ())}
    if missing := sorted(needed - set(settings)):
        raise UserError(f"the torchfm {name}'s config does not give {', '.join(missing)}")
    return config(**settings)


def roles_from_torchfm(theirs: Mapping[str, Any]) -> dict[int, str]:
    """The fields that have a role, by index; NCF's user and item."""
    return {int(np.ravel(theirs[key])[0]): role for key, role in ROLES.items() if key in theirs}


def columns_from_torchfm(theirs: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our table columns [N, width] in torchfm's row order: field f's id i is row ``sum(field_dims[:f]) + i``."""
    columns = {}
    if "linear.fc.weight" in state:
        columns["linear"] = state["linear.fc.weight"]
    if "embedding.embedding.weight" in state:
        columns["factors"] = state["embedding.embedding.weight"]
    elif "ffm.embeddings.0.weight" in state:
        # Their table j holds the vectors for partner field j.
        tables = [state[f"ffm.embeddings.{j}.weight"] for j in range(len(theirs["field_dims"]))]
        columns["factors"] = np.concatenate(tables, axis=1)
    for name, column in columns.items():
        if len(column) != sum(theirs["field_dims"]):
            raise UserError(
                f"the torchfm table for {name!r} has {len(column)} rows, but field_dims sum to "
                f"{sum(theirs['field_dims'])}"
            )
    return columns


def network_from_torchfm(theirs: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> dict[Path, np.ndarray]:
    """Our network arrays, by their path in the model; gradients named as in a state_dict translate likewise."""
    network = {}
    for name, array in state.items():
        if name.startswith(TABLES) or name.endswith(".num_batches_tracked"):
            continue
        module, _, leaf = name.rpartition(".")
        path = _module_path(module, len(theirs.get("mlp_dims", ())))
        if leaf != "weight":
            network[*path, {"running_mean": "mean", "running_var": "var"}.get(leaf, leaf)] = array
        elif array.ndim == 1:
            network[*path, "scale"] = array
        elif array.ndim == 2:
            network[*path, "kernel"] = array.T
        else:  # A CIN layer's Conv1d: [H, F*P, 1], ours [F, H, P].
            fields = len(theirs["field_dims"])
            network[*path, "kernel"] = array.reshape(len(array), fields, -1).swapaxes(0, 1)
    return network


def _module_path(module: str, depth: int) -> Path:
    """Where torchfm's ``module`` is in our model; ``depth`` is the number of hidden layers of its MLP."""
    match module.split("."):
        case ["mlp", "mlp", position]:  # A Sequential of [Linear, BatchNorm1d, ReLU, Dropout] a hidden layer.
            layer, part = divmod(int(position), 4)
            if part == 1:
                return ("mlp", "norms", layer)
            return ("mlp", "hidden", layer) if layer < depth else ("mlp", "output")
        case ["cin", "conv_layers", layer]:
            return ("cin", "layers", int(layer))
    if module not in MODULES:
        raise UserError(f"torchfm has no module {module!r} that is known here")
    return MODULES[module]


def load_network(model: Model, network: Mapping[Path, np.ndarray]) -> None:
    """Sets every array of ``model``'s network; raises ``UserError`` unless names and shapes are exactly the model's."""
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    ours = {path: variable.shape for path, variable in nnx.to_flat_state(state)}
    given = {path: array.shape for path, array in network.items()}
    if wrong := {path for path in ours.keys() | given.keys() if ours.get(path) != given.get(path)}:
        details = "; ".join(
            f"{'.'.join(map(str, path))}: {given.get(path, 'not given')}, the model's is {ours.get(path, 'none')}"
            for path in sorted(wrong, key=str)
        )
        raise UserError(f"the weights do not fit the model: {details}")
    for path, variable in nnx.to_flat_state(state):
        variable[...] = jnp.asarray(network[path], variable.dtype)
    nnx.update(model, state)

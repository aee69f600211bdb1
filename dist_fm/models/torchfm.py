"""From torchfm 0.7.0's weights to ours: which of its settings and arrays are which of our settings, columns and arrays.

``theirs`` is a torchfm model's constructor arguments with its name, ``{"model": "deepfm", "field_dims": [7, 11],
"embed_dim": 8, ...}``; ``state`` is its state_dict as NumPy arrays, ``{"mlp.mlp.0.weight": ..., ...}``.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dist_fm.errors import UserError
from dist_fm.layers.fm import pair_order, pairs_by_distance
from dist_fm.models import get_model
from dist_fm.models.base import Model, ModelConfig

Path = tuple[Any, ...]  # of attribute names and list positions

# Their constructor arguments that are one setting of ours, by the name it has in the model; ``dropouts`` is several.
SETTINGS = {
    "embed_dim": ("embed_dim",),
    "mlp_dims": ("mlp_dims",),
    "dropout": ("dropout",),
    "attn_size": ("attention_dim",),
    "atten_embed_dim": ("attention_dim",),
    "num_heads": ("num_heads",),
    "num_layers": ("cross_layers", "attention_layers"),
    "has_residual": ("residual",),
    "cross_layer_sizes": ("cross_layer_sizes",),
    "split_half": ("split_half",),
    "method": ("product",),
    "LNN_dim": ("log_neurons",),
}
VALUES = {"has_residual": {True: "projected", False: "none"}}  # of theirs that are called otherwise here
DROPOUTS: dict[str, tuple[str | None, ...]] = {  # None: one that torchfm's model does not use
    "afm": ("attention_dropout", "dropout"),
    "nfm": ("interaction_dropout", "dropout"),
    "fnfm": ("interaction_dropout", "dropout"),
    "autoint": ("attention_dropout", "dropout", None),
    "afn": ("dropout", None, None),
}
OUR_NAMES = {"pnn_inner": "pnn", "pnn_outer": "pnn"}  # of models that are called otherwise there
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
    "atten_embedding": ("attention", "input"),
    "V_res_embedding": ("attention", "residual", "projection"),
    "attn_fc": ("output",),
    "LNN": ("neurons", "powers"),
}
IN_DCN: dict[str, Path] = {"linear": ("output",)}
STATISTICS = {"running_mean": "mean", "running_var": "var"}
TABLES = ("linear.fc.", "embedding.", "ffm.embeddings.")
UNUSED_LINEAR = {"pnn"}  # models that have first-order weights and do not use them


def model_from_torchfm(theirs: Mapping[str, Any]) -> str:
    """Our name of the same model."""
    return OUR_NAMES.get(theirs["model"], theirs["model"])


def config_from_torchfm(theirs: Mapping[str, Any]) -> ModelConfig:
    """Our configuration of the same model."""
    name = model_from_torchfm(theirs)
    config = get_model(name).Config
    allowed = {field.name for field in dataclasses.fields(config)}
    settings: dict[str, Any] = {}
    for key, value in theirs.items():
        if key == "dropouts" and name in DROPOUTS:
            pairs = zip(DROPOUTS[name], value, strict=True)
            settings.update({ours: rate for ours, rate in pairs if ours is not None})
        elif ours := allowed.intersection(SETTINGS.get(key, ())):
            value = VALUES[key][value] if key in VALUES else value
            settings[ours.pop()] = tuple(value) if isinstance(value, list) else value
        elif key not in NOT_SETTINGS:
            raise UserError(f"torchfm's {name} has no argument {key!r} that is known here")
    needed = allowed & {*itertools.chain(*SETTINGS.values()), *DROPOUTS.get(name, ())}
    if missing := sorted(needed - set(settings)):
        raise UserError(f"the torchfm {name}'s config does not give {', '.join(missing)}")
    return config(**settings)


def roles_from_torchfm(theirs: Mapping[str, Any]) -> dict[int, str]:
    """The fields that have a role, by index; NCF's user and item."""
    return {int(np.ravel(theirs[key])[0]): role for key, role in ROLES.items() if key in theirs}


def columns_from_torchfm(theirs: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our table columns [N, width] in torchfm's row order: field f's id i is row ``sum(field_dims[:f]) + i``."""
    columns = {}
    if "linear.fc.weight" in state and model_from_torchfm(theirs) not in UNUSED_LINEAR:
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
    model, depth, fields = model_from_torchfm(theirs), len(theirs.get("mlp_dims", ())), len(theirs["field_dims"])
    network: dict[Path, np.ndarray] = {}
    for name, array in state.items():
        unused = model in UNUSED_LINEAR and name.startswith("linear.")
        if unused or name.startswith(TABLES) or name.endswith(".num_batches_tracked"):
            continue
        module, _, leaf = name.rpartition(".")
        if leaf in ("in_proj_weight", "in_proj_bias"):  # Of query, key and value, one below the other.
            path = _module_path(model, module, depth)
            for part, own in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                network[*path, part, "kernel" if own.ndim == 2 else "bias"] = own.T
        elif module == "cn.b":
            network["cross", "layers", int(leaf), "bias"] = array
        elif name == "pn.kernel":  # [K, P, K]
            network["outer", "kernel"] = array.transpose(1, 2, 0)[_pairs_as_there(*pairs_by_distance(fields))]
        elif leaf != "weight":
            network[*_module_path(model, module, depth), STATISTICS.get(leaf, leaf)] = array
        elif array.ndim == 1:
            network[*_module_path(model, module, depth), "scale"] = array
        elif array.ndim == 2:
            network[*_module_path(model, module, depth), "kernel"] = array.T
        else:  # A CIN layer's Conv1d: [H, F*P, 1], ours [F, H, P].
            kernel = array.reshape(len(array), fields, -1).swapaxes(0, 1)
            network[*_module_path(model, module, depth), "kernel"] = kernel
    first = "mlp", "hidden", 0, "kernel"
    if model == "pnn":
        order = pair_order(fields) if theirs["method"] == "inner" else pairs_by_distance(fields)
        factors, products = np.split(network[first], [fields * theirs["embed_dim"]])
        network[first] = np.concatenate([factors, products[_pairs_as_there(*order)]])
    if model == "afn":  # Their neurons are in front of the factors, ours behind.
        by_neuron = network[first].reshape(theirs["LNN_dim"], theirs["embed_dim"], -1)
        network[first] = by_neuron.swapaxes(0, 1).reshape(network[first].shape)
    return network


def _pairs_as_there(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """The positions of the pairs of fields (i, j) in torchfm's order, (0, 1), (0, 2), ..., (F - 2, F - 1)."""
    first, second = np.minimum(i, j), np.maximum(i, j)
    fields = second.max() + 1
    return first * fields - first * (first + 1) // 2 + second - first - 1


def _module_path(model: str, module: str, depth: int) -> Path:
    """Where torchfm's ``module`` is in our ``model``; ``depth`` is the number of hidden layers of its MLP."""
    match module.split("."):
        case ["mlp", "mlp", position]:  # A Sequential of [Linear, BatchNorm1d, ReLU, Dropout] a hidden layer.
            layer, part = divmod(int(position), 4)
            if part == 1:
                return ("mlp", "norms", layer)
            return ("mlp", "hidden", layer) if layer < depth else ("mlp", "output")
        case ["cin", "conv_layers", layer]:
            return ("cin", "layers", int(layer))
        case ["cn", "w", layer]:
            return ("cross", "layers", int(layer), "weight")
        case ["self_attns", layer]:
            return ("attention", "attentions", int(layer))
        case ["self_attns", layer, "out_proj"]:
            return ("attention", "outputs", int(layer))
    modules = {**MODULES, **IN_DCN} if model == "dcn" else MODULES
    if module not in modules:
        raise UserError(f"torchfm has no module {module!r} that is known here")
    return modules[module]


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

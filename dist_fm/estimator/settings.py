"""From an estimator's parameters to the configuration that training takes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dist_fm.config import SECTION_TYPES, Config, build_config, key_types
from dist_fm.errors import UserError, nearest

# Parameters by the key that they set; the model's own keys come apart.
KEYS = {
    "model": "model.name",
    "embed_dim": "model.embed_dim",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "patience": "train.patience",
    "optimizer": "optimizer.name",
    "lr": "optimizer.lr",
    "l2_embedding": "optimizer.l2_embedding",
    "l2_network": "optimizer.l2_network",
    "tables_update": "tables.update",
    "unseen_rate": "data.unseen_rate",
    "devices": "run.devices",
}
# What ``settings`` may add: not what is of files, hosts or runs, nor what parameters say.
_ADDED = {
    "optimizer": None,
    "tables": None,
    "train": ("bf16", "eval_batch_size", "monitor", "min_delta", "plateau_factor", "min_epochs"),
}
EVAL_BATCH_SIZE = 1024  # smaller than a run's, as few rows are padded to it


def make_config(parameters: Mapping[str, Any], *, loss: str, seed: int, where: str) -> Config:
    """The configuration of an estimator's ``parameters``; raises ``UserError`` as `build_config` does."""
    sections: dict[str, dict[str, Any]] = {
        "model": {key: _plain(value) for key, value in (parameters["model_params"] or {}).items()},
        "train": {"loss": loss, "seed": seed, "eval_batch_size": EVAL_BATCH_SIZE},
    }
    given = {KEYS[name]: parameters[name] for name in KEYS if parameters[name] is not None}
    for key, value in {**given, **_settings(parameters["settings"] or {}, where)}.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = _plain(value)
    return build_config(sections, where)


def _settings(settings: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    allowed = [
        f"{section}.{key}"
        for section, keys in _ADDED.items()
        for key in keys or key_types(SECTION_TYPES[section])
        if f"{section}.{key}" not in KEYS.values()
    ]
    for key in settings:
        if key not in allowed:
            named = next((name for name, path in KEYS.items() if path == key), None)
            hint = f"it is the parameter {named}" if named else nearest(key, allowed)
            raise UserError(f"{where}: settings has no key {key!r}; {hint}")
    return settings


def _plain(value: Any) -> Any:
    """NumPy's scalars, of which grids are made, as Python's, and tuples as lists."""
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value

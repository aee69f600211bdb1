"""All weights by name, for those who write the model down themselves.

`table/COLUMN` [R, width] has the logical rows in order, `params/NAME` the network, `stats/NAME` BatchNorm's running
statistics; names are those of the model's attributes, such as `params/mlp/hidden/0/kernel` [in, out].
"""

import pathlib

import jax
import numpy as np

from dist_fm.exporting.scoring import ZEROS_AROUND, Scoring, Weights
from dist_fm.training.state import Network, named, unnamed


def write(scoring: Scoring, path: pathlib.Path) -> None:
    """Writes the file ``path``."""
    weights = scoring.weights
    arrays = {f"table/{name}": column[1:-1] for name, column in weights.table.items()}
    for part in ("params", "stats"):
        arrays |= {_path(part, name): np.asarray(array) for name, array in named(getattr(weights, part)).items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]


class Loaded:
    """The arrays in the file ``path`` in their places in the live model, whose own are not used."""

    def __init__(self, path: pathlib.Path, scoring: Scoring):
        with np.load(path, allow_pickle=False) as arrays:
            table = {name: np.pad(arrays[f"table/{name}"], ZEROS_AROUND) for name in scoring.weights.table}
            states = [_read(arrays, part, getattr(scoring.weights, part)) for part in ("params", "stats")]
        self._score = jax.jit(Scoring(scoring.engine, Weights(table, *states)).of_inputs)

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Predictions [N] of inputs [N, S] by name."""
        return np.asarray(self._score(*inputs.values()))


def _read(arrays: np.lib.npyio.NpzFile, part: str, like: Network) -> Network:
    """The network's ``part`` in the file, of the structure of ``like``."""
    return unnamed(like, {name: arrays[_path(part, name)] for name in named(like)})


def _path(part: str, name: str) -> str:
    return "/".join((part, *name.split(".")))

"""StableHLO, as `jax.export` writes it: runs wherever JAX runs, without dist_fm."""

import pathlib

import jax
import numpy as np

from dist_fm.exporting.known import simplified
from dist_fm.exporting.scoring import Scoring

PLATFORMS = ("cpu", "cuda")


def write(scoring: Scoring, path: pathlib.Path) -> None:
    """Writes the function of any number of rows, with its weights, to the file ``path``."""
    function = jax.jit(simplified(scoring.of_inputs))
    exported = jax.export.export(function, platforms=PLATFORMS)(*scoring.abstract_inputs())
    path.write_bytes(exported.serialize())


class Loaded:
    """The function in the file ``path``."""

    def __init__(self, path: pathlib.Path, scoring: Scoring):
        self._call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Predictions [N] of inputs [N, S] by name."""
        return np.asarray(self._call(*inputs.values()))

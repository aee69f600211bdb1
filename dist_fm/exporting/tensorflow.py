"""TensorFlow's SavedModel, and TFLite from the same operation: both carry StableHLO, which jax2tf hands over."""

import os
import pathlib
from typing import Any

import jax
import numpy as np

from dist_fm.exporting.known import simplified
from dist_fm.exporting.scoring import Scoring
from dist_fm.exporting.stablehlo import PLATFORMS
from dist_fm.parallel.mesh import GPU_SCATTER_FLAG

SIGNATURE = "serving_default"


def write_saved_model(scoring: Scoring, path: pathlib.Path) -> None:
    """Writes the directory ``path``: an XlaCallModule with the weights as variables, under ``serving_default``."""
    tf = _tensorflow()
    arrays, structure = jax.tree.flatten(scoring.weights)
    of_arrays = lambda arrays, *inputs: scoring(jax.tree.unflatten(structure, arrays), *inputs)
    function = _converted(of_arrays, scoring, weights=1, native_serialization_platforms=PLATFORMS)
    module = tf.Module()
    module.weights = [tf.Variable(array, trainable=False) for array in arrays]
    score = lambda **inputs: {scoring.output: function(list(module.weights), *inputs.values())}
    signature = {SIGNATURE: tf.function(score, autograph=False).get_concrete_function(**_specs(tf, scoring))}
    tf.saved_model.save(module, str(path), signatures=signature)


def write_tflite(scoring: Scoring, path: pathlib.Path) -> None:
    """Writes the file ``path``, of TFLite's built-in operations alone."""
    tf = _tensorflow()
    function = _converted(scoring.of_inputs, scoring, weights=0)
    module = tf.Module()
    score = lambda **inputs: {scoring.output: function(*inputs.values())}
    module.score = tf.function(score, autograph=False)
    concrete = module.score.get_concrete_function(**_specs(tf, scoring))
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert())


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # else it says at length what it was built with
    # JAX has read the flags by now. TensorFlow's own XLA reads them too, and ends the process over one it has not.
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "").replace(GPU_SCATTER_FLAG, "")
    import tensorflow

    return tensorflow


def _converted(function: Any, scoring: Scoring, *, weights: int, **options: Any) -> Any:
    """``function`` for TensorFlow; of its arguments the first ``weights`` are of fixed shapes."""
    from jax.experimental import jax2tf

    shapes = [None] * weights + [f"(batch, {scoring.schema.num_slots})"] * len(scoring.inputs)
    return jax2tf.convert(simplified(function), polymorphic_shapes=shapes, with_gradient=False, **options)


def _specs(tf: Any, scoring: Scoring) -> dict[str, Any]:
    return {
        name: tf.TensorSpec((None, scoring.schema.num_slots), dtype, name) for name, dtype in scoring.inputs.items()
    }


class LoadedSavedModel:
    """The function in the directory ``path``, in TensorFlow."""

    def __init__(self, path: pathlib.Path, scoring: Scoring):
        self._tf = _tensorflow()
        self._model = self._tf.saved_model.load(str(path))  # it holds the variables, which the signature alone does not
        self._output = scoring.output

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Predictions [N] of inputs [N, S] by name."""
        tensors = {name: self._tf.constant(array) for name, array in inputs.items()}
        return self._model.signatures[SIGNATURE](**tensors)[self._output].numpy()


class LoadedTFLite:
    """The function in the file ``path``, in LiteRT."""

    def __init__(self, path: pathlib.Path, scoring: Scoring):
        from ai_edge_litert.interpreter import Interpreter

        self._run = Interpreter(str(path)).get_signature_runner()
        self._output = scoring.output

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Predictions [N] of inputs [N, S] by name."""
        return self._run(**inputs)[self._output]

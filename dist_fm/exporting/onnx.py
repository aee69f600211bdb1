"""ONNX by jax2onnx, for onnxruntime and the servers built on it."""

import logging
import pathlib

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from dist_fm.exporting.known import simplified
from dist_fm.exporting.scoring import Scoring

OPSET = 21  # read by onnxruntime 1.20 on
ONE_FILE_BYTES = 1 << 30  # larger weights lie beside the model: a protobuf message ends at 2 GiB


def write(scoring: Scoring, path: pathlib.Path) -> None:
    """Writes the graph to the file ``path``, weights past 1 GiB to ``path``.data beside it."""
    for name in ("jax2onnx", "onnx_ir"):  # of unused plugins, at length, and of shapes without a type
        logging.getLogger(name).setLevel(logging.ERROR)
    import jax2onnx
    import onnx_ir

    inputs = scoring.abstract_inputs()
    # Traced here, as jax2onnx puts functions of its own in the place of JAX's, which cannot compute what is known.
    traced = jax.make_jaxpr(simplified(scoring.of_inputs))(*inputs)
    model = jax2onnx.to_onnx(
        jaxpr_as_fun(traced),
        inputs,
        model_name=scoring.engine.config.model_name,
        opset=OPSET,
        return_mode="ir",
        input_names=list(scoring.inputs),
        output_names=[scoring.output],
    )
    external = path.name + ".data" if scoring.num_bytes > ONE_FILE_BYTES else None
    onnx_ir.save(model, path, external_data=external)


class Loaded:
    """The graph in the file ``path``, in onnxruntime."""

    def __init__(self, path: pathlib.Path, scoring: Scoring):
        import onnxruntime

        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._output = scoring.output

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Predictions [N] of inputs [N, S] by name."""
        return self._session.run([self._output], inputs)[0]

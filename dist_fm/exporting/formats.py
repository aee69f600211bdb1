"""The formats by the name that ``--format`` takes. A new one is one file and one line here."""

import dataclasses
import importlib.metadata
import importlib.util
import pathlib
from collections.abc import Callable

import numpy as np

from dist_fm.errors import UserError, nearest
from dist_fm.exporting import npz, onnx, stablehlo, tensorflow
from dist_fm.exporting.scoring import Scoring

FLATBUFFER_BYTES = (1 << 31) - (1 << 20)  # what a flatbuffer can hold, less room for the graph
GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Format:
    """How a model is written as ``file``, and loaded again by the runtime that the format is for.

    ``packages`` are modules that both need, which the extra ``extra`` installs; ``largest_bytes`` of weights fit.
    """

    file: str
    write: Callable[[Scoring, pathlib.Path], None]
    load: Callable[[pathlib.Path, Scoring], Callable[[dict[str, np.ndarray]], np.ndarray]]
    packages: tuple[str, ...] = ()
    extra: str = ""
    largest_bytes: int | None = None

    def versions(self) -> dict[str, str]:
        """The versions of what wrote and compared the model, by name of the distribution."""
        installed = importlib.metadata.packages_distributions()
        names = ["dist-fm", "jax", "flax", *(installed[package][0] for package in self.packages)]
        return {name: importlib.metadata.version(name) for name in names}


FORMATS = {
    "onnx": Format("model.onnx", onnx.write, onnx.Loaded, ("jax2onnx", "onnxruntime"), "onnx"),
    "stablehlo": Format(
        "model.stablehlo", stablehlo.write, stablehlo.Loaded, ("flatbuffers",), "stablehlo", FLATBUFFER_BYTES
    ),
    "savedmodel": Format(
        "saved_model", tensorflow.write_saved_model, tensorflow.LoadedSavedModel, ("tensorflow",), "savedmodel"
    ),
    "tflite": Format(
        "model.tflite",
        tensorflow.write_tflite,
        tensorflow.LoadedTFLite,
        ("tensorflow", "ai_edge_litert"),
        "tflite",
        FLATBUFFER_BYTES,
    ),
    "npz": Format("model.npz", npz.write, npz.Loaded),
}


def get_format(name: str) -> Format:
    """The format called ``name``; raises ``UserError`` for none, or one whose packages are missing."""
    if name not in FORMATS:
        raise UserError(f"--format={name}: {nearest(name, FORMATS)}")
    found = FORMATS[name]
    missing = [package for package in found.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"--format={name} needs {', '.join(missing)}: pip install 'dist_fm[{found.extra}]'")
    return found


def check_size(name: str, num_bytes: int) -> None:
    """Raises ``UserError`` where weights of ``num_bytes`` are more than the format called ``name`` holds."""
    limit = FORMATS[name].largest_bytes
    if limit is not None and num_bytes > limit:
        larger = ", ".join(other for other, found in FORMATS.items() if found.largest_bytes is None)
        raise UserError(
            f"--format={name} holds {limit / GIB:.2f} GiB at most, but the weights are {num_bytes / GIB:.2f} GiB; "
            f"without such a limit: {larger}"
        )

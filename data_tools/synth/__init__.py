"""synth: raw files drawn from a planted FM, with the metrics that no model can beat."""

import json
import os
from typing import Any

import numpy as np

from data_tools.errors import DataError, unknown
from data_tools.progress import Progress
from data_tools.synth.criteo import Criteo
from data_tools.synth.metrics import auc, logloss
from data_tools.synth.movielens import MovieLens

KINDS: dict[str, type[MovieLens] | type[Criteo]] = {"movielens": MovieLens, "criteo": Criteo}
_CHUNK_ROWS = 50_000


def synth(kind: str, rows: int, output: str | os.PathLike, seed: int = 0) -> dict[str, Any]:
    """Writes ``rows`` raw rows to ``output``, and to ``output``.planted.json what it returns.

    That is: kind, rows, seed, the model's sizes, the share of positive rows, and AUC and log loss of the true
    probabilities over all rows. Raises ``DataError``, leaving no ``output``, if it cannot.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if rows < 1000:
        raise DataError(f"--rows={rows}: a planted model needs at least 1000 rows")
    output = os.fspath(output)
    probabilities, labels = np.empty(rows), np.empty(rows, bool)
    partial = f"{output}.partial"
    try:
        with open(partial, "w", encoding="ascii") as file, Progress("drawing", rows, "row") as progress:
            model = KINDS[kind](rows, seed)
            for start in range(0, rows, _CHUNK_ROWS):
                stop = min(start + _CHUNK_ROWS, rows)
                drawn = model.draw(start, stop - start, np.random.default_rng([seed, 1, start]))
                probabilities[start:stop], labels[start:stop] = drawn.probabilities, drawn.labels
                file.write(drawn.text)
                progress.advance(stop - start, stop - start)
        planted = {
            "kind": kind,
            "rows": rows,
            "seed": seed,
            **model.about(),
            "positive_rate": float(labels.mean()),
            "auc": auc(probabilities, labels),
            "logloss": logloss(probabilities, labels),
        }
        with open(f"{output}.planted.json", "w", encoding="ascii") as file:
            file.write(json.dumps(planted, indent=1) + "\n")
        os.replace(partial, output)
    except OSError as error:
        raise DataError(f"{error.filename or output}: cannot be written: {error.strerror}") from error
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
    return planted

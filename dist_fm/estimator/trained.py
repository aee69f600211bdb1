"""A model that an estimator has trained: its weights on the host, put on devices when they are used."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from dist_fm.config import Config
from dist_fm.data.schema import Schema
from dist_fm.data.source import EvalSource, MemoryStore
from dist_fm.estimator.columns import Columns, Encoded
from dist_fm.estimator.engines import LABELS, shared_engine
from dist_fm.training.evaluation import score
from dist_fm.training.hooks import Hook, ProgressBar
from dist_fm.training.keeping import KeptInMemory
from dist_fm.training.loop import Loop
from dist_fm.training.placement import choose_update
from dist_fm.training.progress import Progress
from dist_fm.training.requests import Requests
from dist_fm.training.state import TrainState, named
from dist_fm.training.step import Engine


class Samples(NamedTuple):
    """Rows with ``labels`` float [N], and ``weights`` float [N] (None: all 1)."""

    rows: Encoded
    labels: np.ndarray
    weights: np.ndarray | None

    def at(self, rows: np.ndarray) -> "Samples":
        """Those of ``rows``, int [n]."""
        return Samples(self.rows.at(rows), self.labels[rows], None if self.weights is None else self.weights[rows])


class Trained:
    """The ``columns`` of X and a model of ``config`` over them; nothing in it is JAX's, so that it can be pickled."""

    schema: Schema  # of the rows that it was trained on last

    def __init__(self, config: Config, columns: Columns):
        self.config, self.columns = config, columns
        self.epochs = 0
        self._arrays: list[np.ndarray] = []  # of the state, in order; of the table's rows those that there are
        self._placed: TrainState | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_placed": None}

    def train(self, samples: Samples, valid: Samples | None = None, *, epochs: int, verbose: bool = False) -> None:
        """Trains ``epochs`` more, or until patience runs out, and keeps the best by ``valid`` (None: the last).

        Raises ``UserError`` when training diverges; the weights are then as before.
        """
        self.schema = _schema(self.config, samples)
        if self.config.tables.update == "auto":
            self._configure("tables", update=choose_update(self.config, self.schema))
        steps_per_epoch = math.ceil(len(samples.labels) / self.config.train.batch_size)
        start, end = self.epochs * steps_per_epoch, (self.epochs + epochs) * steps_per_epoch
        self._configure("train", epochs=self.epochs + epochs, eval_steps=end if valid is None else 0)
        self._configure("run", save_steps=end)
        engine = shared_engine(self.config, self.schema)
        if not self._arrays:
            self._arrays = _to_host(engine, engine.init())
        hooks: list[Hook] = [ProgressBar(start, end, quiet=False)] if verbose else []
        keeper = KeptInMemory()
        loop = Loop(
            engine,
            _to_devices(engine, self._arrays),
            Progress(),
            _store(self.schema, samples),
            None if valid is None else _store(self.schema, valid),
            keeper,
            hooks,
            Requests(),
            start=start,
        )
        state, _ = loop.run()
        self._arrays, self._placed = _to_host(engine, keeper.best(state)), None
        self.epochs = loop.step // steps_per_epoch

    def logits(self, rows: Encoded) -> np.ndarray:
        """Logits, or with mse the predicted values, of ``rows``: float32 [N]."""
        samples = Samples(rows, np.zeros(len(rows.ids), np.float32), None)
        schema, size = _schema(self.config, samples), self.config.train.eval_batch_size
        engine = shared_engine(self.config, schema)
        if self._placed is None:
            self._placed = _to_devices(engine, self._arrays)
        source = EvalSource(_store(schema, samples), schema, size, **engine.reads(size))
        return np.concatenate([logits for logits, *_ in score(engine, self._placed, source)])

    def embeddings(self) -> dict[str, np.ndarray]:
        """The table's columns by name: [R, width] each."""
        engine = shared_engine(self.config, self.schema)
        table = engine.spec.numbers(self._state(engine).table)
        return {name: np.array(table[:, part], copy=True) for name, part in engine.layout.slices.items()}

    def network(self) -> dict[str, np.ndarray]:
        """The network's weights and BatchNorm's running statistics, by name."""
        state = self._state(shared_engine(self.config, self.schema))
        return {
            name: np.array(array, copy=True)
            for part in (state.params, state.stats)
            for name, array in named(part).items()
        }

    def _state(self, engine: Engine) -> TrainState:
        """The state as it is on the host."""
        return jax.tree.unflatten(jax.tree.structure(engine.shardings), self._arrays)

    def _configure(self, section: str, **keys: Any) -> None:
        changed = dataclasses.replace(getattr(self.config, section), **keys)
        self.config = dataclasses.replace(self.config, **{section: changed})


def _schema(config: Config, samples: Samples) -> Schema:
    rows, has_weights = samples.rows, samples.weights is not None
    return Schema(
        "X", rows.fields, LABELS[config.train.loss], has_values=rows.values is not None, has_weights=has_weights
    )


def _store(schema: Schema, samples: Samples) -> MemoryStore:
    return MemoryStore.of(schema, samples.rows.ids, samples.rows.values, samples.labels, samples.weights)


def _to_host(engine: Engine, state: TrainState) -> list[np.ndarray]:
    """The arrays of ``state``, in order; of those of the table's rows, the logical rows in order."""
    rows = engine.spec.physical(np.arange(engine.schema.num_rows))

    def copied(path: Any, array: Any) -> np.ndarray:
        return np.asarray(array)[rows] if engine.is_of_rows(path, array) else np.array(array, copy=True)

    return [copied(path, array) for path, array in jax.tree_util.tree_leaves_with_path(state)]


def _to_devices(engine: Engine, arrays: list[np.ndarray]) -> TrainState:
    """The inverse of ``_to_host``. Rows of the table that are no one's are zeros, also in the optimizer's state."""
    rows = engine.spec.physical(np.arange(engine.schema.num_rows))

    def whole(path: Any, like: Any) -> np.ndarray:
        array = next(remaining)
        if not engine.is_of_rows(path, like):
            return array
        spread = np.zeros(like.shape, array.dtype)
        spread[rows] = array
        return spread

    remaining = iter(arrays)
    state = jax.tree_util.tree_map_with_path(whole, engine.abstract_state())
    return jax.device_put(state, engine.shardings)

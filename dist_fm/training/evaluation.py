"""Exact metrics of a split: every row scored once, metrics from all scores at once, never averaged over batches."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from dist_fm.data.source import EvalSource
from dist_fm.data.store import BlockStore
from dist_fm.metrics.auc import auc
from dist_fm.metrics.loss import logloss, mae, rmse
from dist_fm.parallel.hosts import first_decides
from dist_fm.parallel.watchdog import alive
from dist_fm.training.feed import batches
from dist_fm.training.in_flight import bounded
from dist_fm.training.requests import Requests
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine

Metrics = dict[str, float | None]


def score(
    engine: Engine, state: TrainState, source: Any, requests: Requests | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Logits, labels and weights of the real rows of each batch of ``source``, in order; float32 [n] each.

    The same on every host, of all hosts' rows. Raises ``Preempted`` when ``requests`` ask to stop.
    """
    fed = batches(source, engine, threads=engine.config.data.read_threads, requests=requests)
    with contextlib.closing(fed):
        for scored in bounded(engine.eval_step(state, batch) for batch in fed):
            if requests is not None:
                requests.stop_if_asked()
            alive()
            logits, labels, weights, mask = map(np.asarray, scored)
            real = mask > 0
            yield logits[real], labels[real], weights[real]


def evaluate(engine: Engine, state: TrainState, store: BlockStore, requests: Requests | None = None) -> Metrics:
    """Metrics of all rows of ``store``: auc and logloss (bce), or rmse and mae (mse); None where one is undefined.

    Every host returns what the first computes, whose arithmetic may differ from another's in the last bit. Raises
    ``Preempted`` when ``requests`` ask to stop.
    """
    size = engine.config.train.eval_batch_size
    source = EvalSource(store, engine.schema, size, **engine.reads(size))
    scored = list(score(engine, state, source, requests))

    def compute() -> Metrics:
        if not scored:
            return metrics_of(engine.config.train.loss, *np.zeros((3, 0), np.float32))
        logits, labels, weights = (np.concatenate(parts) for parts in zip(*scored, strict=True))
        return metrics_of(engine.config.train.loss, logits, labels, weights)

    return first_decides(compute)


def metrics_of(loss: str, logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Metrics:
    """Metrics of ``logits``, ``labels``, ``weights`` [N]; None for all of them when the weights sum to nothing."""
    empty = weights.sum() == 0
    if loss == "mse":
        return {
            "rmse": None if empty else rmse(labels, logits, weights),
            "mae": None if empty else mae(labels, logits, weights),
        }
    return {
        "auc": None if empty else auc(labels, logits, weights),
        "logloss": None if empty else logloss(labels, logits, weights),
    }

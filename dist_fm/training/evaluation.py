"""Exact metrics of a split: every row scored once, metrics from all scores at once, never averaged over batches."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_tools.progress import Progress, quietly
from dist_fm.config import TrainConfig
from dist_fm.data.records import RecordLayout
from dist_fm.data.source import EvalSource, MemoryStore, StoredRows
from dist_fm.data.store import BlockStore
from dist_fm.metrics.auc import auc, average_precision
from dist_fm.metrics.calibration import calibration, expected_calibration_error, label_entropy, probabilities
from dist_fm.metrics.loss import logloss, mae, rmse
from dist_fm.metrics.ranking import group_auc, top_k
from dist_fm.parallel.hosts import first_decides, is_first
from dist_fm.parallel.watchdog import alive
from dist_fm.training.feed import batches
from dist_fm.training.in_flight import bounded
from dist_fm.training.requests import Requests
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine

Metrics = dict[str, float | None]
Store = BlockStore | MemoryStore


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


def predictions(engine: Engine, state: TrainState, ids: np.ndarray, values: np.ndarray | None) -> np.ndarray:
    """Predictions [N] for table rows ``ids`` [N, S] and ``values`` [N, S]: probabilities, or, with mse, numbers."""
    size = engine.config.train.eval_batch_size
    source = EvalSource(MemoryStore.of(engine.schema, ids, values), engine.schema, size, **engine.reads(size))
    logits = np.concatenate([np.zeros(0, np.float32), *(logits for logits, *_ in score(engine, state, source))])
    return logits if engine.config.train.loss == "mse" else probabilities(logits)


class ScoredRows(NamedTuple):
    """All rows of a split in stored order: float32 [N] each."""

    logits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


class Split(StoredRows, Protocol):
    """Rows that say how they lie in their records."""

    @property
    def layout(self) -> RecordLayout: ...


def evaluate(engine: Engine, state: TrainState, store: Store, requests: Requests | None = None) -> Metrics:
    """Metrics of all rows of ``store`` (see ``metrics_of``). Raises ``Preempted`` when ``requests`` ask to stop."""
    return measure(engine, score_split(engine, state, store, requests), store)


def score_split(engine: Engine, state: TrainState, store: Split, requests: Requests | None = None) -> ScoredRows:
    """All rows of ``store``, scored; the same on every host. Raises ``Preempted`` when ``requests`` ask to stop."""
    size, layout = engine.config.train.eval_batch_size, store.layout
    # A run of the same fields and vocabulary may have been trained on rows without weights and groups, or with them.
    schema = dataclasses.replace(engine.schema, has_weights=layout.has_weights, has_groups=layout.has_groups)
    source = EvalSource(store, schema, size, **engine.reads(size))
    scored = []
    with quietly(not is_first()), Progress("evaluating", store.rows, "row") as bar:
        for part in score(engine, state, source, requests):
            scored.append(part)
            bar.advance(len(part[0]), len(part[0]))
    if not scored:
        return ScoredRows(*np.zeros((3, 0), np.float32))
    return ScoredRows(*map(np.concatenate, zip(*scored, strict=True)))


def measure(engine: Engine, rows: ScoredRows, store: Store) -> Metrics:
    """Metrics of ``rows``, which are those of ``store``; its groups do not travel with batches, and are read here.

    Every host returns what the first computes, whose arithmetic may differ from another's in the last bit.
    """
    train = engine.config.train
    return first_decides(lambda: metrics_of(train, rows, store.groups if train.loss == "bce" else None))


def metrics_of(train: TrainConfig, rows: ScoredRows, groups: np.ndarray | None = None) -> Metrics:
    """What ``train.loss`` is measured by, each metric None where it is undefined, all where the weights sum to nothing.

    rmse and mae for mse. For bce auc, logloss, ne (the log loss by that of always predicting the positive rate),
    calibration, ece and pr_auc; with ``groups`` int32 [N] also gauc, gauc_share and, for each K of ``train.top_k``,
    ndcg@K, recall@K and hr@K.
    """
    logits, labels, weights = rows
    if weights.sum() == 0:
        some = ScoredRows(np.zeros(1), np.zeros(1), np.ones(1))
        return dict.fromkeys(metrics_of(train, some, None if groups is None else np.zeros(1, np.int32)))
    if train.loss == "mse":
        return {"rmse": rmse(labels, logits, weights), "mae": mae(labels, logits, weights)}
    loss, entropy = logloss(labels, logits, weights), label_entropy(labels, weights)
    found: Metrics = {
        "auc": auc(labels, logits, weights),
        "logloss": loss,
        "ne": loss / entropy if entropy else None,
        "calibration": calibration(labels, logits, weights),
        "ece": expected_calibration_error(labels, logits, weights),
        "pr_auc": average_precision(labels, logits, weights),
    }
    if groups is not None:
        found["gauc"], found["gauc_share"] = group_auc(groups, labels, logits, weights)
        found |= top_k(groups, labels, logits, weights, train.top_k)
    return found

"""The training loop. The order at a step boundary is fixed: finish the steps, evaluate, save the best, save, stop.

Between boundaries (evaluations and saves) steps are only sent; the loss of step t - 4 is awaited before step t is sent,
which bounds what is in flight and shows a NaN at once. Asked to stop, it saves before an evaluation that is due, and
makes that when it goes on.
"""

import dataclasses
import math
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.profiler import StepTraceAnnotation

from dist_fm.config import Config
from dist_fm.data.source import TrainSource
from dist_fm.data.windows import RowStore, Windows
from dist_fm.errors import Preempted, UserError
from dist_fm.parallel.watchdog import alive
from dist_fm.training.evaluation import Store, evaluate
from dist_fm.training.feed import batches
from dist_fm.training.hook import Hook
from dist_fm.training.in_flight import bounded
from dist_fm.training.keeping import Keeper
from dist_fm.training.progress import Progress
from dist_fm.training.requests import Requests
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine, StepMetrics


class Loop:
    """Trains ``state`` from its step on, on ``train``, choosing the best step on ``valid`` (if none: the last).

    Steps are counted by position in the data, which is ``start`` at first (None: the state's step).
    """

    def __init__(
        self,
        engine: Engine,
        state: TrainState,
        progress: Progress,
        train: RowStore,
        valid: Store | None,
        checkpoints: Keeper,
        hooks: list[Hook],
        requests: Requests,
        *,
        start: int | None = None,
    ):
        self.engine, self.state, self.progress, self.hooks = engine, state, progress, hooks
        self.config: Config = engine.config
        self.valid = valid if valid is not None and valid.rows and not self.config.train.no_eval else None
        self.checkpoints, self.requests = checkpoints, requests
        self.step = self._saved_step = int(state.step) if start is None else start
        self.rows = train.rows
        size = self.config.train.batch_size
        self.steps_per_epoch = math.ceil(train.rows / size)
        self.steps = total_steps(self.config, train.rows)
        data = self.config.data
        self._source = TrainSource(
            train,
            engine.schema,
            size,
            seed=self.config.train.seed,
            steps=self.steps,
            unseen_rate=data.unseen_rate,
            windows=Windows(data.readers, data.window_blocks) if data.shuffle == "window" else None,
            **engine.reads(size),
        )

    def run(self) -> tuple[TrainState, Progress]:
        """Trains to the end, or until patience runs out; the returned state is the last, not the best.

        Raises ``Preempted`` when asked to stop, with a checkpoint of the last step on disk.
        """
        threads = self.config.data.read_threads
        placed = batches(self._source, self.engine, start=self.step, threads=threads, requests=self.requests)
        try:
            self._finish_step()  # what a run that was stopped before an evaluation has left to do
            while self.step < self.steps and not self.progress.stopped_early:
                self._train(placed, self._next_boundary())
                self._finish_step()
        finally:
            placed.close()
        self.checkpoints.wait()
        return self.state, self.progress

    def _finish_step(self) -> None:
        try:
            if self._is_due(self.config.train.eval_steps) and self.progress.evaluated_step != self.step:
                self.requests.stop_if_asked()
                self._evaluate()
            if self._is_due(self.config.run.save_steps) or self.progress.stopped_early or self.requests.save:
                self._save()
            self.requests.stop_if_asked()
        except Preempted:
            self._save()
            self.checkpoints.wait()
            raise Preempted(f"asked to stop: step {self.step} is saved; the same command goes on from it") from None

    def _save(self) -> None:
        if self.step != self._saved_step:
            for hook in self.hooks:
                hook.on_save()
            with self.progress.timed("save"):
                self.checkpoints.save(self.state, dataclasses.asdict(self.progress))
            self._saved_step = self.step
            alive()
        self.requests.saved()

    def _train(self, placed: Iterator, until: int) -> None:
        """Trains up to step ``until``, or less when asked. Seconds spent compiling do not count as training time."""
        began, compiled_s, first = time.perf_counter(), self.progress.spent["compile"], self.step
        for step, metrics in bounded(self._send(placed, until)):
            loss, norm = float(metrics.loss), float(metrics.gradient_norm)
            if not (np.isfinite(loss) and np.isfinite(norm)):
                self._stop_diverged(step, loss, norm)
            alive()
            for hook in self.hooks:
                hook.on_step(step, self._epoch(step), loss, self._samples(step))
        compiling_s = self.progress.spent["compile"] - compiled_s
        self.progress.seconds += time.perf_counter() - began - compiling_s
        self.progress.samples += sum(self._samples(step) for step in range(first + 1, self.step + 1))

    def _send(self, placed: Iterator, until: int) -> Iterator[tuple[int, StepMetrics]]:
        while self.step < until:
            for hook in self.hooks:
                hook.before_step(self.step + 1)
            with StepTraceAnnotation("train", step_num=self.step + 1):
                with self.progress.timed("wait"):
                    batch = next(placed)
                programs, began = self.engine.compiled_steps(), time.perf_counter()
                self.state, metrics = self.engine.train_step(self.state, batch)
            if self.engine.compiled_steps() != programs:
                self.progress.spent["compile"] += time.perf_counter() - began
            self.step += 1
            yield self.step, metrics
            if self.requests.stop or self.requests.save:
                return

    def _evaluate(self) -> None:
        epoch = self._epoch(self.step)
        with self.progress.timed("evaluate"):
            metrics = evaluate(self.engine, self.state, self.valid, self.requests) if self.valid is not None else {}
        if metrics:
            for hook in self.hooks:
                hook.on_event({"step": self.step, "epoch": epoch, "split": "valid", **metrics})
        if self.progress.update(self.config.train, metrics, self.step, epoch):
            with self.progress.timed("save"):
                self.checkpoints.save_best(self.state)
        scale = np.float32(self.progress.lr_scale)
        lr_scale = jax.make_array_from_callback((), self.state.lr_scale.sharding, lambda index: scale)
        self.state = dataclasses.replace(self.state, lr_scale=lr_scale)

    def _stop_diverged(self, step: int, loss: float, norm: float) -> None:
        self.checkpoints.wait()  # on all hosts, as all see the same loss
        kept = self.checkpoints.latest_step()
        where = f"the checkpoint of step {kept} is kept" if kept is not None else "no checkpoint had been saved yet"
        raise UserError(
            f"step {step}: loss {loss}, gradient norm {norm}: training diverged and was stopped; {where}. "
            f"Try a smaller --lr, or --optimizer.clip_norm"
        )

    def _next_boundary(self) -> int:
        periods = {self.config.train.eval_steps, self.config.run.save_steps}
        return min([self.steps, *(self._next_multiple(period or self.steps_per_epoch) for period in periods)])

    def _next_multiple(self, period: int) -> int:
        return (self.step // period + 1) * period

    def _is_due(self, period: int) -> bool:
        return 0 < self.step and (self.step == self.steps or self.step % (period or self.steps_per_epoch) == 0)

    def _epoch(self, step: int) -> int:
        """The epoch, from 1, that ``step`` (from 1) belongs to."""
        return math.ceil(step / self.steps_per_epoch)

    def _samples(self, step: int) -> int:
        at = (step - 1) % self.steps_per_epoch
        return min(self.config.train.batch_size, self.rows - at * self.config.train.batch_size)


def total_steps(config: Config, rows: int) -> int:
    """Steps of the whole run: ``epochs`` over ``rows`` rows, negatives included, cut at ``steps`` unless that is 0."""
    steps = math.ceil(rows / config.train.batch_size) * config.train.epochs
    return min(steps, config.train.steps) if config.train.steps else steps

"""What happens beside training: the metrics file, the progress bar, the profiler. None of it changes a number."""

import json
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import tqdm

from dist_fm.config import RunConfig
from dist_fm.errors import UserError
from dist_fm.parallel.hosts import is_first
from dist_fm.run_dir import RunDir
from dist_fm.training.progress import Progress

Event = dict[str, Any]


class Hook:
    """What training tells of: every finished step, every evaluation, that it is about to save, the end."""

    def on_step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        pass

    def on_event(self, event: Event) -> None:
        pass

    def on_save(self) -> None:
        pass

    def close(self) -> None:
        pass


class MetricsFile(Hook):
    """Appends to metrics.jsonl: every ``log_steps`` steps the mean loss since the last line, and every evaluation.

    ``losses``, those since the last line, are the run's progress, so that a run that goes on writes the same lines.
    ``lr`` gives the learning rate of a step.
    """

    def __init__(self, run: RunDir, log_steps: int, losses: list[float], lr: Callable[[int], float]):
        self._file = open(run.metrics_file, "a", encoding="utf-8")
        self._log_steps = log_steps
        self._losses, self._lr = losses, lr
        self._samples, self._since = 0, time.perf_counter()

    def on_step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        self._losses.append(loss)
        self._samples += samples
        if step % self._log_steps == 0:
            now = time.perf_counter()
            rate = self._samples / max(now - self._since, 1e-9)
            mean = sum(self._losses) / len(self._losses)
            event = {"step": step, "epoch": epoch, "split": "train", "loss": mean, "lr": self._lr(step)}
            self.on_event({**event, "samples_per_s": round(rate)})
            self._losses.clear()
            self._samples, self._since = 0, now

    def on_event(self, event: Event) -> None:
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()

    def on_save(self) -> None:
        os.fsync(self._file.fileno())  # a checkpoint never is newer than the lines before it

    def close(self) -> None:
        self._file.close()


class ProgressBar(Hook):
    """Steps, loss and samples/s on the terminal; evaluations as lines. Quiet when stderr is no terminal."""

    REFRESH_S = 0.2

    def __init__(self, first_step: int, steps: int, quiet: bool):
        self._bar = tqdm.tqdm(
            total=steps, initial=first_step, unit="step", disable=True if quiet else None, leave=False
        )
        self._quiet = quiet
        self._samples, self._since, self._steps = 0, time.perf_counter(), first_step

    def on_step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        self._samples += samples
        now = time.perf_counter()
        if not self._bar.disable and now - self._since > self.REFRESH_S:
            rate = self._samples / (now - self._since)
            self._bar.set_postfix_str(f"epoch {epoch}  loss {loss:.4f}  {rate:,.0f} samples/s", refresh=False)
            self._bar.update(step - self._steps)
            self._samples, self._since, self._steps = 0, now, step

    def on_event(self, event: Event) -> None:
        if event["split"] != "train" and not self._quiet:
            numbers = "  ".join(f"{k} {v:.5f}" for k, v in event.items() if isinstance(v, float))
            self._bar.write(f"step {event['step']}  epoch {event['epoch']}  {event['split']}: {numbers}")

    def close(self) -> None:
        self._bar.close()


class Timeline(Hook):
    """Profiles steps FROM to TO into the run's timeline/ directory, for TensorBoard or Perfetto."""

    def __init__(self, run: RunDir, steps: str):
        first, colon, last = steps.partition(":")
        if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
            raise UserError(f"--timeline={steps}: must be FROM:TO, two step numbers, the first the smaller")
        self._from, self._to = int(first), int(last)
        self._directory = str(run.path / "timeline")
        self._running = False

    def on_step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        if step == self._from:
            jax.profiler.start_trace(self._directory)
            self._running = True
        elif step >= self._to:
            self.close()

    def close(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False


def make_hooks(
    config: RunConfig, run: RunDir, progress: Progress, lr: Callable[[int], float], first_step: int, steps: int
) -> list[Hook]:
    """The hooks ``config`` asks for; none but on the first host. ``lr``: the schedule's rate of a step, from 1."""
    if not is_first():
        return []
    metrics = MetricsFile(run, config.log_steps, progress.losses, lambda step: lr(step) * progress.lr_scale)
    hooks: list[Hook] = [metrics, ProgressBar(first_step, steps, config.quiet)]
    if config.timeline:
        hooks.append(Timeline(run, config.timeline))
    return hooks

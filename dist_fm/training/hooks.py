"""What happens beside training: the metrics file, the progress bar, and which hooks a run has."""

import datetime
import json
import os
import time
from collections.abc import Callable, Sequence

import tqdm

from data_tools.progress import print_line
from dist_fm.config import RunConfig
from dist_fm.parallel.hosts import is_first
from dist_fm.run_dir import RunDir
from dist_fm.training.hook import Event, Hook, Listener
from dist_fm.training.progress import Progress
from dist_fm.training.tensorboard import open_tensorboard
from dist_fm.training.timeline import Span, Timeline


class MetricsFile(Hook):
    """Appends to metrics.jsonl: every ``log_steps`` steps the mean loss since the last line, and every evaluation.

    ``losses``, those since the last line, are the run's progress, so that a run that goes on writes the same lines.
    ``lr`` gives the learning rate of a step. ``listeners`` are told of each event as it is written, and of the result,
    which is not.
    """

    def __init__(
        self,
        run: RunDir,
        log_steps: int,
        losses: list[float],
        lr: Callable[[int], float],
        listeners: Sequence[Listener] = (),
    ):
        self._file = open(run.metrics_file, "a", encoding="utf-8")
        self._listeners = listeners
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
        event = {**event, "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")}
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()
        self.on_result(event)

    def on_save(self) -> None:
        os.fsync(self._file.fileno())  # a checkpoint never is newer than the lines before it

    def on_result(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    def close(self) -> None:
        self._file.close()


class ProgressBar(Hook):
    """Steps, loss and samples/s as a bar on the terminal, or, where stderr is none, as a line a minute at most.

    Evaluations are lines in either case; ``quiet`` leaves out everything.
    """

    REFRESH_S, LINE_S = 0.2, 60.0

    def __init__(self, first_step: int, steps: int, quiet: bool):
        hidden = True if quiet else None  # None: where stderr is no terminal
        self._bar = tqdm.tqdm(
            total=steps, initial=first_step, unit="step", disable=hidden, leave=False, mininterval=0, miniters=1
        )
        self._quiet, self._total = quiet, steps
        self._refresh_s = self.LINE_S if self._bar.disable else self.REFRESH_S
        self._samples, self._since, self._steps = 0, time.perf_counter(), first_step

    def on_step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        self._samples += samples
        now = time.perf_counter()
        if self._quiet or now - self._since < self._refresh_s:
            return
        about = f"epoch {epoch}  loss {loss:.4f}  {self._samples / (now - self._since):,.0f} samples/s"
        if self._bar.disable:
            print_line(f"step {step} of {self._total}  {about}")
        else:
            self._bar.set_postfix_str(about, refresh=False)
            self._bar.update(step - self._steps)
        self._samples, self._since, self._steps = 0, now, step

    def on_event(self, event: Event) -> None:
        if event["split"] != "train" and not self._quiet:
            numbers = "  ".join(f"{k} {v:.5f}" for k, v in event.items() if isinstance(v, float))
            print_line(f"step {event['step']}  epoch {event['epoch']}  {event['split']}: {numbers}")

    def close(self) -> None:
        self._bar.close()


def make_hooks(
    config: RunConfig,
    run: RunDir,
    progress: Progress,
    lr: Callable[[int], float],
    first_step: int,
    steps: int,
    span: Span | None,
    listeners: Sequence[Listener],
) -> list[Hook]:
    """The hooks ``config`` asks for; none but on the first host. ``lr``: the schedule's rate of a step, from 1."""
    if not is_first():
        return []
    tensorboard = open_tensorboard(run) if config.tensorboard else None
    told = listeners if tensorboard is None else [tensorboard.write, *listeners]
    hooks: list[Hook | None] = [
        MetricsFile(run, config.log_steps, progress.losses, lambda step: lr(step) * progress.lr_scale, told),
        tensorboard,
        ProgressBar(first_step, steps, config.quiet),
        Timeline(run, span, first_step) if span is not None else None,
    ]
    return [hook for hook in hooks if hook is not None]

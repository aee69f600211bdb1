"""Where a run stands besides its weights: the best evaluation so far, patience, and whether it stopped early."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

from jax.profiler import TraceAnnotation

from dist_fm.config import TOP_K_METRICS, TrainConfig
from dist_fm.training.evaluation import Metrics

PARTS = ("wait", "compile", "evaluate", "save")  # what the loop does besides steps; waiting for data is in ``seconds``


@dataclasses.dataclass
class Progress:
    """Saved with every checkpoint as plain JSON."""

    best_value: float | None = None
    best_step: int | None = None
    best_epoch: int | None = None
    best_metrics: Metrics = dataclasses.field(default_factory=dict)
    without_improvement: int = 0
    lr_scale: float = 1.0
    stopped_early: bool = False
    evaluated_step: int | None = None  # the last; a run stopped just before an evaluation makes it when it goes on
    losses: list[float] = dataclasses.field(default_factory=list)  # of the steps since the last line of metrics.jsonl
    samples: int = 0  # trained in timed steps, and the seconds those took
    seconds: float = 0.0
    spent: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the seconds that the block takes to those of one of ``PARTS``, its name in profiles."""
        began = time.perf_counter()
        with TraceAnnotation(part):
            yield
        self.spent[part] += time.perf_counter() - began

    def seconds_by_part(self) -> dict[str, float]:
        """Seconds of the training loop: waiting for data, in steps, compiling, evaluating, saving."""
        step = self.seconds - self.spent["wait"]
        return {name: round(s, 3) for name, s in ({"wait": self.spent["wait"], "step": step} | self.spent).items()}

    def update(self, config: TrainConfig, metrics: Metrics, step: int, epoch: int) -> bool:
        """Takes in an evaluation of the valid split; True when it is the best so far."""
        self.evaluated_step = step
        value = monitored(config, metrics)
        # Without a value (one class only, no rows) there is nothing to choose by: the newest is taken.
        if value is None or self.best_value is None or value > self.best_value + config.min_delta:
            self.best_value, self.best_step, self.best_epoch, self.best_metrics = value, step, epoch, metrics
            self.without_improvement = 0
            return True
        if epoch >= config.min_epochs:
            self.without_improvement += 1
            self.lr_scale *= config.plateau_factor
            self.stopped_early = 0 < config.patience <= self.without_improvement
        return False


def monitored(config: TrainConfig, metrics: Metrics) -> float | None:
    """The number to be as large as possible; None when ``metrics`` lack it. Of ranks it is that at the first K."""
    total = 0.0
    for name in config.monitor.split("-"):
        value = metrics.get(f"{name}@{config.top_k[0]}" if name in TOP_K_METRICS else name)
        if value is None:
            return None
        total += -value if name in ("logloss", "ne", "rmse") else value
    return total

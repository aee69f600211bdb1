"""`--timeline=FROM:TO`: a profile of some steps, which TensorBoard and Perfetto open.

Steps appear in it as `train` with their number, and their parts by name: `wait` for a batch, `read`, `prepare` and
`place` of batches in other threads, `evaluate`, `save`.
"""

import sys
from typing import NamedTuple

import jax

from dist_fm.errors import UserError
from dist_fm.parallel.hosts import say
from dist_fm.run_dir import RunDir
from dist_fm.training.hook import Hook


class Span(NamedTuple):
    """Steps, both included."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str, steps: int) -> "Span":
        """FROM:TO, of a run of ``steps``; raises ``UserError`` where it is none, or lies behind the run's end."""
        first, colon, last = text.partition(":")
        if not (colon and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise UserError(f"--timeline={text}: must be FROM:TO, two step numbers from 1, the first not the larger")
        if int(first) > steps:
            raise UserError(f"--timeline={text}: the run has {steps} steps, so there would be nothing to profile")
        return cls(int(first), min(int(last), steps))


class Timeline(Hook):
    """Profiles the steps of ``span`` into the run's timeline/ directory; of a resumed run, those after ``done``."""

    def __init__(self, run: RunDir, span: Span, done: int):
        self._directory, self._span = str(run.path / "timeline"), span
        self._running, self._over = False, span.last <= done
        if self._over:
            say(f"--timeline: steps {span.first} to {span.last} are done already, and were not profiled", sys.stderr)

    def before_step(self, step: int) -> None:
        if not self._over and not self._running and step >= self._span.first:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every Python call, which slows them down and hides the steps' parts
            jax.profiler.start_trace(self._directory, profiler_options=options)
            self._running = True

    def on_step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        if self._running and step >= self._span.last:
            self._stop()

    def close(self) -> None:
        if self._running:
            self._stop()
        elif not self._over:
            say(f"--timeline: training ended before step {self._span.first}: nothing was profiled", sys.stderr)

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._running, self._over = False, True

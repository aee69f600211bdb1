"""Orbax checkpoints: the whole training state with its progress, and, apart from it, the weights of the best step.

Orbax writes in the background and renames what is whole, so a killed run leaves no half checkpoint that opens. What
it does not notice is a file that was damaged later: `dist_fm.checksums` does.
"""

import contextlib
import dataclasses
import functools
import itertools
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import absl.logging
import jax
import orbax.checkpoint as ocp

from dist_fm.checksums import damage, record
from dist_fm.errors import UserError
from dist_fm.parallel.hosts import first_decides, is_first, say
from dist_fm.training.state import TrainState


class Checkpoints:
    """Checkpoints under ``directory``: ``checkpoints/`` holds the last ``keep``, ``best/`` the best steps' weights.

    Of the best, those that a kept checkpoint's progress names are kept, and the newest. ``read_only``: for a run that
    another process may be training, whose unfinished saves must not be cleaned up.
    """

    def __init__(self, directory: pathlib.Path, keep: int = 2, *, read_only: bool = False):
        self._path = directory
        self._last = _manager(directory / "checkpoints", keep, read_only)
        self._best = _manager(directory / "best", None, read_only)
        self._best_steps: dict[int, int | None] = {}  # of the kept checkpoints, by their own steps

    def latest_step(self) -> int | None:
        return self._last.latest_step()

    def best_step(self) -> int | None:
        return self._best.latest_step()

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Saves ``state`` and ``progress`` (plain JSON) at the state's step, in the background.

        Raises ``UserError`` when it, or the one begun before, cannot be written.
        """
        step = int(state.step)
        with self._saving(step):
            self._finish()  # the best step that ``progress`` names must be there before it
            _save(self._last, step, state=ocp.args.StandardSave(_tree(state)), progress=ocp.args.JsonSave(progress))
        self._best_steps[step] = progress.get("best_step")

    def save_best(self, state: TrainState) -> None:
        with self._saving(int(state.step)):
            _save(self._best, int(state.step), weights=ocp.args.StandardSave(_weights(state)))

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state that is whole, with the shapes and shardings of ``like``, and its progress.

        A damaged one is passed over, which is said, and set aside under ``damaged/``. Raises ``UserError`` when there
        is none that opens.
        """
        problems = []
        for step in first_decides(lambda: sorted(self._last.all_steps(), reverse=True)):
            directory = self._path / "checkpoints" / str(step)
            problem = first_decides(functools.partial(damage, directory))
            if problem is None:
                try:
                    found = self._restore(step, like)
                except Exception as error:  # Orbax and TensorStore raise whatever the damaged part leads to
                    if jax.process_count() > 1:  # others may wait inside Orbax for this host
                        raise UserError(f"{directory} cannot be read: {error}") from error
                    problem = f"{directory} cannot be read: {error}"
                else:
                    self._go_back_to(step)
                    return found
            problems.append(problem)
            say(f"damaged checkpoint: {problem}; the one before it is taken", sys.stderr)
        raise UserError(
            f"{self._path}: no checkpoint can be opened: {'; '.join(problems)}. To start again, remove "
            f"{self._path / 'checkpoints'} or give another --output_dir"
        )

    def restore_best(self, like: TrainState, step: int | None = None) -> TrainState:
        """``like`` with the weights of the best ``step`` (None, or gone: the newest), but its own optimizer.

        Raises ``UserError`` when they are damaged.
        """
        step = step if step in self._best.all_steps() else self._best.latest_step()
        directory = self._path / "best" / str(step)
        problem = first_decides(lambda: damage(directory))
        if problem is not None:
            raise UserError(f"damaged checkpoint: {problem}; the weights of the best step cannot be opened")
        args = ocp.args.Composite(weights=ocp.args.StandardRestore(_weights(like)))
        try:
            return dataclasses.replace(like, **self._best.restore(step, args=args)["weights"])
        except Exception as error:  # as in ``restore``
            raise UserError(f"{directory} cannot be read: {error}") from error

    def wait(self) -> None:
        """Blocks until everything is on disk; raises ``UserError`` when something could not be written."""
        with self._saving(None):
            self._finish()

    def close(self) -> None:
        self._last.close()
        self._best.close()

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_tree(like)), progress=ocp.args.JsonRestore())
        found = self._last.restore(step, args=args)
        return TrainState(**found["state"]), found["progress"]

    def _go_back_to(self, step: int) -> None:
        """Takes away what is newer than ``step``, as Orbax writes no older step; notes which best steps are wanted."""
        damaged = [one for one in self._last.all_steps() if one > step]
        if damaged:
            first_decides(functools.partial(_set_aside, self._path, damaged))
            self._last.reload()
        for one in [one for one in self._best.all_steps() if one > step]:
            self._best.delete(one)
        args = ocp.args.Composite(progress=ocp.args.JsonRestore())
        for one in self._last.all_steps():
            with contextlib.suppress(OSError, ValueError, KeyError):  # an older one may be damaged, too
                self._best_steps[one] = self._last.restore(one, args=args)["progress"].get("best_step")

    def _finish(self) -> None:
        """Waits for what is being written, and deletes the best steps that no kept checkpoint names, but the newest."""
        for manager in (self._last, self._best):
            manager.wait_until_finished()
            manager.check_for_errors()
        kept = set(self._last.all_steps())
        self._best_steps = {step: best for step, best in self._best_steps.items() if step in kept}
        for step in set(self._best.all_steps()) - set(self._best_steps.values()) - {self._best.latest_step()}:
            self._best.delete(step)

    def _steps_on_disk(self) -> list[int]:
        return [int(path.name) for path in (self._path / "checkpoints").iterdir() if path.name.isdigit()]

    @contextlib.contextmanager
    def _saving(self, step: int | None) -> Iterator[None]:
        try:
            yield
        except (jax.errors.JaxRuntimeError, TimeoutError):  # another host has failed: no matter of files
            raise
        except Exception as error:  # whatever the file system's refusal becomes on its way through TensorStore
            whole = [one for one in self._steps_on_disk() if one != step]
            kept = f"the checkpoint of step {max(whole)} is kept" if whole else "there is none yet"
            where = self._path / "checkpoints"
            raise UserError(
                f"{where}: a checkpoint could not be written, and training was stopped; {kept}: {error}"
            ) from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Orbax's, through absl."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)


# Orbax cuts a replicated array into a slice a replica, to write them at the same time: for small arrays, by compiling
# and running a program for each slice, which took a third of the time of saving a small model on four devices.
with _without_warnings():
    ocp.type_handlers.register_type_handler(
        jax.Array, ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=1 << 20), override=True
    )


def _manager(directory: pathlib.Path, keep: int | None, read_only: bool) -> ocp.CheckpointManager:
    """Keeps the last ``keep`` steps; None: all."""
    with _without_warnings() if read_only else contextlib.nullcontext():  # of which Orbax warns at each opening
        return ocp.CheckpointManager(directory.absolute(), options=_options(directory, keep, read_only))


def _options(directory: pathlib.Path, keep: int | None, read_only: bool) -> ocp.CheckpointManagerOptions:
    return ocp.CheckpointManagerOptions(
        preservation_policy=None if keep is None else ocp.checkpoint_managers.LatestN(keep),
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
        async_options=ocp.AsyncOptions(post_finalization_callback=lambda: record(directory) if is_first() else None),
        # Without names of their own, hosts mistake one manager's barriers for the other's, which save at the same time.
        multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=directory.name),
    )


def _save(manager: ocp.CheckpointManager, step: int, **items: Any) -> None:
    manager.wait_until_finished()
    manager.check_for_errors()
    if step in manager.all_steps():  # an evaluation repeated, or a run that was made longer
        manager.delete(step)
    if not manager.save(step, args=ocp.args.Composite(**items), force=True):
        raise RuntimeError(f"step {step} was not saved: {manager.latest_step()} is there")


def _set_aside(run: pathlib.Path, steps: list[int]) -> None:
    folder = run / "damaged"
    folder.mkdir(exist_ok=True)
    for step in steps:
        target = next(path for n in itertools.count() if not (path := folder / f"{step}-{n}").exists())
        (run / "checkpoints" / str(step)).rename(target)


def _tree(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _weights(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("step", "table", "params", "stats")}

"""Orbax checkpoints: the whole training state with its progress, and, apart from it, the weights of the best step."""

import dataclasses
import pathlib
from typing import Any

import orbax.checkpoint as ocp

from dist_fm.training.state import TrainState

BEST_KEPT = 2  # a run killed between saving a new best and saving its progress still finds the old best


class Checkpoints:
    """Checkpoints under ``directory``: ``checkpoints/`` holds the last ``keep``, ``best/`` the best steps' weights."""

    def __init__(self, directory: pathlib.Path, keep: int = 2):
        self._last = _manager(directory / "checkpoints", keep)
        self._best = _manager(directory / "best", BEST_KEPT)

    def latest_step(self) -> int | None:
        return self._last.latest_step()

    def best_step(self) -> int | None:
        return self._best.latest_step()

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Saves ``state`` and ``progress`` (plain JSON) at the state's step, in the background."""
        _save(
            self._last, int(state.step), state=ocp.args.StandardSave(_tree(state)), progress=ocp.args.JsonSave(progress)
        )

    def save_best(self, state: TrainState) -> None:
        _save(self._best, int(state.step), weights=ocp.args.StandardSave(_weights(state)))

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state, with the shapes and shardings of ``like``, and its progress."""
        step = self._last.latest_step()
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_tree(like)), progress=ocp.args.JsonRestore())
        found = self._last.restore(step, args=args)
        return TrainState(**found["state"]), found["progress"]

    def restore_best(self, like: TrainState, step: int | None = None) -> TrainState:
        """``like`` with the weights of the best ``step`` (None: newest); the optimizer's is that of ``like``."""
        step = self._best.latest_step() if step is None else step
        args = ocp.args.Composite(weights=ocp.args.StandardRestore(_weights(like)))
        return dataclasses.replace(like, **self._best.restore(step, args=args)["weights"])

    def wait(self) -> None:
        """Blocks until everything is on disk; an error of a background save is raised here."""
        for manager in (self._last, self._best):
            manager.wait_until_finished()
            manager.check_for_errors()

    def close(self) -> None:
        self._last.close()
        self._best.close()


def _manager(directory: pathlib.Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.LatestN(keep), cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(directory.absolute(), options=options)


def _save(manager: ocp.CheckpointManager, step: int, **items: Any) -> None:
    manager.check_for_errors()
    if step in manager.all_steps():  # a resumed run passes the same step again
        manager.delete(step)
    manager.save(step, args=ocp.args.Composite(**items))


def _tree(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _weights(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("step", "table", "params", "stats")}

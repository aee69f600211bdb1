"""TensorBoard events beside metrics.jsonl: the same numbers, as scalars SPLIT/NAME by step."""

import contextlib
import datetime
import importlib.util
import json
import sys
import time
from typing import Any

from dist_fm.parallel.hosts import say
from dist_fm.run_dir import RunDir
from dist_fm.training.hook import Event, Hook

_NO_SCALARS = ("step", "epoch")


def open_tensorboard(run: RunDir) -> "TensorBoard | None":
    """The events of ``run``; None where tensorboardX is not installed, or, which is said, does not import."""
    if importlib.util.find_spec("tensorboardX") is None:
        return None
    try:
        return TensorBoard(run)
    except Exception as error:  # of whatever tensorboardX, protobuf or the file system do: it is no reason not to train
        say(f"no TensorBoard events: {type(error).__name__}: {error}", sys.stderr)
        return None


class TensorBoard(Hook):
    """One event file, written anew from metrics.jsonl when a run starts or goes on: no point is in it twice."""

    def __init__(self, run: RunDir):
        # EventsWriter writes at once. tensorboardX's SummaryWriter does so in a thread, which a full disk ends unseen,
        # and then waits for that thread for ever.
        from tensorboardX.event_file_writer import EventsWriter

        for old in run.event_files():
            old.unlink()
        self._writer: Any = EventsWriter(str(run.path / "events"))
        if run.metrics_file.is_file():
            for line in run.metrics_file.read_text(encoding="utf-8").splitlines():
                self._add(json.loads(line))
        self._writer.flush()

    def write(self, event: Event) -> None:
        """Adds the numbers of ``event``; when they cannot be written, which is said, this one and all later are not."""
        if self._writer is None:
            return
        try:
            self._add(event)
            self._writer.flush()
        except OSError as error:
            say(f"TensorBoard events can no longer be written: {error}", sys.stderr)
            self._writer = None

    def close(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None

    def _add(self, event: Event) -> None:
        from tensorboardX.proto.event_pb2 import Event as Record
        from tensorboardX.proto.summary_pb2 import Summary

        numbers = {
            f"{event['split']}/{name}": float(number)
            for name, number in event.items()
            if name not in _NO_SCALARS and isinstance(number, int | float) and not isinstance(number, bool)
        }
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=number) for tag, number in numbers.items()])
        at_s = datetime.datetime.fromisoformat(event["time"]).timestamp() if "time" in event else time.time()
        self._writer.write_event(Record(wall_time=at_s, step=event["step"], summary=summary))

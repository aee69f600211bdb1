"""One measurement of our training step, in the real training path; prints one JSON line.

    python tests/benchmarks/ours.py --model=deepfm --shape=criteo --batch=2048 --steps=200

The time is the wall over all steps, each with a batch of its own: making unique ids in threads that read ahead (as
Grain's do), putting batches on the devices, and the step itself. Drawing the ids and compiling are outside it. step.py,
tables.py and end_to_end.py run this; it imports neither Grain nor lmdb.
"""

import argparse
import json
import math
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import common
import jax
import numpy as np
from analysis import analyse, table_arrays
from load import WARM_UP_S, OtherLoad
from work import HostBatches, make_engine, make_schema, read_ahead

from dist_fm.data.pipeline import Batch, placed
from dist_fm.errors import UserError
from dist_fm.parallel.mesh import describe
from dist_fm.training.in_flight import bounded
from dist_fm.training.step import Engine


def main() -> None:
    parser = common.parser(__doc__)
    add_our_flags(parser)
    parser.add_argument("--ids", help="file of ids, so that several measurements draw them once")
    parser.add_argument("--stride", type=common.positive, default=1, help="the table is this many times larger")
    parser.add_argument("--profile_memory", action="store_true", help="temporary bytes and copies of the compiled step")
    options = parser.parse_args()

    schema = make_schema(options.shape, options.stride)
    engine = make_engine(options, schema)
    host = HostBatches(options, schema, engine.padded_batch(options.batch))
    training = Training(engine)
    training.compile(engine.prepare(host[step]) for step in range(options.steps))
    record = training.time(lambda: placed(read_ahead(engine, host, options.read_threads), engine), options)
    if options.profile_memory:
        record |= analyse(engine, training.state, training.largest)
    print(json.dumps(record))


def add_our_flags(parser: argparse.ArgumentParser) -> None:
    """What a measurement has one of, and the scripts may have several of."""
    parser.add_argument("--model", type=common.model_name, default="deepfm")
    parser.add_argument("--optimizer", default="adam", help="of the rows; the network's is Adam")
    parser.add_argument("--placement", help="tables.placement: auto, replicated or sharded")


class Training:
    """A state that is trained step by step; ``largest`` is the batch with the most unique rows."""

    def __init__(self, engine: Engine):
        self.engine, self.state = engine, jax.block_until_ready(engine.init())

    def compile(self, prepared: Iterable[Batch]) -> None:
        """Compiles a step for every shape among ``prepared`` batches, and runs each of them twice."""
        by_shape = {tuple(np.shape(array) for array in jax.tree.leaves(batch)): batch for batch in prepared}
        self.largest = by_shape[max(by_shape)]
        for batch in placed(iter([*by_shape.values()] * 2), self.engine):
            self.state, metrics = self.engine.train_step(self.state, batch)
            jax.block_until_ready(metrics)

    def time(self, batches: Callable[[], Iterator[Batch]], options: argparse.Namespace) -> dict[str, Any]:
        """Trains on ``batches()``, of which there are ``options.steps``: what it took, and the size of the state.

        Before that, on the same, over and over, for `WARM_UP_S`.
        """
        until = time.perf_counter() + WARM_UP_S
        for _ in bounded(self._send(_again(batches))):
            if time.perf_counter() > until:
                break
        compiled, steps = self.engine.compiled_steps(), 0
        jax.block_until_ready(self.state)
        with OtherLoad() as others:
            began = time.perf_counter()
            for metrics in bounded(self._send(batches())):
                if not math.isfinite(float(metrics.loss) + float(metrics.gradient_norm)):
                    raise UserError(f"step {steps}: loss {float(metrics.loss)}: training diverged")
                steps += 1
            jax.block_until_ready(self.state)
            seconds = time.perf_counter() - began
        if steps != options.steps or self.engine.compiled_steps() != compiled:
            raise UserError(
                f"{steps} of {options.steps} steps ran, and {self.engine.compiled_steps() - compiled} programs were "
                "compiled while the clock ran: this is no measurement"
            )
        return {
            "model": options.model,
            "optimizer": options.optimizer,
            "update": options.update,
            "network": options.network or "full",
            "step_ms": round(seconds / steps * 1e3, 4),
            "samples_per_s": round(steps * options.batch / seconds),
            "steps": steps,
            "batch": options.batch,
            "compiled_steps": compiled,
            "other_cpu_cores": others.cores,
            "devices": describe(self.engine.mesh),
            **self._sizes(),
        }

    def _send(self, batches: Iterator[Batch]) -> Iterator[Any]:
        for batch in batches:
            self.state, metrics = self.engine.train_step(self.state, batch)
            yield metrics

    def _sizes(self) -> dict[str, Any]:
        arrays = table_arrays(self.engine, self.state)
        on_each = [math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize for array in arrays]
        total = sum(array.nbytes for array in arrays)
        device = self.engine.mesh.devices.flat[0]
        return {
            "placement": self.engine.lookup.placement,
            "table_rows": self.engine.spec.rows,
            "table_and_slot_bytes": total,
            "table_and_slot_bytes_per_device": sum(on_each),
            "peak_rss_bytes": peak_rss_bytes(),
            "peak_device_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        }


def _again(batches: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    while True:
        yield from batches()


def peak_rss_bytes() -> int:
    """The most memory this process ever held; ru_maxrss may also count what its parent held when it started it."""
    try:
        status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")

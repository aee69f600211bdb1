"""One host of several, for tests/test_hosts.py: trains cases on their common mesh, and writes what came out.

    python tests/hosts_worker.py OUT.npz HOSTS HOST PORT DEVICES CASES

CASES is a JSON list of {"model", "update", "placement", "x64", "steps"}. The first host writes OUT.npz.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from dist_fm.parallel.hosts import Hosts, is_first
from dist_fm.parallel.mesh import make_mesh, start_devices


class Stream:
    """This host's part of global batches: ordinary ones, or the ``hard`` ones of test_same_answer and two kinds more.

    Of every 10, one has so few samples that the last host has none, and in one the second half of a batch repeats one
    row of each field, so that hosts differ in how many are unique.
    """

    def __init__(self, engine, steps, hard):
        self.engine, self.steps, self.hard = engine, steps, hard
        self.host, self.hosts = jax.process_index(), jax.process_count()

    @property
    def batch_size(self):
        from test_same_answer import BATCH

        return BATCH

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        from conftest import host_batch
        from test_same_answer import BATCH, SCHEMA, batch

        whole = batch(self.engine.spec, step) if self.hard else host_batch(SCHEMA, BATCH - 3, BATCH, seed=step)
        if self.hard and step % 10 == 5:
            whole["mask"][BATCH // 4 :] = whole["weights"][BATCH // 4 :] = 0
            whole["rows"][BATCH // 4 :] = -1
        if self.hard and step % 10 == 7:
            whole["rows"][BATCH // 2 :] = whole["rows"][0]
        share = BATCH // self.hosts
        return {name: array[self.host * share : (self.host + 1) * share] for name, array in whole.items()}


def train(mesh, model, update, placement, x64, steps):
    """Losses [steps], and the arrays of the state by name, on the first host."""
    from conftest import make_config
    from jax.experimental import multihost_utils
    from test_same_answer import SCHEMA

    from dist_fm.training.feed import batches
    from dist_fm.training.in_flight import bounded
    from dist_fm.training.step import Engine

    tables = {"update": update, "placement": placement, **({"optimizer": "adagrad"} if update == "sparse" else {})}
    optimizer = {"name": "adagrad", "lr": 0.02, "l2_embedding": 1e-3, "clip_norm": 1.0}
    if not x64:  # at that rate, on hard batches, float32 losses differ by 5e-4 on 2 and 4 devices of one host, too
        optimizer = {}
    config = make_config(model, sections={"tables": tables, "optimizer": optimizer})
    engine = Engine(config, SCHEMA, mesh, dtype=jnp.float64 if x64 else jnp.float32)
    state = engine.init()

    def send():
        nonlocal state
        for batch in batches(Stream(engine, steps, hard=x64), engine):
            state, metrics = engine.train_step(state, batch)
            yield metrics

    losses = [float(metrics.loss) for metrics in bounded(send())]
    gathered = multihost_utils.process_allgather(state, tiled=True)
    leaves = jax.tree_util.tree_leaves_with_path(gathered)
    return {"losses": np.array(losses)} | {jax.tree_util.keystr(path): np.asarray(array) for path, array in leaves}


def main(out, hosts, host, port, devices, cases):
    hosts = Hosts(int(hosts), int(host), "test", f"127.0.0.1:{port}")
    mesh = make_mesh(start_devices(int(devices), "cpu", hosts))
    found = {}
    for number, case in enumerate(json.loads(cases)):
        with jax.enable_x64(case["x64"]):
            found |= {f"{number} {name}": array for name, array in train(mesh, **case).items()}
    if is_first():
        np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What the compiled step is made of: no copy of a table, nothing of the batch between devices, a share of the work."""

import math
import os
import pathlib
import subprocess
import sys

import pytest
from analysis import table_arrays, table_copies
from conftest import USERS_FUSION, host_batch, make_engine, make_schema
from hlo import Program

from dist_fm.models import MODELS
from dist_fm.parallel.mesh import GPU_SCATTER_FLAG
from dist_fm.tables.rules import ROW_OPTIMIZERS

LARGE = make_schema((150_000, 100_000, 9))
SMALL = make_schema((30, 20, 9, 8, 7, 6), ("user", "item", None, None, None, None))


def compiled(engine, samples):
    batch = engine.place(engine.prepare(host_batch(engine.schema, samples, samples)))
    return batch, engine.train_step.lower(engine.abstract_state(), batch).compile(USERS_FUSION)


def sparse(rule="adam", placement="replicated"):
    return {"tables": {"update": "sparse", "optimizer": rule, "placement": placement}}


@pytest.mark.parametrize("devices, placement", [(1, "replicated"), (4, "sharded")])
@pytest.mark.parametrize("rule", ROW_OPTIMIZERS)
def test_no_temporary_or_copy_of_the_tables_size(rule, devices, placement):
    engine = make_engine("fm", devices, LARGE, sections=sparse(rule, placement))
    _, step = compiled(engine, 64)
    state = engine.abstract_state()
    parts = [array.sharding.shard_shape(array.shape) for array in table_arrays(engine, state)]
    smallest = min(4 * math.prod(shape) for shape in parts)
    memory = step.memory_analysis()
    assert memory.temp_size_in_bytes < smallest / 4
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < smallest / 4  # the state is updated in place
    assert table_copies(step.as_text(), engine, state) == 0


def test_dense_updates_do_make_table_sized_arrays():
    """So that the test above can fail."""
    engine = make_engine("fm", 1, LARGE, sections={"tables": {"update": "dense"}})
    _, step = compiled(engine, 64)
    state = engine.abstract_state()
    assert step.memory_analysis().temp_size_in_bytes >= 4 * math.prod(state.table.shape)
    assert table_copies(step.as_text(), engine, state) > 0


BATCH = 2_044  # with 511 samples on each of four devices: numbers that no other axis has


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=() if name in ("afm", "ffm", "deepfm") else pytest.mark.slow) for name in MODELS]
)
def test_four_devices_share_the_work_and_exchange_nothing_of_the_batch(model):
    work = {}
    for devices in (1, 4):
        engine = make_engine(model, devices, SMALL, sections=sparse())
        _, step = compiled(engine, BATCH)
        work[devices] = Program(step.as_text()).flops()
    assert work[4] <= 0.3 * work[1], work
    exchanged = Program(step.as_text()).collectives()
    assert exchanged, "four devices that exchange nothing do not train one model"
    for one in exchanged:
        assert not {BATCH, BATCH // 4} & {size for shape in one.shapes for size in shape}, one


@pytest.mark.parametrize("model", ["deepfm", "ffm"])
def test_sharded_tables_exchange_unique_rows_and_the_network_alone(model):
    engine = make_engine(model, 4, LARGE, sections=sparse(placement="sharded"))
    batch, step = compiled(engine, BATCH)
    rows = batch.unique.size * engine.spec.layout.width
    network = engine.parameters() - engine.spec.rows * engine.spec.layout.width
    exchanged = Program(step.as_text()).collectives()
    assert {one.op for one in exchanged} >= {"all-gather", "reduce-scatter"}
    for one in exchanged:
        assert sum(map(math.prod, one.shapes)) <= 2 * rows + network, one


def test_the_gpu_scatter_flag_is_in_force_when_the_backend_compiles(tmp_path):
    """XLA itself tells, in the options it writes beside a program."""
    script = "from dist_fm.parallel.mesh import start_devices; start_devices(1, 'cpu'); import jax; jax.jit(abs)(1.0)"
    env = {**os.environ, "XLA_FLAGS": f"--xla_dump_to={tmp_path}", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    subprocess.run([sys.executable, "-c", script], env=env, check=True, timeout=120)
    told = [path.read_text() for path in pathlib.Path(tmp_path).glob("*debug_options")]
    assert told
    assert all(GPU_SCATTER_FLAG.split("=-")[1] in options for options in told)

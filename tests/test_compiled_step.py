"""What the compiled step is made of: no copy of a table, nothing of the batch between devices, a share of the work."""

import functools
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from analysis import table_arrays, table_copies
from conftest import USERS_FUSION, host_batch, make_config, make_schema
from hlo import Instruction, Program
from jax.sharding import PartitionSpec as P

from dist_fm.models import MODELS
from dist_fm.parallel.mesh import BATCH as SPLIT
from dist_fm.parallel.mesh import GPU_SCATTER_FLAG, make_mesh
from dist_fm.tables.rules import ROW_OPTIMIZERS
from dist_fm.training.step import Engine

LARGE = make_schema((150_000, 100_000, 9))
SMALL = make_schema((30, 20, 9, 8, 7, 6), ("user", "item", None, None, None, None))
ONE, FOUR, TWO_HOSTS = (1, 1), (1, 4), (2, 2)


def engine_on(mesh, placement="replicated", model="fm", schema=LARGE, **tables):
    hosts, devices = mesh
    config = make_config(model, sections={"tables": {"update": "sparse", "placement": placement, **tables}})
    return Engine(config, schema, make_mesh(jax.devices()[: hosts * devices], hosts))


def lowered(engine, samples):
    batch = engine.place(engine.prepare(host_batch(engine.schema, samples, samples)))
    return batch, engine.train_step.lower(engine.abstract_state(), batch)


def compiled(engine, samples):
    batch, step = lowered(engine, samples)
    return batch, step.compile(USERS_FUSION)


def said(value):
    """A test's name for a mesh, and for settings of the table."""
    if isinstance(value, dict):
        return ",".join(f"{key}={setting}" for key, setting in value.items()) or "default"
    return "x".join(map(str, value)) if isinstance(value, tuple) else None


MIXED = {"optimizer": "adagrad:max_norm=1", "columns": ["linear=ftrl:l1=0.1"]}
HALF = {"optimizer": "adagrad", "dtype": "bfloat16"}


@pytest.mark.parametrize(
    "mesh, placement, tables",
    [
        *[(*on, {"optimizer": rule}) for rule in ROW_OPTIMIZERS for on in ((ONE, "replicated"), (FOUR, "sharded"))],
        (FOUR, "replicated", {"optimizer": "adam"}),
        (TWO_HOSTS, "sharded", {"optimizer": "adam"}),
        (ONE, "replicated", MIXED),
        (FOUR, "sharded", MIXED),
        (ONE, "replicated", HALF),
        (FOUR, "sharded", HALF),
    ],
    ids=said,
)
def test_no_temporary_or_copy_of_the_tables_size(mesh, placement, tables):
    engine = engine_on(mesh, placement, **tables)
    _, step = compiled(engine, 64)
    state = engine.abstract_state()
    smallest = min(
        array.dtype.itemsize * math.prod(array.sharding.shard_shape(array.shape))
        for array in table_arrays(engine, state)
    )
    memory = step.memory_analysis()
    assert memory.temp_size_in_bytes < smallest / 4
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < smallest / 4  # the state is updated in place
    assert table_copies(step.as_text(), engine, state) == 0


def test_dense_updates_do_make_table_sized_arrays():
    """So that the test above can fail."""
    engine = engine_on(ONE, update="dense")
    _, step = compiled(engine, 64)
    state = engine.abstract_state()
    assert step.memory_analysis().temp_size_in_bytes >= 4 * math.prod(state.table.shape)
    assert table_copies(step.as_text(), engine, state) > 0


@pytest.mark.parametrize("update", ["sparse", "dense"])
@pytest.mark.parametrize("mesh, placement", [(FOUR, "sharded"), (TWO_HOSTS, "sharded"), (FOUR, "replicated")], ids=said)
def test_the_first_state_is_made_within_each_devices_share(mesh, placement, update):
    """Table, and Adam's two slots or optax's two moments: temporaries and the network add no more than a hundredth."""
    engine = engine_on(mesh, placement, schema=make_schema((6_000_000, 4_000_000, 9)), update=update)
    state = 3 * 4 * engine.spec.padded_rows * engine.layout.width
    share = state / (4 if placement == "sharded" else 1)
    memory = engine.init.lower().compile().memory_analysis()
    assert share <= memory.output_size_in_bytes + memory.temp_size_in_bytes < 1.01 * share


BATCH, SLICE = 2_044, 43  # with 511 samples on each of four devices: numbers that divide the size of no other axis
QUICK = ("afm", "ffm", "deepfm")


def program(model, mesh, placement="replicated", cut=False):
    """The training step's; ``cut``: a device takes its samples by slices, whose size does not divide them."""
    with pytest.MonkeyPatch.context() as patch:
        if cut:
            patch.setattr("dist_fm.tables.lookup.slice_size", lambda samples, floats: SLICE)
        return Program(compiled(engine_on(mesh, placement, model, SMALL), BATCH)[1].as_text())


@functools.cache
def flops_of_one_device(model, cut):
    return program(model, ONE, cut=cut).flops()


def is_of_the_batch(one: Instruction) -> bool:
    """Whether what it returns has an axis of samples, by itself or flattened with others."""
    sizes = {size for shape in one.shapes for size in shape if size}
    return any(size % samples == 0 for size in sizes for samples in (BATCH // 4, SLICE))


def check_shared(model, placement, cut=False):
    one, four = flops_of_one_device(model, cut), program(model, FOUR, placement, cut)
    assert four.flops() <= 0.3 * one, (four.flops(), one)
    exchanged = four.collectives()
    assert exchanged, "four devices that exchange nothing do not train one model"
    for one in exchanged:
        assert not is_of_the_batch(one), one
    return four


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS]
)
def test_four_devices_share_the_work_and_exchange_nothing_of_the_batch(model, placement):
    check_shared(model, placement)


QUICK_CUT = {("afm", "replicated"), ("ffm", "sharded"), ("deepfm", "replicated"), ("deepfm", "sharded")}


@pytest.mark.parametrize(
    "model, placement",
    [
        pytest.param(name, placement, marks=() if (name, placement) in QUICK_CUT else pytest.mark.slow)
        for name in MODELS
        for placement in ("replicated", "sharded")
    ],
)
def test_slices_of_the_samples_share_the_work_and_exchange_nothing_by_slice(model, placement):
    four = check_shared(model, placement, cut=True)
    slices = [loop for loop in four.loops() if loop.trips >= BATCH // 4 // SLICE]
    assert len(slices) >= 2, "a step cuts its samples twice, there and back"
    for loop in slices:
        assert not {one.name for one in four.within(loop)} & {one.name for one in four.collectives()}


def test_samples_and_loops_that_travel_are_seen():
    """So that the tests above can fail."""
    mesh = engine_on(FOUR, schema=SMALL).mesh

    def gather_each(x):
        def add(total, part):
            return total + jax.lax.all_gather(part, SPLIT, tiled=True).sum(), None

        return jax.lax.scan(add, jnp.zeros(()), x.reshape(7, -1))[0]

    mapped = jax.jit(jax.shard_map(gather_each, mesh=mesh, in_specs=P(SPLIT), out_specs=P(), check_vma=False))
    found = Program(mapped.lower(jnp.zeros((7 * BATCH, 3))).compile().as_text())
    (gathered,) = found.collectives()
    (loop,) = found.loops()
    assert is_of_the_batch(gathered) and loop.trips == 7
    assert gathered in found.within(loop)


@pytest.mark.parametrize("model", ["deepfm", "ffm"])
def test_sharded_tables_exchange_unique_rows_and_the_network_alone(model):
    engine = engine_on(FOUR, "sharded", model)
    batch, step = compiled(engine, BATCH)
    rows = batch.unique.size * engine.spec.layout.width
    network = engine.parameters() - engine.spec.rows * engine.spec.layout.width
    exchanged = Program(step.as_text()).collectives()
    assert {one.op for one in exchanged} >= {"all-gather", "reduce-scatter"}
    for one in exchanged:
        assert sum(map(math.prod, one.shapes)) <= 2 * rows + network, one


def scatters(engine, sorts):
    """For each scatter of a step, whether it is said that no two of its numbers go to one place."""
    engine.lookup.sorts = sorts
    text = lowered(engine, 64)[1].as_text()
    return ["unique_indices = true" in line for line in text.splitlines() if '"stablehlo.scatter"' in line]


@pytest.mark.parametrize(
    "model, mesh, placement, tables",
    [
        ("deepfm", ONE, "replicated", {}),
        ("deepfm", ONE, "replicated", {"unique": "device"}),
        ("deepfm", ONE, "replicated", {"update": "dense"}),
        ("deepfm", TWO_HOSTS, "sharded", {}),
        *[
            pytest.param(name, FOUR, "sharded", {}, marks=() if name in (*QUICK, "xdeepfm") else pytest.mark.slow)
            for name in MODELS
        ],
    ],
    ids=said,
)
def test_the_way_of_gpus_scatters_to_distinct_places_alone(model, mesh, placement, tables):
    """Atomic additions to one place would come in another order at every run."""
    sorted_sums, added = (
        scatters(engine_on(mesh, placement, model, SMALL, **tables), sorts) for sorts in (True, False)
    )
    assert sorted_sums and all(sorted_sums)
    assert not all(added), "the CPU's way has duplicates: without them the test has lost its eyes"


def test_the_gpu_scatter_flag_is_in_force_when_the_backend_compiles(tmp_path):
    """XLA itself tells, in the options it writes beside a program."""
    script = "from dist_fm.parallel.mesh import start_devices; start_devices(1, 'cpu'); import jax; jax.jit(abs)(1.0)"
    env = {**os.environ, "XLA_FLAGS": f"--xla_dump_to={tmp_path}", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    subprocess.run([sys.executable, "-c", script], env=env, check=True, timeout=120)
    told = [path.read_text() for path in pathlib.Path(tmp_path).glob("*debug_options")]
    assert told
    assert all(GPU_SCATTER_FLAG.split("=-")[1] in options for options in told)

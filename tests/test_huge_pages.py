"""Large arrays of a state in huge pages, where they stay while steps overwrite them."""

import pathlib
import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import host_batch, make_config, make_schema

from dist_fm.parallel.huge_pages import PAGE, in_huge_pages
from dist_fm.parallel.mesh import make_mesh
from dist_fm.training.step import Engine

LINUX = tuple(map(int, platform.release().split(".")[:2])) if platform.system() == "Linux" else (0, 0)
CAN = LINUX >= (6, 1) and pathlib.Path("/sys/kernel/mm/transparent_hugepage").is_dir()
needs_linux = pytest.mark.skipif(not CAN, reason="needs Linux 6.1 with transparent huge pages")


def parts(array):
    return [shard.data for shard in array.addressable_shards]


def huge_bytes(part):
    """Bytes of huge pages in the mappings that an array on one device lies in."""
    first, found, inside = part.unsafe_buffer_pointer(), 0, False
    for line in pathlib.Path("/proc/self/smaps").read_text(encoding="ascii").splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            begin, end = (int(number, 16) for number in name.split("-"))
            inside = begin < first + part.nbytes and first < end
        elif inside and name == "AnonHugePages:":
            found += int(rest[0]) << 10
    return found


@needs_linux
@pytest.mark.parametrize("devices", [1, 4])
def test_large_arrays_move_and_small_ones_stay(devices):
    mesh = make_mesh(jax.devices()[:devices])
    lie = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
    large, small = (jax.device_put(jnp.arange(mb << 18, dtype=jnp.float32), lie) for mb in (64 * devices, 16 * devices))
    before = [part.unsafe_buffer_pointer() for part in parts(large)]
    moved = in_huge_pages({"large": large, "small": small})
    assert 0 <= large.nbytes - moved <= 2 * PAGE * devices  # an array need not begin or end where a huge page does
    assert all(huge_bytes(part) >= part.nbytes - 2 * PAGE for part in parts(large))
    assert before == [part.unsafe_buffer_pointer() for part in parts(large)]
    assert np.array_equal(large, np.arange(large.size, dtype=np.float32))
    assert in_huge_pages(small) == 0


@pytest.mark.parametrize("mesh, placement", [((1, 1), "replicated"), ((1, 4), "sharded")])
def test_steps_leave_the_table_and_its_slots_where_they_are(mesh, placement):
    schema, (hosts, devices) = make_schema((400, 300, 200)), mesh
    config = make_config("fm", sections={"tables": {"update": "sparse", "placement": placement, "optimizer": "adam"}})
    engine = Engine(config, schema, make_mesh(jax.devices()[: hosts * devices], hosts))
    state, at = engine.init(), []
    for step in range(3):
        batch = engine.place(engine.prepare(host_batch(schema, 32, 32, seed=step)))
        engine.eval_step(state, batch)
        arrays = [state.table, *jax.tree.leaves(state.slots)]
        at.append([part.unsafe_buffer_pointer() for array in arrays for part in parts(array)])
        state, _ = engine.train_step(state, batch)
    assert at[0] == at[1] == at[2]

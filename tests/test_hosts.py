"""Several hosts, which are processes here, joined by jax.distributed: found, agreeing, and giving the same answer."""

import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys

import hosts_worker
import numpy as np
import pytest

from dist_fm.errors import UserError
from dist_fm.models import MODELS
from dist_fm.parallel.hosts import ALONE, Hosts, find_hosts

HERE = pathlib.Path(__file__).parent
SLURM = {
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
KUBERNETES = {"JOB_COMPLETION_INDEX": "1", "DIST_FM_HOSTS": "2", "JAX_COORDINATOR_ADDRESS": "a-0-0.a:8476"}


@pytest.mark.parametrize(
    "environ, found",
    [
        ({}, ALONE),
        (SLURM, Hosts(4, 3, "Slurm", None, 1, 2)),
        ({**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, ALONE),
        ({key: value for key, value in SLURM.items() if "STEP" not in key}, ALONE),  # the batch script, outside srun
        ({**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:3"}, Hosts(2, 1, "Open MPI", None, 1, 2)),
        (OPEN_MPI, Hosts(2, 1, "Open MPI", "", 1, 2)),
        (KUBERNETES, Hosts(2, 1, "Kubernetes", "a-0-0.a:8476")),
        ({"JOB_COMPLETION_INDEX": "0"}, ALONE),
    ],
)
def test_launchers_are_found_by_themselves(environ, found):
    assert find_hosts(0, -1, "", environ) == found


def test_flags_go_before_the_launcher():
    assert find_hosts(2, 1, "h:1", {}) == Hosts(2, 1, "flags", "h:1")
    assert find_hosts(0, -1, "h:1", OPEN_MPI) == Hosts(2, 1, "Open MPI", "h:1", 1, 2)
    assert find_hosts(1, 0, "", {}) == ALONE


@pytest.mark.parametrize(
    "flags, words",
    [
        ((2, -1, ""), "--hosts=N, --host=0 to N-1 and --coordinator=ADDRESS:PORT"),
        ((0, 1, ""), "--hosts=N"),
        ((2, 2, "h:1"), "--host=2: must be from 0 to 1"),
        ((2, 1, "h"), "--coordinator=h: must be ADDRESS:PORT"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, words):
    with pytest.raises(UserError, match=words):
        find_hosts(*flags, {})


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def on_hosts(folder, hosts, devices, cases):
    """What hosts_worker.py finds on ``hosts`` processes of ``devices`` devices; one host is this process."""
    out, port = folder / f"{hosts}x{devices}.npz", free_port()
    if hosts == 1:
        hosts_worker.main(out, hosts, 0, port, devices, json.dumps(cases))
        return dict(np.load(out))
    command = lambda host: [out, hosts, host, port, devices, json.dumps(cases)]
    run = [sys.executable, str(HERE / "hosts_worker.py")]
    environ = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}"}
    environ.pop("JAX_NUM_CPU_DEVICES", None)
    started = [
        subprocess.Popen(
            [*run, *map(str, command(host))], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for host in range(hosts)
    ]
    said = [process.communicate()[0].decode() for process in started]
    assert all(process.returncode == 0 for process in started), said
    return dict(np.load(out))


def compare(folder, cases, meshes):
    one = on_hosts(folder, 1, 4, cases)
    for hosts, devices in meshes:
        found = on_hosts(folder, hosts, devices, cases)
        assert found.keys() == one.keys()
        for name, array in found.items():
            case = cases[int(name.split()[0])]
            if case["x64"]:
                np.testing.assert_allclose(array, one[name], rtol=1e-9, atol=1e-9, err_msg=f"{case} {name}")
            elif name.endswith("losses"):
                np.testing.assert_allclose(array, one[name], rtol=1e-5, err_msg=f"{case} {name}")


def case(model, update, placement, x64, steps):
    return {"model": model, "update": update, "placement": placement, "x64": x64, "steps": steps}


def test_two_hosts_give_the_answer_of_one(tmp_path):
    compare(tmp_path, [case("deepfm", "sparse", "sharded", True, 30)], [(2, 2)])


@pytest.mark.slow
def test_every_model_has_the_same_losses_on_one_two_and_four_hosts(tmp_path):
    cases = [case(model, "sparse", "sharded", x64, 20) for model in MODELS for x64 in (False, True)]
    compare(tmp_path, cases, [(2, 2), (4, 1)])


@pytest.mark.slow
def test_200_steps_give_the_same_tables_on_one_two_and_four_hosts(tmp_path):
    ways = itertools.product(("sparse", "dense"), ("sharded", "replicated"))
    compare(tmp_path, [case("deepfm", *way, True, 200) for way in ways], [(2, 2), (4, 1)])

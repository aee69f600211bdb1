"""Several hosts: found from flags or a launcher's environment, joined by jax.distributed, and agreeing on what to do.

A host is a process; launchers may start several of them on one machine. No host decides alone: what could differ
between hosts (files, clocks, signals) is the first host's word, or a maximum over all, sent to all.
"""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from dist_fm.errors import UserError

WORD_BYTES = 1 << 16  # the longest word of the first host
JOIN_S = 300  # how long hosts wait for each other at the start


@dataclasses.dataclass(frozen=True)
class Hosts:
    """How many hosts there are, which of them this is, and how they find each other."""

    count: int = 1
    host: int = 0
    launcher: str = ""  # Slurm, Open MPI, Kubernetes, flags, or what started jax.distributed before us
    coordinator: str | None = None  # ADDRESS:PORT of the first host; None: JAX reads the launcher's environment
    local: int = 0  # this host's number among those on its machine
    on_machine: int = 1  # and how many those are


ALONE = Hosts()


def find_hosts(count: int, host: int, coordinator: str, environ: Mapping[str, str] = os.environ) -> Hosts:
    """The hosts as flags say (``count`` 0, ``host`` -1, ``coordinator`` "": not given), else as a launcher does.

    Raises ``UserError`` for flags that do not fit together, and for a launcher that does not say where the first is.
    """
    found = _of_launcher(environ)
    if count == 0 and host < 0 and not coordinator:
        return found if found.count > 1 else ALONE
    hosts = dataclasses.replace(
        found,
        count=count or found.count,
        host=host if host >= 0 else found.host,
        coordinator=coordinator or found.coordinator,
        launcher=found.launcher or "flags",
    )
    if not found.launcher and (count == 0 or host < 0 or (not coordinator and count > 1)):
        raise UserError(
            "several hosts need all of --hosts=N, --host=0 to N-1 and --coordinator=ADDRESS:PORT of host 0 "
            f"(given: --hosts={count} --host={host} --coordinator={coordinator}); under Slurm, Open MPI and "
            "Kubernetes (launch/) they are found by themselves"
        )
    if not 0 <= hosts.host < hosts.count:
        raise UserError(f"--host={hosts.host}: must be from 0 to {hosts.count - 1}, as there are {hosts.count} hosts")
    if coordinator and not coordinator.rpartition(":")[2].isdigit():
        raise UserError(f"--coordinator={coordinator}: must be ADDRESS:PORT of host 0, as in 10.0.0.1:8476")
    return hosts if hosts.count > 1 else ALONE


def _of_launcher(environ: Mapping[str, str]) -> Hosts:
    number = lambda name, default=1: int(environ.get(name) or default)
    if "OMPI_COMM_WORLD_SIZE" in environ:  # before Slurm, within which mpirun may run
        # From version 5 on Open MPI does not say where the first process runs.
        known = "OMPI_MCA_orte_hnp_uri" in environ
        return Hosts(
            number("OMPI_COMM_WORLD_SIZE"),
            number("OMPI_COMM_WORLD_RANK", 0),
            "Open MPI",
            None if known else environ.get("JAX_COORDINATOR_ADDRESS", ""),
            number("OMPI_COMM_WORLD_LOCAL_RANK", 0),
            number("OMPI_COMM_WORLD_LOCAL_SIZE"),
        )
    if "SLURM_STEP_NODELIST" in environ and "SLURM_PROCID" in environ:  # in srun, not in the batch script itself
        tasks = environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(",")[0].partition("(")[0]
        local = number("SLURM_LOCALID", 0)
        return Hosts(number("SLURM_NTASKS"), number("SLURM_PROCID", 0), "Slurm", None, local, int(tasks))
    if "JOB_COMPLETION_INDEX" in environ and "DIST_FM_HOSTS" in environ:  # as launch/jobset.yaml sets them
        coordinator = environ.get("JAX_COORDINATOR_ADDRESS", "")
        return Hosts(number("DIST_FM_HOSTS"), number("JOB_COMPLETION_INDEX", 0), "Kubernetes", coordinator)
    return ALONE


def join_hosts(hosts: Hosts, *, devices: int = 0, gpus: int = 0, heartbeat_s: int = 60) -> Hosts:
    """Joins ``hosts`` by jax.distributed; must be called before anything touches a JAX backend.

    ``devices`` a host uses (0: all) of its machine's ``gpus``; where several hosts share a machine each takes its own.
    A host that is not heard of for ``heartbeat_s`` seconds ends all others. Returns the hosts as they are: where
    jax.distributed runs already, as started by others (Ray), its own.
    """
    if jax.distributed.is_initialized():
        return dataclasses.replace(
            hosts, count=jax.process_count(), host=jax.process_index(), launcher=hosts.launcher or "jax.distributed"
        )
    if hosts.count == 1:
        return hosts
    if hosts.coordinator == "":
        raise UserError(
            f"{hosts.launcher} does not say where its first process runs: give --coordinator=ADDRESS:PORT of it"
        )
    first = hosts.local * max(devices, 1) if hosts.on_machine > 1 else 0
    wanted = devices or (1 if hosts.on_machine > 1 else max(gpus, 1))
    if gpus and first + wanted > gpus:  # the launcher has given each process its own GPUs already
        first = 0
    # A signal to stop is sent round with the sizes of batches (dist_fm.training.feed), not by JAX's own service.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            hosts.coordinator,
            hosts.count,
            hosts.host,
            local_device_ids=range(first, first + wanted),
            initialization_timeout=JOIN_S,
            heartbeat_timeout_seconds=heartbeat_s,
            shutdown_timeout_seconds=heartbeat_s,
        )
    except ValueError as error:  # not RuntimeError: a host that comes too late is no mistake of the command
        where = hosts.coordinator or f"the address that {hosts.launcher} gives"
        raise UserError(f"host {hosts.host} of {hosts.count} could not join the others at {where}: {error}") from error
    return hosts


def is_first() -> bool:
    """Whether this host is the one that writes files and reports."""
    return jax.process_index() == 0


def say(text: str, file: TextIO | None = None) -> None:
    """Prints ``text`` once, however many hosts there are; ``file`` None: to stdout."""
    if is_first():
        print(text, file=file, flush=True)


def first_decides(function: Callable[[], Any]) -> Any:
    """``function()`` as the first host finds it, on every host; plain JSON. Its errors are ``UserError`` on all."""
    if jax.process_count() == 1:
        return function()
    word = np.zeros(WORD_BYTES, np.uint8)
    if is_first():
        try:
            said = {"value": function()}
        except (ValueError, OSError) as error:  # UserError, SchemaError and DataError among them
            said = {"error": str(error)}
        text = json.dumps(said).encode()
        if len(text) > WORD_BYTES:
            raise ValueError(f"a word of {len(text)} bytes, more than {WORD_BYTES}")
        word[: len(text)] = np.frombuffer(text, np.uint8)
    said = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(word))).rstrip(b"\0"))
    if "error" in said:
        raise UserError(said["error"])
    return said["value"]


def must_be_alike(about: Mapping[str, Any]) -> None:
    """Raises ``UserError`` on every host, naming the key, where a value of ``about`` is not the same on all."""
    if jax.process_count() == 1:
        return
    digests = np.stack(
        [np.frombuffer(hashlib.sha256(repr(x).encode()).digest()[:8], np.uint32) for x in about.values()]
    )
    everyone = np.asarray(multihost_utils.process_allgather(digests))
    for key, found in zip(about, everyone.swapaxes(0, 1), strict=True):
        differ = [host for host, digest in enumerate(found) if (digest != found[0]).any()]
        if differ:
            raise UserError(
                f"hosts 0 and {differ[0]} differ in {key} (here: {about[key]}): every host needs the same command, "
                "and the same data set under its --data"
            )


def least(number: int) -> int:
    """The smallest ``number``, a whole one from 0 to 2^64, that any host brings."""
    if jax.process_count() == 1:
        return number
    halves = np.array([number >> 32, number & 0xFFFFFFFF], np.uint32)  # JAX would cut an int64
    return min(high << 32 | low for high, low in np.asarray(multihost_utils.process_allgather(halves)).tolist())


def leave_at_once(code: int) -> NoReturn:
    """Ends this process without waiting for other hosts, as an ordinary exit of a joined process would do for ever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

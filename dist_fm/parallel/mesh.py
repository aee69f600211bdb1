"""The mesh: axes ("host", "device"), the batch split over both; and the choice of platform before JAX starts."""

import glob
import os
import shutil
import subprocess
import warnings

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dist_fm.errors import UserError
from dist_fm.parallel.hosts import ALONE, Hosts, join_hosts
from dist_fm.parallel.memory import keep_freed_memory

BATCH = ("host", "device")
# jaxlib 0.10 and 0.11 compile a float32 scatter-add with duplicates to a compare-and-swap loop on NVIDIA GPUs, hundreds
# of times slower (openxla/xla#46225); this flag brings the atomic add back. It must be set before the backend starts.
GPU_SCATTER_FLAG = "--xla_backend_extra_options=-nvptx-allow-ftz-atomics"


def start_devices(
    devices: int, platform: str = "auto", hosts: Hosts = ALONE, heartbeat_s: int = 60
) -> list[jax.Device]:
    """Chooses the platform, makes CPU devices where there is no GPU, joins other ``hosts``, returns this one's devices.

    ``devices`` is the number wanted, 0 for all. Must be called before anything else touches a JAX backend. Raises
    ``UserError`` when there are fewer GPUs than asked, or an NVIDIA GPU that this JAX installation cannot drive.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    too_late = GPU_SCATTER_FLAG not in flags and _backend_started()
    if GPU_SCATTER_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {GPU_SCATTER_FLAG}".strip()
    keep_freed_memory()
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
    if devices and not _backend_started():
        jax.config.update("jax_num_cpu_devices", devices)
    join_hosts(hosts, devices=devices, gpus=0 if platform == "cpu" else _visible_gpus(), heartbeat_s=heartbeat_s)
    found = jax.local_devices()
    on_cpu = found[0].platform == "cpu"
    if platform != "cpu" and on_cpu:
        _refuse_unused_gpu(platform)
    if too_late and not on_cpu:
        warnings.warn(
            f"JAX was started before dist_fm could set {GPU_SCATTER_FLAG}: some sums on the GPU are hundreds of times "
            "slower; put it into XLA_FLAGS, or use dist_fm first",
            stacklevel=2,
        )
    if devices > len(found):
        kind = "CPU devices, and JAX was already started with them" if on_cpu else "GPUs"
        raise UserError(
            f"--devices={devices}: this machine has {len(found)} {kind}; use --devices={len(found)} or less"
            + ("" if on_cpu else f", or --platform=cpu for {devices} virtual CPU devices")
        )
    return found[: devices or len(found)]


def _backend_started() -> bool:
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def _refuse_unused_gpu(platform: str) -> None:
    names = nvidia_gpus()
    if names:
        cuda = "cuda13" if _cuda_major() >= 13 else "cuda12"
        raise UserError(
            f"this machine has {len(names)} x {names[0]}, but JAX has no GPU backend: install the extra "
            f"`pip install 'dist-fm[{cuda}]'`, or run on the CPU with --platform=cpu"
        )
    if platform == "gpu":
        raise UserError("--platform=gpu: no NVIDIA GPU was found; use --platform=cpu")


def nvidia_gpus() -> list[str]:
    """Names of the NVIDIA GPUs the driver shows, whether or not JAX can use them."""
    if shutil.which("nvidia-smi"):
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
        )
        if answer.returncode == 0:
            return [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return ["NVIDIA GPU" for _ in glob.glob("/dev/nvidia[0-9]*")]


def _visible_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(nvidia_gpus()) if visible is None else len([one for one in visible.split(",") if one.strip()])


def _cuda_major() -> int:
    if not shutil.which("nvidia-smi"):
        return 12
    answer = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
    _, _, after = answer.stdout.partition("CUDA Version:")
    return int(after.split(".")[0]) if after.strip()[:1].isdigit() else 12


def make_mesh(devices: list[jax.Device], hosts: int = 1) -> Mesh:
    """A mesh of ``hosts`` x (devices / hosts); of all hosts' first ``len(devices)`` where several processes joined.

    Raises ``UserError`` when a host has fewer.
    """
    if jax.process_count() > 1:
        hosts, each = jax.process_count(), len(devices)
        by_host = [[one for one in jax.devices() if one.process_index == host] for host in range(hosts)]
        few = [host for host, found in enumerate(by_host) if len(found) < each]
        if few:
            raise UserError(f"host {few[0]} has {len(by_host[few[0]])} devices, this one {each}: give all --devices=N")
        devices = [one for found in by_host for one in found[:each]]
    grid = np.array(devices).reshape(hosts, -1)
    return Mesh(grid, BATCH, axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def split_by_sample(mesh: Mesh) -> NamedSharding:
    """The leading axis cut over all devices."""
    return NamedSharding(mesh, P(BATCH))


def describe(mesh: Mesh) -> str:
    """`4 x CPU (virtual)`, `2 x NVIDIA H100 ...`, `2 hosts of 4 x NVIDIA H100 ...`."""
    device, (hosts, each) = mesh.devices.flat[0], mesh.devices.shape
    kind = device.device_kind
    if device.platform == "cpu":
        kind = "CPU" + (" (virtual)" if each > 1 else "")
    return f"{each} x {kind}" if hosts == 1 else f"{hosts} hosts of {each} x {kind}"

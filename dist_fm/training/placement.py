"""What the table needs and what the devices have: dense or sparse updates, replicated or sharded rows."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from dist_fm import hashing
from dist_fm.config import Config
from dist_fm.data.schema import Schema
from dist_fm.errors import UserError
from dist_fm.models import MODELS, get_model
from dist_fm.tables.optimizers import TableOptimizer
from dist_fm.tables.spec import RowLayout, TableSpec

DENSE_BELOW_BYTES = 256 << 20
SHARD_ABOVE = 1 / 3  # of a device's memory: table and slots beside a step's own arrays and a checkpoint being written
GIB = 1 << 30


def table_spec(config: Config, schema: Schema, dtype: Any) -> TableSpec:
    """The table of ``config``'s model over ``schema``; ``tables.dtype`` bfloat16 overrides ``dtype``."""
    model_class = get_model(config.model_name)
    unpooled = [field.name for field in schema.fields if not field.is_pooled]
    if unpooled and not model_class.takes_slots:
        able = ", ".join(name for name, model in MODELS.items() if model.takes_slots)
        raise UserError(
            f"model {config.model_name} cannot take field {unpooled[0]!r} of data set {schema.name!r}: its entries are "
            f"not pooled (pool = none), which {able} can take; or build the data with pool = sum"
        )
    if schema.num_inputs < model_class.min_fields:
        raise UserError(
            f"model {config.model_name} needs {model_class.min_fields} fields or more; "
            f"data set {schema.name!r} has {schema.num_inputs}"
        )
    model = abstract_model(config, schema)
    stored = jnp.bfloat16 if config.tables.dtype == "bfloat16" else dtype
    return TableSpec(schema.num_rows, RowLayout(model.columns(schema)), stored)


def abstract_model(config: Config, schema: Schema) -> Any:
    """The model of ``config`` over ``schema``, with shapes and types for arrays."""
    model_class = get_model(config.model_name)
    return nnx.eval_shape(lambda: model_class(config.model, schema, rngs=hashing.Keys(hashing.key(0))))


def choose_update(config: Config, schema: Schema) -> str:
    """What ``tables.update = auto`` means: ``dense`` while float32 rows with Adam's slots are few, else ``sparse``."""
    if config.tables.dtype == "bfloat16":
        return "sparse"
    spec = table_spec(config, schema, jnp.float32)
    return "dense" if spec.padded_rows * spec.layout.width * 4 * 3 < DENSE_BELOW_BYTES else "sparse"


def is_sharded(config: Config, spec: TableSpec, optimizer: TableOptimizer | None, mesh: Mesh) -> bool:
    """Settles ``tables.placement``; raises ``UserError`` for one that cannot be, or a table that does not fit."""
    placement, devices = config.tables.placement, mesh.size
    if placement == "sharded" and devices == 1:
        raise UserError(
            "--tables.placement=sharded spreads the table over several devices, but there is one: "
            "give --devices=2 or more, or --tables.placement=replicated"
        )
    needed, free = state_bytes(spec, optimizer), memory_per_device(mesh)
    sharded = placement == "sharded" or (placement == "auto" and devices > 1 and needed > SHARD_ABOVE * free)
    if sharded and spec.padded_rows % devices:
        fitting = [n for n in range(2, 65) if spec.padded_rows % n == 0]
        raise UserError(
            f"--devices={devices} does not divide the table's {spec.padded_rows:,} rows (padding included): "
            f"sharded tables take {', '.join(map(str, fitting))} devices"
        )
    share = needed / devices if sharded else needed
    if share > free:
        raise UserError(_too_large(config, spec, optimizer, mesh, sharded))
    return sharded


def is_unique_in_step(config: Config, mesh: Mesh) -> bool:
    """Settles ``tables.unique``; raises ``UserError`` for ``device`` with several of them."""
    if config.tables.unique == "device" and mesh.size > 1:
        raise UserError(
            f"--tables.unique=device has the step make a batch's unique ids on one device, but there are {mesh.size}: "
            "give --tables.unique=host, or --devices=1"
        )
    # On a CPU (measured: DeepFM, Criteo's sizes, batch 2,048) a step takes 75 ms with them, not 17: XLA sorts slowly
    # there. On a GPU (not measured) it sorts by radix, and threads take 1 ms of a core for each 1,600 samples.
    on_gpu = mesh.size == 1 and mesh.devices.flat[0].platform != "cpu"
    return config.tables.unique == "device" or (config.tables.unique == "auto" and on_gpu)


def state_bytes(spec: TableSpec, optimizer: TableOptimizer | None) -> int:
    """Bytes of table and optimizer state; dense optimizers are taken to keep two numbers a weight, as Adam does."""
    row = spec.layout.width * np.dtype(spec.dtype).itemsize
    row += 4 * (2 * spec.layout.width if optimizer is None else optimizer.width)
    return spec.padded_rows * row


def memory_per_device(mesh: Mesh) -> int:
    """Bytes a device has; virtual CPU devices share the host's (or the container's) memory evenly."""
    device = mesh.devices.flat[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    local = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)
    return host_memory() // max(local, 1)


def host_memory() -> int:
    """Bytes of memory of this machine, or of its container where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(file, encoding="ascii") as limit:
                total = min(total, int(limit.read()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return total


def _too_large(config: Config, spec: TableSpec, optimizer: TableOptimizer | None, mesh: Mesh, sharded: bool) -> str:
    needed, free = state_bytes(spec, optimizer), memory_per_device(mesh)
    share = needed / mesh.size if sharded else needed
    ways = []
    if not sharded and mesh.size > 1 and needed / mesh.size <= free:
        ways.append("--tables.placement=sharded")
    if mesh.devices.flat[0].platform != "cpu" or not sharded:
        ways.append(f"{-(-needed // free)} or more devices with --tables.placement=sharded")
    if optimizer is None:
        ways.append("--tables.update=sparse --tables.optimizer=rowwise_adagrad")
    elif optimizer.width > len(spec.layout.columns):
        ways.append("--tables.optimizer=rowwise_adagrad")
    if config.tables.dtype == "float32":
        ways.append("--tables.dtype=bfloat16")
    ways.append("a smaller --embed_dim, or a larger --min_count when the data is built")
    return (
        f"the table cannot fit: {spec.padded_rows:,} rows x {spec.layout.width} numbers and their optimizer slots need "
        f"{needed / GIB:.2f} GiB ({share / GIB:.2f} GiB a device), a device has {free / GIB:.2f} GiB; "
        f"what would help: {'; '.join(ways)}"
    )

"""What the table needs and what the devices have: dense or sparse updates, replicated or sharded rows."""

import dataclasses
import math
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
from dist_fm.parallel.hosts import least
from dist_fm.tables.optimizers import TableOptimizer
from dist_fm.tables.spec import RowLayout, TableSpec
from dist_fm.training.optimizer import make_optimizer, make_table_optimizer, sparse_alone

DENSE_BELOW = 256 << 20  # bytes
LARGEST_BATCH = 1 << 24  # slots: ids from the table's end on stand for a batch's empty ones
SHARD_ABOVE = 1 / 3  # of a device's memory: table and slots beside a step's own arrays and a checkpoint being written


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
    spec = TableSpec(schema.num_rows, RowLayout(model.columns(schema)), _stored(config, dtype))
    if spec.padded_rows + LARGEST_BATCH > 2**31:
        raise UserError(
            f"data set {schema.name!r} has {schema.num_rows:,} table rows; 32 bits count {2**31 - LARGEST_BATCH:,} "
            "and a batch's: build it with a larger --min_count, or with hashed fields of fewer rows"
        )
    return spec


def _stored(config: Config, dtype: Any) -> Any:
    return jnp.bfloat16 if config.tables.dtype == "bfloat16" else dtype


def abstract_model(config: Config, schema: Schema) -> Any:
    """The model of ``config`` over ``schema``, with shapes and types for arrays."""
    model_class = get_model(config.model_name)
    return nnx.eval_shape(lambda: model_class(config.model, schema, rngs=hashing.Keys(hashing.key(0))))


def choose_update(config: Config, schema: Schema) -> str:
    """What ``tables.update = auto`` means: ``dense`` while rows and slots are small and no setting needs ``sparse``."""
    if sparse_alone(config.tables):
        return "sparse"
    return "dense" if state_bytes(config, table_spec(config, schema, jnp.float32), None) < DENSE_BELOW else "sparse"


def is_sharded(config: Config, spec: TableSpec, optimizer: TableOptimizer | None, mesh: Mesh) -> bool:
    """Settles ``tables.placement``; raises ``UserError`` for one that cannot be, or a table that does not fit."""
    placement, devices = config.tables.placement, mesh.size
    if placement == "sharded" and devices == 1:
        raise UserError(
            "--tables.placement=sharded spreads the table over several devices, but there is one: "
            "give --devices=2 or more, or --tables.placement=replicated"
        )
    # Hosts may have more memory or less, but must compile the same step.
    needed, free = state_bytes(config, spec, optimizer), least(memory_per_device(mesh))
    sharded = placement == "sharded" or (placement == "auto" and devices > 1 and needed > SHARD_ABOVE * free)
    if sharded and spec.padded_rows % devices:
        fitting = [n for n in range(2, 65) if spec.padded_rows % n == 0]
        raise UserError(
            f"--devices={devices} does not divide the table's {spec.padded_rows:,} rows (padding included): "
            f"sharded tables take {', '.join(map(str, fitting))} devices"
        )
    if needed > free * (devices if sharded else 1):
        raise UserError(_too_large(config, spec, optimizer, mesh, free, sharded))
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


def state_bytes(config: Config, spec: TableSpec, optimizer: TableOptimizer | None) -> int:
    """Bytes of the table and its slots: those of ``optimizer``, or, where that is None, of the network's, dense."""
    table = jax.ShapeDtypeStruct((spec.padded_rows, spec.layout.width), spec.dtype)
    if optimizer is not None:
        return _bytes(table) + spec.padded_rows * optimizer.width * 4
    slots = jax.eval_shape(make_optimizer(config.optimizer).init, {"table": table})
    return sum(map(_bytes, jax.tree.leaves([table, slots])))


def _bytes(array: jax.ShapeDtypeStruct) -> int:
    return math.prod(array.shape) * np.dtype(array.dtype).itemsize


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


def _too_large(
    config: Config, spec: TableSpec, optimizer: TableOptimizer | None, mesh: Mesh, free: int, sharded: bool
) -> str:
    """What does not fit, and which settings would make it fit."""
    needed, shares = state_bytes(config, spec, optimizer), mesh.size if sharded else 1
    ways = []
    # More devices of a CPU share the same memory; more hosts bring their own.
    kind, each = ("hosts", mesh.devices.shape[1]) if mesh.devices.flat[0].platform == "cpu" else ("devices", 1)
    counts = (n for n in range(1, 4097) if needed <= free * n * each and spec.padded_rows % (n * each) == 0)
    if not sharded and needed <= free * mesh.size and spec.padded_rows % mesh.size == 0:
        ways.append("--tables.placement=sharded")
    elif count := next(counts, None):
        ways.append(f"{count} {kind} with --tables.placement=sharded")

    def fits(change: dict[str, Any]) -> bool:
        changed = dataclasses.replace(config, tables=dataclasses.replace(config.tables, update="sparse", **change))
        stored = dataclasses.replace(spec, dtype=_stored(changed, spec.dtype))
        return state_bytes(changed, stored, make_table_optimizer(changed, spec.layout)) <= free * shares

    lean: dict[str, Any]
    lean, half = {"optimizer": "rowwise_adagrad"}, {"dtype": "bfloat16"}
    update = {} if optimizer else {"update": "sparse"}
    alone = [change for change in (lean, *([half] if optimizer else [])) if fits(change)]
    for change in alone or [both for both in [lean | half] if fits(both)]:
        ways.append(" ".join(f"--tables.{key}={value}" for key, value in (update | change).items()))
    ways.append("a smaller --embed_dim, or a larger --min_count when the data is built")
    return (
        f"the table cannot fit: {spec.padded_rows:,} rows x {spec.layout.width} numbers and their optimizer slots need "
        f"{_size(needed)} ({_size(needed // shares)} a device), a device has {_size(free)}; "
        f"what would help: {'; '.join(ways)}"
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.2f} GiB" if num_bytes >= 1 << 27 else f"{num_bytes / (1 << 20):.2f} MiB"

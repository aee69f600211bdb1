"""What a model is made of, and what it takes, as text: table columns, optimizer slots, layers. Nothing is allocated."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dist_fm import hashing
from dist_fm.config import Config
from dist_fm.data.schema import Schema
from dist_fm.tables.optimizers import ROW_OPTIMIZERS, TableOptimizer
from dist_fm.tables.spec import TableSpec
from dist_fm.training.optimizer import make_optimizer, make_table_optimizer, weights_mask
from dist_fm.training.placement import abstract_model, table_spec
from dist_fm.training.state import network_of

_DRAWN_ROWS = 4096  # that a column's first spread is taken from


class Array(NamedTuple):
    """An array of the state, by name."""

    name: str
    shape: tuple[int, ...]
    dtype: Any

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize


class Layer(NamedTuple):
    """A module that holds arrays itself: ``parameters`` are trained, ``statistics`` are BatchNorm's."""

    path: str
    kind: str
    parameters: list[Array]
    statistics: list[Array]


class Sizes(NamedTuple):
    """The table with its slots (of all rows, padding included), and the network with its."""

    table: TableSpec
    rule: TableOptimizer | None  # None where updates are dense
    table_slots: list[Array]
    layers: list[Layer]
    network_slots: list[Array]

    @property
    def network(self) -> int:
        """Trained numbers of the network."""
        return sum(array.size for layer in self.layers for array in layer.parameters)

    @property
    def parameters(self) -> int:
        """Trained numbers: the table's true rows and the network."""
        return self.table.rows * self.table.layout.width + self.network


def measure(config: Config, schema: Schema) -> Sizes:
    """The sizes of ``config``'s model over ``schema``; ``tables.update`` must be settled."""
    spec = table_spec(config, schema, jnp.float32)
    rule = make_table_optimizer(config, spec.layout)
    model = abstract_model(config, schema)
    by_optax: dict[str, Any] = {"network": network_of(model)[0]}
    slots = []
    if rule is None:
        by_optax["table"] = jax.ShapeDtypeStruct((spec.padded_rows, spec.layout.width), spec.dtype)
    else:
        slots = [Array(name, (spec.padded_rows, width), jnp.float32) for name, (width, _) in rule.slots.items()]
    optax_slots = list(_optax_slots(jax.eval_shape(make_optimizer(config.optimizer).init, by_optax)))
    slots += [array for part, array in optax_slots if part == "table"]
    return Sizes(spec, rule, slots, list(_layers(model)), [array for part, array in optax_slots if part == "network"])


def _optax_slots(state: Any) -> Iterator[tuple[str, Array]]:
    """The arrays of an optax state that go with the ``table`` or the ``network``, named as optax does: mu, nu."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        keys = [getattr(key, "key", None) for key in path]
        names = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
        for part in ("table", "network"):
            if part in keys:
                yield part, Array(names[0] if names else "slot", leaf.shape, leaf.dtype)


def _layers(model: nnx.Module) -> Iterator[Layer]:
    kinds = {path: type(module).__name__ for path, module in nnx.iter_modules(model)}
    found: dict[tuple, tuple[list[Array], list[Array]]] = {}
    for at, kind in enumerate((nnx.Param, nnx.BatchStat)):
        for path, variable in nnx.to_flat_state(nnx.state(model, kind)):
            array = Array(str(path[-1]), variable.shape, variable.dtype)
            found.setdefault(path[:-1], ([], []))[at].append(array)
    for path, arrays in found.items():
        yield Layer(".".join(map(str, path)) or "(model)", kinds[path], *arrays)


def describe(config: Config, schema: Schema) -> str:
    """Tables of the columns, slots and layers of ``config``'s model over ``schema``, and their totals."""
    sizes = measure(config, schema)
    spec, update = sizes.table, config.tables.update
    l2 = lambda factor: f"{factor:g}" if factor else "-"
    columns = [
        (
            *(name, spec.rows, column.width, spec.rows * column.width, np.dtype(spec.dtype).name),
            *(_bytes(spec, column.width), f"{_first_spread(column):.2g}", l2(config.optimizer.l2_embedding)),
            config.optimizer.name if sizes.rule is None else _rule_name(sizes.rule, name),
        )
        for name, column in spec.layout.columns.items()
    ]
    slots = [(slot.name, *slot.shape, np.dtype(slot.dtype).name, slot.num_bytes) for slot in sizes.table_slots]
    layers = [
        (
            *(layer.path, layer.kind, _shapes([*layer.parameters, *layer.statistics])),
            *(sum(array.size for array in arrays) for arrays in (layer.parameters, layer.statistics)),
            l2(config.optimizer.l2_network if any(_is_weight(array) for array in layer.parameters) else 0),
        )
        for layer in sizes.layers
    ]
    physical = Array("table", (spec.padded_rows, spec.layout.width), spec.dtype)
    arrays = [array for layer in sizes.layers for array in (*layer.parameters, *layer.statistics)]
    totals = [
        ("table", spec.rows * spec.layout.width, physical.num_bytes),
        ("its optimizer slots", "", _total_bytes(sizes.table_slots)),
        ("network", sizes.network, _total_bytes(arrays)),
        ("its optimizer slots", "", _total_bytes(sizes.network_slots)),
    ]
    whole = ("all", sizes.parameters, sum(total for *_, total in totals))
    names = ("column", "rows", "width", "parameters", "dtype", "bytes", "first std", "L2", "updated by")
    parts = [
        f"{config.model_name} over data set {schema.name}: {schema.num_fields} fields, {schema.num_rows:,} table rows",
        f"columns of the table, {update} updates ({spec.padded_rows:,} rows with padding)\n" + _table(names, columns),
        "optimizer slots of the table\n" + _table(("slot", "rows", "width", "dtype", "bytes"), slots) if slots else "",
        "network\n" + _table(("layer", "kind", "arrays", "parameters", "statistics", "L2"), layers) if layers else "",
        "in all\n" + _table(("", "parameters", "bytes"), [*totals, whole]),
    ]
    return "\n\n".join(filter(None, parts))


def _rule_name(optimizer: TableOptimizer, column: str) -> str:
    kind = type(optimizer.rules[column].optimizer)
    return next(name for name, found in ROW_OPTIMIZERS.items() if found is kind)


def _bytes(spec: TableSpec, width: int) -> int:
    return spec.rows * width * np.dtype(spec.dtype).itemsize


def _total_bytes(arrays: Iterable[Array]) -> int:
    return sum(array.num_bytes for array in arrays)


def _first_spread(column: Any) -> float:
    """The standard deviation of a column's first values, of some that are drawn."""
    return float(column.init(hashing.key(0), (_DRAWN_ROWS, column.width), jnp.float32).std())


def _is_weight(array: Array) -> bool:
    return weights_mask(jax.ShapeDtypeStruct(array.shape, array.dtype))


def _shapes(arrays: Iterable[Array]) -> str:
    return ", ".join(f"{array.name} {list(array.shape)}" for array in arrays)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns in line, numbers to the right."""
    texts = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in [header, *texts]) for at in range(len(header))]
    right = [all(text[at][:1].isdigit() or text[at] in ("", "-") for text in texts) for at in range(len(header))]
    put = [str.rjust if to_right else str.ljust for to_right in right]
    lines = [[to(cell, width) for to, cell, width in zip(put, row, widths, strict=True)] for row in [header, *texts]]
    return "\n".join("  " + "  ".join(line).rstrip() for line in lines)

"""Row optimizers: one update of the table rows a batch touched, after every duplicate's gradient has been summed.

A rule is elementwise, or per row, over one column: ``rows`` and ``gradient`` [U, w], its slots [U, w] (or [U, 1] where
row-wise). A row that no sample touched is not passed, and keeps its values and slots (the "exact" semantics of FBGEMM).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from dist_fm.errors import UserError, nearest
from dist_fm.tables.spec import RowLayout

Slots = dict[str, jax.Array]


class RowOptimizer(Protocol):
    def slots(self, width: int) -> dict[str, tuple[int, float]]:
        """Width and first value of each slot of a column of ``width`` floats."""
        ...

    def update(
        self, rows: jax.Array, gradient: jax.Array, slots: Slots, lr: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Slots]:
        """New rows and slots; ``step`` counts from 0."""
        ...


@dataclasses.dataclass(frozen=True)
class SGD:
    """w <- w - lr g."""

    def slots(self, width):
        return {}

    def update(self, rows, gradient, slots, lr, step):
        return rows - lr * gradient, {}


@dataclasses.dataclass(frozen=True)
class Adagrad:
    """s <- s + g^2; w <- w - lr g / sqrt(s + eps) (Duchi et al. 2011; optax's form)."""

    initial_accumulator: float = 0.1
    eps: float = 1e-7

    def slots(self, width):
        return {"sum": (width, self.initial_accumulator)}

    def update(self, rows, gradient, slots, lr, step):
        total = slots["sum"] + jnp.square(gradient)
        scale = jnp.where(total > 0, jax.lax.rsqrt(total + self.eps), 0)
        return rows - lr * gradient * scale, {"sum": total}


@dataclasses.dataclass(frozen=True)
class RowwiseAdagrad:
    """s <- s + mean over the row of g^2; w <- w - lr g / (sqrt(s) + eps): one number of state a row and column.

    FBGEMM's EXACT_ROWWISE_ADAGRAD, whose rows are one column.
    """

    initial_accumulator: float = 0.0
    eps: float = 1e-8

    def slots(self, width):
        return {"sum": (1, self.initial_accumulator)}

    def update(self, rows, gradient, slots, lr, step):
        total = slots["sum"] + jnp.square(gradient).mean(axis=1, keepdims=True)
        return rows - lr * gradient / (jnp.sqrt(total) + self.eps), {"sum": total}


@dataclasses.dataclass(frozen=True)
class Adam:
    """Lazy Adam: moments of a touched row alone move; bias is corrected by the global step (torch's SparseAdam).

    m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; w <- w - lr m' / (sqrt(v') + eps), m' = m / (1 - b1^t).
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def slots(self, width):
        return {"m": (width, 0.0), "v": (width, 0.0)}

    def update(self, rows, gradient, slots, lr, step):
        m = self.b1 * slots["m"] + (1 - self.b1) * gradient
        v = self.b2 * slots["v"] + (1 - self.b2) * jnp.square(gradient)
        t = (step + 1).astype(gradient.dtype)
        m_scale, v_scale = 1 / (1 - self.b1**t), 1 / (1 - self.b2**t)
        return rows - lr * (m * m_scale) / (jnp.sqrt(v * v_scale) + self.eps), {"m": m, "v": v}


@dataclasses.dataclass(frozen=True)
class FTRL:
    """FTRL-Proximal, per coordinate (McMahan et al. 2013, algorithm 1): l1 makes rarely useful weights exactly zero."""

    l1: float = 0.0
    l2: float = 0.0
    beta: float = 1.0

    def slots(self, width):
        return {"z": (width, 0.0), "n": (width, 0.0)}

    def update(self, rows, gradient, slots, lr, step):
        n = slots["n"] + jnp.square(gradient)
        sigma = (jnp.sqrt(n) - jnp.sqrt(slots["n"])) / lr
        z = slots["z"] + gradient - sigma * rows
        shrunk = -(z - jnp.sign(z) * self.l1) / ((self.beta + jnp.sqrt(n)) / lr + self.l2)
        return jnp.where(jnp.abs(z) <= self.l1, 0, shrunk), {"z": z, "n": n}


ROW_OPTIMIZERS: dict[str, type[Any]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "rowwise_adagrad": RowwiseAdagrad,
    "adam": Adam,
    "ftrl": FTRL,
}


@dataclasses.dataclass(frozen=True)
class ColumnRule:
    """What updates a column, and how its learning rate compares with the table's."""

    optimizer: RowOptimizer
    lr_factor: float = 1.0


def parse_rule(text: str, base_lr: float, defaults: Mapping[str, float], where: str) -> ColumnRule:
    """The rule ``NAME[:KEY=VALUE ...]``; ``lr`` is a key of every rule. ``defaults`` it does not know are left out.

    Raises ``UserError`` naming ``where`` for a name, key or number that is none.
    """
    name, *pairs = text.split(":")
    known = _settings(name, where)
    settings = {key: value for key, value in defaults.items() if key in known}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            settings[key] = float(value)
        except ValueError as error:
            raise UserError(f"{where}={text}: {key}={value!r} is not a number") from error
    lr = settings.pop("lr", base_lr)
    for key in settings:
        if key not in known:
            raise UserError(f"{where}={text}: {name} has no {key!r}; {nearest(key, ['lr', *known])}")
    return ColumnRule(ROW_OPTIMIZERS[name](**settings), lr / base_lr)


def _settings(name: str, where: str) -> list[str]:
    if name not in ROW_OPTIMIZERS:
        raise UserError(f"{where}={name}: not a row optimizer; {nearest(name, ROW_OPTIMIZERS)}")
    return [field.name for field in dataclasses.fields(ROW_OPTIMIZERS[name])]


@dataclasses.dataclass(frozen=True)
class TableOptimizer:
    """A rule for every column of a table; all slots of a row lie together, [R', S], in the order of the columns."""

    layout: RowLayout
    rules: Mapping[str, ColumnRule]

    @property
    def slot_slices(self) -> dict[tuple[str, str], slice]:
        """Where slot (column, name) lies in a row of slots."""
        slices, start = {}, 0
        for column, about in self.layout.columns.items():
            for name, (width, _) in self.rules[column].optimizer.slots(about.width).items():
                slices[column, name] = slice(start, start + width)
                start += width
        return slices

    @property
    def width(self) -> int:
        """Slot floats a row."""
        return max((part.stop for part in self.slot_slices.values()), default=0)

    def init(self, rows: int, dtype: Any) -> jax.Array | None:
        """First slots [rows, S]; None when no rule has any."""
        values = [
            jnp.full((rows, width), value, dtype)
            for column, about in self.layout.columns.items()
            for width, value in self.rules[column].optimizer.slots(about.width).values()
        ]
        return jnp.concatenate(values, axis=1) if values else None

    def update(
        self, rows: jax.Array, gradient: jax.Array, slots: jax.Array | None, lr: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        """New rows [U, W] and slots [U, S] (None if there are none) from summed gradients [U, W]."""
        parts, where = self.layout.slices, self.slot_slices
        new_rows, new_slots = [], []
        for column, rule in ((name, self.rules[name]) for name in self.layout.columns):
            own = {}
            if slots is not None:
                own = {name: slots[:, part] for (owner, name), part in where.items() if owner == column}
            part = parts[column]
            rate = lr * rule.lr_factor
            updated, own = rule.optimizer.update(rows[:, part], gradient[:, part], own, rate, step)
            new_rows.append(updated)
            new_slots += [own[name] for owner, name in where if owner == column]
        return jnp.concatenate(new_rows, axis=1), jnp.concatenate(new_slots, axis=1) if new_slots else None

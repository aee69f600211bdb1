"""Row optimizers: one update of the table rows a batch touched, after every duplicate's gradient has been summed.

Each column of a table has a rule (``dist_fm/tables/rules.py``), a learning rate and, if asked, a bound on its norm.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dist_fm.errors import UserError, nearest
from dist_fm.tables.rules import POSITIVE, ROW_OPTIMIZERS, Allowed, RowOptimizer, allowed_settings
from dist_fm.tables.spec import RowLayout


@dataclasses.dataclass(frozen=True)
class ColumnRule:
    """What updates a column, how its learning rate compares with the table's, and its largest norm (0: any)."""

    optimizer: RowOptimizer
    lr_factor: float = 1.0
    max_norm: float = 0.0


def parse_rule(text: str, base_lr: float, defaults: Mapping[str, float], where: str) -> ColumnRule:
    """The rule ``NAME[:KEY=VALUE ...]``; ``lr`` and ``max_norm`` are keys of every rule.

    ``defaults`` are the settings given as ``--optimizer.KEY``; those the rule does not have are left out.
    Raises ``UserError`` naming ``where`` for a name or key that is none, and for a value that is not allowed.
    """
    name, *pairs = text.split(":")
    if name not in ROW_OPTIMIZERS:
        raise UserError(f"{where}={name}: not a row optimizer; {nearest(name, ROW_OPTIMIZERS)}")
    own = allowed_settings(ROW_OPTIMIZERS[name])
    known = {"lr": POSITIVE, "max_norm": POSITIVE, **own}
    settings = {
        key: _checked(value, own[key], f"--optimizer.{key}={value}: {name}'s {key} on touched rows")
        for key, value in defaults.items()
        if key in own
    }
    for pair in pairs:
        key, _, given = pair.partition("=")
        if key not in known:
            raise UserError(f"{where}={text}: {name} has no {key!r}; {nearest(key, known)}")
        try:
            value = float(given)
        except ValueError as error:
            raise UserError(f"{where}={text}: {key}={given!r} is not a number") from error
        settings[key] = _checked(value, known[key], f"{where}={text}: {name}'s {key}")
    lr, max_norm = settings.pop("lr", base_lr), settings.pop("max_norm", 0.0)
    return ColumnRule(ROW_OPTIMIZERS[name](**settings), lr / base_lr, max_norm)


def _checked(value: float, allowed: Allowed, setting: str) -> Any:
    if not (math.isfinite(value) and allowed.holds(value)):
        raise UserError(f"{setting} must be {allowed.words}")
    return allowed.kind(value)


def bound_norms(rows: jax.Array, max_norm: float) -> jax.Array:
    """Rows [U, w], those of an L2 norm above ``max_norm`` scaled down to it as torch.nn.Embedding scales."""
    norms = jnp.sqrt(jnp.square(rows).sum(axis=1, keepdims=True))
    return rows * jnp.where(norms > max_norm, max_norm / (norms + 1e-7), 1)


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
            new_rows.append(bound_norms(updated, rule.max_norm) if rule.max_norm else updated)
            new_slots += [own[name] for owner, name in where if owner == column]
        return jnp.concatenate(new_rows, axis=1), jnp.concatenate(new_slots, axis=1) if new_slots else None

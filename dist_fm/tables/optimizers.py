"""Row optimizers: one update of the table rows a batch touched, after every duplicate's gradient has been summed.

Each column of a table has a rule (``dist_fm/tables/rules.py``), a learning rate and, if asked, a bound on its norm.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dist_fm.errors import UserError, nearest
from dist_fm.tables.rules import POSITIVE, ROW_OPTIMIZERS, Allowed, RowOptimizer, Slots, allowed_settings
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


class Group(NamedTuple):
    """Neighbouring columns that are updated as one: ``part`` of the row, by one rule, with its ``slots``."""

    name: str
    part: slice
    rule: ColumnRule
    slots: dict[str, tuple[int, float]]  # width and first value


@dataclasses.dataclass(frozen=True)
class TableOptimizer:
    """A rule for every column of a table.

    Slots are arrays [R', w] by name, ``COLUMNS.SLOT`` such as ``linear+factors.m``: each an array of its own, which a
    step reads, computes and writes without cutting or joining rows.
    """

    layout: RowLayout
    rules: Mapping[str, ColumnRule]

    @property
    def groups(self) -> list[Group]:
        """The columns, neighbours joined where one rule treats each of their numbers by itself."""
        groups: list[Group] = []
        for column, part in self.layout.slices.items():
            rule, parts = self.rules[column], self.layout.columns[column].parts
            last = groups[-1] if groups else None
            if last is not None and rule == last.rule and _is_elementwise(rule):
                groups.pop()
                column, part = f"{last.name}+{column}", slice(last.part.start, part.stop)
            groups.append(Group(column, part, rule, rule.optimizer.slots(part.stop - part.start, parts)))
        return groups

    @property
    def slots(self) -> dict[str, tuple[int, float]]:
        """Width and first value of every slot array."""
        return {f"{group.name}.{name}": about for group in self.groups for name, about in group.slots.items()}

    @property
    def width(self) -> int:
        """Slot floats a row."""
        return sum(width for width, _ in self.slots.values())

    def init(self, rows: int, dtype: Any) -> Slots | None:
        """First slots, each [rows, w]; None when no rule has any."""
        return {name: jnp.full((rows, width), value, dtype) for name, (width, value) in self.slots.items()} or None

    def update(
        self, rows: jax.Array, gradient: jax.Array, slots: Slots | None, lr: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Slots | None]:
        """New rows [U, W] and slots, each [U, w] (None if there are none), from summed gradients [U, W]."""
        new_rows: list[jax.Array] = []
        new_slots: Slots = {}
        for name, part, rule, known in self.groups:
            own = {slot: (slots or {})[f"{name}.{slot}"] for slot in known}
            rate = lr * rule.lr_factor
            updated, own = rule.optimizer.update(rows[:, part], gradient[:, part], own, rate, step)
            new_rows.append(bound_norms(updated, rule.max_norm) if rule.max_norm else updated)
            new_slots |= {f"{name}.{slot}": value for slot, value in own.items()}
        return jnp.concatenate(new_rows, axis=1), new_slots or None


def _is_elementwise(rule: ColumnRule) -> bool:
    return rule.max_norm == 0 and all(width == 2 for width, _ in rule.optimizer.slots(2).values())

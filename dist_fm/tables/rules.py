"""The rules that update touched table rows: one small class each, and what its settings may be.

A rule is elementwise, or per row, over one column: ``rows`` and ``gradient`` [U, w], its slots [U, w] (or [U, parts]
where row-wise). A row that no sample touched is not passed, and keeps its values and slots (the "exact" semantics of
FBGEMM).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

Slots = dict[str, jax.Array]


class RowOptimizer(Protocol):
    def slots(self, width: int, parts: int = 1) -> dict[str, tuple[int, float]]:
        """Width and first value of each slot of a column of ``width`` floats, which are ``parts`` vectors."""
        ...

    def update(
        self, rows: jax.Array, gradient: jax.Array, slots: Slots, lr: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Slots]:
        """New rows and slots; ``step`` counts from 0."""
        ...


@dataclasses.dataclass(frozen=True)
class Allowed:
    """The values a setting may take, in words and as a test, and the type it is kept as."""

    words: str
    holds: Callable[[float], bool]
    kind: Callable[[float], Any] = float


POSITIVE = Allowed("above 0", lambda x: x > 0)
NOT_NEGATIVE = Allowed("at least 0", lambda x: x >= 0)
DECAY = Allowed("at least 0 and below 1", lambda x: 0 <= x < 1)
FACTOR = Allowed("above 0 and at most 1", lambda x: 0 < x <= 1)
STEPS = Allowed("a whole number from 1 to 2147483647", lambda x: 1 <= x < 2**31 and x == int(x), int)
SWITCH = Allowed("0 or 1", lambda x: x in (0, 1), bool)


def _setting(default: Any, allowed: Allowed) -> Any:
    return dataclasses.field(default=default, metadata={"allowed": allowed})


def allowed_settings(rule: type[Any]) -> dict[str, Allowed]:
    """What each setting of ``rule`` may be."""
    return {field.name: field.metadata["allowed"] for field in dataclasses.fields(rule)}


@dataclasses.dataclass(frozen=True)
class SGD:
    """w <- w - lr g."""

    def slots(self, width, parts=1):
        return {}

    def update(self, rows, gradient, slots, lr, step):
        return rows - lr * gradient, {}


@dataclasses.dataclass(frozen=True)
class Adagrad:
    """s <- s + g^2; w <- w - lr g / sqrt(s + eps) (Duchi et al. 2011; optax's form)."""

    initial_accumulator: float = _setting(0.1, NOT_NEGATIVE)
    eps: float = _setting(1e-7, NOT_NEGATIVE)

    def slots(self, width, parts=1):
        return {"sum": (width, self.initial_accumulator)}

    def update(self, rows, gradient, slots, lr, step):
        total = slots["sum"] + jnp.square(gradient)
        scale = jnp.where(total > 0, jax.lax.rsqrt(total + self.eps), 0)
        return rows - lr * gradient * scale, {"sum": total}


@dataclasses.dataclass(frozen=True)
class RowwiseAdagrad:
    """s <- s + mean over the row of g^2; w <- w - lr g / (sqrt(s) + eps): one number of state a row and column.

    FBGEMM's EXACT_ROWWISE_ADAGRAD, whose rows are one vector; of a column of several, each has a number.
    """

    initial_accumulator: float = _setting(0.0, NOT_NEGATIVE)
    eps: float = _setting(1e-8, POSITIVE)

    def slots(self, width, parts=1):
        return {"sum": (parts, self.initial_accumulator)}

    def update(self, rows, gradient, slots, lr, step):
        vectors = gradient.reshape(*slots["sum"].shape, -1)
        total = slots["sum"] + jnp.square(vectors).mean(axis=2)
        change = lr * vectors / (jnp.sqrt(total) + self.eps)[:, :, None]
        return rows - change.reshape(rows.shape), {"sum": total}


@dataclasses.dataclass(frozen=True)
class AdagradDecay:
    """Adagrad whose sum fades by global time: s <- max(s decay_rate^k, s0) + g^2; w <- w - lr g / sqrt(s).

    k counts the multiples of ``decay_step`` passed since the row's last touch, the first step being 1; ``power`` [U, 1]
    keeps how many it has had. This is DeepRec's AdagradDecay as documented, where all sums fade at the same steps, with
    its defaults, its floor and no eps. Its sparse kernel (training_ali_ops.cc, SparseApplyAdagradDecay) takes at most
    one decay a touch, so a row that rested over several fades later; touched in every period, a row fares the same.
    """

    initial_accumulator: float = _setting(0.1, POSITIVE)
    decay_step: int = _setting(100_000, STEPS)
    decay_rate: float = _setting(0.9, FACTOR)

    def slots(self, width, parts=1):
        return {"sum": (width, self.initial_accumulator), "power": (1, 0.0)}

    def update(self, rows, gradient, slots, lr, step):
        now = ((step + 1) // self.decay_step).astype(gradient.dtype)
        power = jnp.maximum(slots["power"], now)
        faded = slots["sum"] * self.decay_rate ** (power - slots["power"])
        total = jnp.maximum(faded, self.initial_accumulator) + jnp.square(gradient)
        return rows - lr * gradient * jax.lax.rsqrt(total), {"sum": total, "power": power}


@dataclasses.dataclass(frozen=True)
class Adam:
    """Lazy Adam: moments of a touched row alone move; bias is corrected by the global step (torch's SparseAdam).

    m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; w <- w - lr m' / (sqrt(v') + eps), m' = m / (1 - b1^t).
    """

    b1: float = _setting(0.9, DECAY)
    b2: float = _setting(0.999, DECAY)
    eps: float = _setting(1e-8, POSITIVE)

    def slots(self, width, parts=1):
        return {"m": (width, 0.0), "v": (width, 0.0)}

    def update(self, rows, gradient, slots, lr, step):
        m = self.b1 * slots["m"] + (1 - self.b1) * gradient
        v = self.b2 * slots["v"] + (1 - self.b2) * jnp.square(gradient)
        t = (step + 1).astype(gradient.dtype)
        m_scale, v_scale = 1 / (1 - self.b1**t), 1 / (1 - self.b2**t)
        return rows - lr * (m * m_scale) / (jnp.sqrt(v * v_scale) + self.eps), {"m": m, "v": v}


@dataclasses.dataclass(frozen=True)
class AdamAsync:
    """Adam with TensorFlow's eps: w <- w - a m / (sqrt(v) + eps), a = lr sqrt(1 - b2^t) / (1 - b1^t); m, v as Adam's.

    With ``apply_sparse_rmsprop``: v as Adam's, m <- b1 m + lr g / sqrt(v + eps), w <- w - m. Both are DeepRec's
    AdamAsync (training_ali_ops.cc, SparseApplyAdamAsync). It keeps b1^t and b2^t per variable, multiplied at each of
    its updates, because asynchronous workers share no t; here a step updates every column once, so t is step + 1.
    """

    b1: float = _setting(0.9, DECAY)
    b2: float = _setting(0.999, DECAY)
    eps: float = _setting(1e-8, POSITIVE)
    apply_sparse_rmsprop: bool = _setting(False, SWITCH)

    def slots(self, width, parts=1):
        return {"m": (width, 0.0), "v": (width, 0.0)}

    def update(self, rows, gradient, slots, lr, step):
        v = self.b2 * slots["v"] + (1 - self.b2) * jnp.square(gradient)
        if self.apply_sparse_rmsprop:
            m = self.b1 * slots["m"] + lr * gradient * jax.lax.rsqrt(v + self.eps)
            return rows - m, {"m": m, "v": v}
        m = self.b1 * slots["m"] + (1 - self.b1) * gradient
        t = (step + 1).astype(gradient.dtype)
        rate = lr * jnp.sqrt(1 - self.b2**t) / (1 - self.b1**t)
        return rows - rate * m / (jnp.sqrt(v) + self.eps), {"m": m, "v": v}


@dataclasses.dataclass(frozen=True)
class FTRL:
    """FTRL-Proximal, per coordinate (McMahan et al. 2013, algorithm 1): l1 makes rarely useful weights exactly zero."""

    l1: float = _setting(0.0, NOT_NEGATIVE)
    l2: float = _setting(0.0, NOT_NEGATIVE)
    beta: float = _setting(1.0, NOT_NEGATIVE)

    def slots(self, width, parts=1):
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
    "adagrad_decay": AdagradDecay,
    "adam": Adam,
    "adam_async": AdamAsync,
    "ftrl": FTRL,
}

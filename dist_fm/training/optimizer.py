"""Optimizers by the names of the configuration: optax for the network (and dense tables), row rules for sparse ones."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dist_fm.config import Config, OptimizerConfig, TablesConfig
from dist_fm.errors import UserError, nearest
from dist_fm.tables.optimizers import ROW_OPTIMIZERS, TableOptimizer, parse_rule
from dist_fm.tables.rules import FTRL
from dist_fm.tables.spec import RowLayout

_BUILDERS = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "adagrad": optax.adagrad,
    "sgd": optax.sgd,
    "rmsprop": optax.rmsprop,
    "adabelief": optax.adabelief,
    "nadam": optax.nadam,
}
_ARGUMENTS = {"initial_accumulator": "initial_accumulator_value"}
_OWN = ("b1", "b2", "eps", "momentum", "weight_decay", "initial_accumulator")


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The optax optimizer ``config`` names; a setting that optimizer does not have is a ``UserError``."""
    builder = _BUILDERS[config.name]
    accepted = inspect.signature(builder).parameters
    have = [key for key in _OWN if _argument(config.name, key) in accepted]
    if config.name != "adamw" and "weight_decay" in have:
        have.remove("weight_decay")  # one way to decay elsewhere: l2_embedding and l2_network
    arguments: dict[str, Any] = {}
    for key in _OWN:
        value = getattr(config, key)
        if value is None:
            continue
        if key not in have:
            known = ", ".join(have) or "none of these settings"
            raise UserError(f"--optimizer.{key}={value}: {config.name} has no {key}; it has {known}")
        arguments[_argument(config.name, key)] = value
    if config.name == "adamw":
        arguments["mask"] = weights_mask
    return builder(make_schedule(config), **arguments)


def _argument(name: str, key: str) -> str:
    if name == "rmsprop" and key == "b2":
        return "decay"
    return _ARGUMENTS.get(key, key)


def weights_mask(params: Any) -> Any:
    """True for weights (tables and kernels), False for biases and BatchNorm's scale: arrays of fewer than two axes."""
    return jax.tree.map(lambda p: jnp.ndim(p) >= 2, params)


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Learning rate by step: linear warm-up over ``warmup_steps``, then the named schedule over ``decay_steps``."""
    lr, decay = config.lr, config.decay_steps
    if config.schedule != "constant" and decay == 0:
        raise UserError(f"--optimizer.schedule={config.schedule} needs --optimizer.decay_steps above 0")
    if config.schedule == "exponential" and config.decay_rate == 0:
        raise UserError("--optimizer.schedule=exponential needs --optimizer.decay_rate above 0")
    after = {
        "constant": lambda: optax.constant_schedule(lr),
        "cosine": lambda: optax.cosine_decay_schedule(lr, decay, config.decay_rate),
        "linear": lambda: optax.linear_schedule(lr, lr * config.decay_rate, decay),
        "exponential": lambda: optax.exponential_decay(lr, decay, config.decay_rate),
    }[config.schedule]()
    if config.warmup_steps == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, lr, config.warmup_steps), after], [config.warmup_steps])


def make_table_optimizer(config: Config, layout: RowLayout) -> TableOptimizer | None:
    """The row rules of ``tables.optimizer`` and ``tables.columns``; None where updates are dense."""
    if config.tables.update != "sparse":
        asked = sparse_alone(config.tables)
        if asked:
            raise UserError(f"{asked} is of updates of a batch's rows: it needs --tables.update=sparse")
        return None
    optimizer = config.optimizer
    if not config.tables.optimizer and optimizer.name not in ROW_OPTIMIZERS:
        raise UserError(
            f"--optimizer={optimizer.name} has no sparse form: give --tables.optimizer, one of "
            f"{', '.join(ROW_OPTIMIZERS)}, or --tables.update=dense"
        )
    defaults = {key: value for key in _OWN if (value := getattr(optimizer, key)) is not None}
    base = config.tables.optimizer or optimizer.name
    rules = {name: parse_rule(base, optimizer.lr, defaults, "--tables.optimizer") for name in layout.columns}
    for text in config.tables.columns:
        column, _, rule = text.partition("=")
        if column not in layout.columns:
            raise UserError(f"--tables.columns={text}: the model has no such column; {nearest(column, layout.columns)}")
        rules[column] = parse_rule(rule, optimizer.lr, {}, f"--tables.columns={column}")
    if any(isinstance(rule.optimizer, FTRL) for rule in rules.values()):
        _refuse_zero_rates(optimizer)
    return TableOptimizer(layout, rules)


def sparse_alone(tables: TablesConfig) -> str:
    """A setting of ``tables`` that means something in sparse updates alone, as it was given; or nothing."""
    given = {"dtype": tables.dtype if tables.dtype == "bfloat16" else "", "optimizer": tables.optimizer}
    given["columns"] = ",".join(tables.columns)
    return next((f"--tables.{key}={value}" for key, value in given.items() if value), "")


def _refuse_zero_rates(optimizer: OptimizerConfig) -> None:
    """FTRL divides by the learning rate."""
    if optimizer.warmup_steps:
        raise UserError(
            f"--optimizer.warmup_steps={optimizer.warmup_steps}: ftrl divides by the learning rate, and warm-up "
            "starts at 0; use 0 warm-up steps, or another rule than ftrl"
        )
    if optimizer.schedule != "constant" and optimizer.decay_rate == 0:
        raise UserError(
            f"--optimizer.schedule={optimizer.schedule} with --optimizer.decay_rate=0 ends at a learning rate of 0, by "
            "which ftrl divides: use a decay_rate above 0, or another rule than ftrl"
        )

"""Computes what is known before the inputs are, and cuts slices where JAX would gather at known places.

With a number of rows that is not known, JAX writes ``x[:, 0]`` as a gather whose slices span all rows, for which TFLite
has no operation; and a kernel that a model turns or adds up before it multiplies by it would be so at every call.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

INLINED = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")


def simplified(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """``function`` of arrays, one array out, with the same result by fewer operations."""

    def run(*arguments: Any) -> jax.Array:
        traced = jax.make_jaxpr(function)(*arguments)
        (result,) = _evaluate(traced.jaxpr, traced.consts, jax.tree.leaves(arguments))
        return result

    return run


def _evaluate(jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
    read = lambda variable: variable.val if isinstance(variable, Literal) else values[variable]
    for equation in jaxpr.eqns:
        outputs = _apply(equation, [read(variable) for variable in equation.invars])
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _apply(equation: JaxprEqn, inputs: list[Any]) -> Sequence[Any]:
    primitive, parameters = equation.primitive, equation.params
    if primitive.name in INLINED:
        inner = parameters.get("jaxpr") or parameters["call_jaxpr"]
        jaxpr, constants = (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())
        return _evaluate(jaxpr, constants, inputs)
    compute = lambda: primitive.bind(*inputs, **parameters)
    shapes = [variable.aval.shape for variable in equation.outvars]  # type: ignore[attr-defined]
    if not any(map(_is_unknown, inputs)) and all(isinstance(size, int) for shape in shapes for size in shape):
        with jax.ensure_compile_time_eval():
            outputs = compute()
    elif primitive.name == "gather" and not _is_unknown(inputs[1]):
        outputs = _cut(inputs[0], np.asarray(inputs[1]), **parameters)
        outputs = compute() if outputs is None else outputs
    else:
        outputs = compute()
    return outputs if primitive.multiple_results else [outputs]


def _is_unknown(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)


def _cut(
    x: jax.Array, places: np.ndarray, *, dimension_numbers: lax.GatherDimensionNumbers, slice_sizes: Any, **_: Any
) -> jax.Array | None:
    """A gather from ``x`` at known ``places`` as slices: of one window, or of places [N, 1] on one axis; else None."""
    axes, dropped = dimension_numbers.start_index_map, dimension_numbers.collapsed_slice_dims
    if dimension_numbers.operand_batching_dims:
        return None
    if places.ndim == 1:
        for axis, start in zip(axes, places.tolist(), strict=True):
            x = lax.slice_in_dim(x, start, start + slice_sizes[axis], axis=axis)
        return lax.squeeze(x, dropped)
    if places.ndim != 2 or len(axes) != 1 or axes != dropped:
        return None
    (axis,) = axes
    (at,) = {*range(len(dimension_numbers.offset_dims) + 1)} - {*dimension_numbers.offset_dims}
    starts = places[:, 0]
    runs = np.split(starts, np.flatnonzero(np.diff(starts) != 1) + 1)
    parts = [lax.slice_in_dim(x, int(run[0]), int(run[-1]) + 1, axis=axis) for run in runs]
    return jnp.moveaxis(jnp.concatenate(parts, axis=axis), axis, at)

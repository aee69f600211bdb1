"""A function of the samples' rows, applied to the batch slice by slice, so that what it makes stays in the cache.

Rows of a whole batch, [B, F, W], and what an interaction makes of them, [B, P, K], leave the cache of a CPU core; a few
hundred samples' do not. The way back makes each slice again and adds its gradient to the unique rows in place.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dist_fm.apart import made_apart
from dist_fm.tables.duplicates import add_rows, take_rows
from dist_fm.tables.spec import PerRow, PerSample, RowLayout

WHOLE_FLOATS = 1 << 21  # up to here a batch is not cut: few large operations use a CPU's threads better than many small
SLICE_FLOATS = 1 << 19
SMALLEST_SLICE = 32

Columns = dict[str, jax.Array]


def slice_size(samples: int, floats: int) -> int:
    """Samples a slice, of ``floats`` numbers each; all of ``samples`` where they are few."""
    if samples * floats <= WHOLE_FLOATS:
        return samples
    return min(max(SLICE_FLOATS // floats, SMALLEST_SLICE), samples)


def map_samples(
    function: PerSample,
    unique: jax.Array,
    network: Any,
    inverse: jax.Array,
    values: jax.Array | None,
    samples: Any,
    *,
    slot_inputs: np.ndarray,
    layout: RowLayout,
    size: int,
    sort: bool,
    per_row: PerRow,
) -> Any:
    """``function`` of the inputs of each sample: for each, the sum over its slots of value x row.

    ``unique`` [U, W]; ``inverse`` and ``values`` [b, S]; ``samples`` pytree of [b, ...], not differentiated; ``size``
    samples at most at a time. ``sort`` says that duplicates' gradients are summed by sorting (`take_rows`), as GPUs do.
    ``per_row`` comes before the function: for each unique row where a sample's inputs are such rows, else each input.
    """
    of_row, of_input = (per_row, dict) if inputs_are_rows(values, slot_inputs) else (dict, per_row)

    def of_rows(rows: Columns, network: Any, values: jax.Array | None, samples: Any) -> Any:
        return function(of_input(pooled(rows, values, slot_inputs)), network, samples)

    if sort:
        return of_rows(of_row(_columns(take_rows(unique, inverse, True), layout)), network, values, samples)
    columns = of_row(_columns(unique, layout))
    # Each column is spread by itself: cutting the columns out of the unique rows is cheap, out of all samples' is not.
    if size >= len(inverse):
        few = inverse.size * unique.shape[1] <= SLICE_FLOATS
        return of_rows((_look_up if few else _spread)(columns, inverse), network, values, samples)

    @jax.custom_vjp
    def sliced(columns: Columns, network: Any, by_sample: Any) -> Any:
        def one(part: Any) -> Any:
            inverse, values, samples = part
            return of_rows(_spread(columns, inverse), network, values, samples)

        outputs = jax.lax.map(one, _cut(by_sample, size, _always(by_sample[0])))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: len(inverse)], outputs)

    def forward(columns: Columns, network: Any, by_sample: Any) -> tuple[Any, Any]:
        return sliced(columns, network, by_sample), (columns, network, by_sample)

    def backward(saved: Any, gradient: Any) -> Any:
        columns, network, by_sample = saved

        def add(sums: Any, part: Any) -> tuple[Any, None]:
            columns_sum, network_sum = sums
            (inverse, values, samples), gradient = part
            rows = _spread(columns, inverse)
            pull = jax.vjp(lambda rows, network: of_rows(rows, network, values, samples), rows, network)[1]
            rows_gradient, network_gradient = pull(gradient)
            columns_sum = {name: add_rows(columns_sum[name], inverse, g) for name, g in rows_gradient.items()}
            return (columns_sum, jax.tree.map(jnp.add, network_sum, network_gradient)), None

        # What fills the last slice has no gradient: its outputs went nowhere.
        always = _always(by_sample[0])
        full = _cut(by_sample, size, always), _cut(gradient, size, always, jnp.zeros_like)
        return *jax.lax.scan(add, jax.tree.map(jnp.zeros_like, (columns, network)), full)[0], None

    sliced.defvjp(forward, backward)
    return sliced(columns, network, (inverse, values, samples))


def inputs_are_rows(values: jax.Array | None, slot_inputs: np.ndarray) -> bool:
    """Whether each of a model's inputs is one row of the table as it is: neither pooled nor times a value."""
    return values is None and len(np.unique(slot_inputs)) == len(slot_inputs)


def of_each_row(per_row: PerRow, rows: jax.Array, layout: RowLayout) -> jax.Array:
    """Physical rows [N, W] with their columns as ``per_row`` makes them."""
    columns = per_row(_columns(rows, layout))
    return jnp.concatenate([columns[name] for name in layout.slices], axis=1)


def pooled(rows: Columns, values: jax.Array | None, slot_inputs: np.ndarray) -> Columns:
    """A model's inputs [B, F, width], from the rows of its slots [B, S, width]: sums of value x row."""
    if values is not None:
        rows = {name: part * values[:, :, None].astype(part.dtype) for name, part in rows.items()}
    return {name: _sum_slots(part, slot_inputs) for name, part in rows.items()}


def _look_up(columns: Columns, inverse: jax.Array) -> Columns:
    return {name: take_rows(part, inverse, False) for name, part in columns.items()}


def _spread(columns: Columns, inverse: jax.Array) -> Columns:
    """The rows of ``inverse`` [b, S], made before what follows begins.

    Fused into what follows, a number would be looked up at each of its uses: field-aware models took 1.5 times as long.
    """
    return made_apart(_always(inverse), lambda: _look_up(columns, inverse))


def _always(inverse: jax.Array) -> jax.Array:
    """True, which XLA cannot know."""
    return inverse[0, 0] >= 0


def _cut(
    tree: Any, size: int, always: jax.Array, filling: Callable[[jax.Array], jax.Array] = lambda first: first
) -> Any:
    """Arrays [b, ...] in the fewest slices of ``size`` at most, [n, size', ...], the last filled by the first samples.

    Not with a shorter slice at the end, which would be compiled apart. ``always`` is as `made_apart` wants it.
    """

    def cut(x: jax.Array) -> jax.Array:
        slices = -(-len(x) // size)
        even = -(-len(x) // slices)
        missing = slices * even - len(x)
        if missing:
            # Joined within the kernel that makes it (dropout of pairs), LLVM takes a minute to vectorize it.
            x = made_apart(always, lambda: x)
            x = jnp.concatenate([x, filling(x[:missing])])
        return x.reshape(slices, even, *x.shape[1:])

    return jax.tree.map(cut, tree)


def _columns(rows: jax.Array, layout: RowLayout) -> Columns:
    """Cuts physical rows [..., W] into the model's columns by name."""
    return {name: rows[..., part] for name, part in layout.slices.items()}


def _sum_slots(rows: jax.Array, slot_inputs: np.ndarray) -> jax.Array:
    """[B, S, W] -> [B, F, W]; the identity when every input has one slot."""
    parts, end = [], 0
    for is_single, group in itertools.groupby(np.bincount(slot_inputs).tolist(), key=lambda slots: slots == 1):
        sizes = list(group)
        for size in [len(sizes)] if is_single else sizes:
            part = rows[:, end : end + size]
            parts.append(part if is_single else part.sum(1, keepdims=True))
            end += size
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, 1)

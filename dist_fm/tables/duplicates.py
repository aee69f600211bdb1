"""Sums over rows that occur several times: by sorting, as GPUs need it, or by a scatter-add."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def take_rows(rows: jax.Array, inverse: jax.Array, sort: bool) -> jax.Array:
    """``rows[inverse]``, [U, W] by [B, S] -> [B, S, W], whose transpose sums duplicates.

    With ``sort`` by a sort and a segmented scan: the same at every run, and fast, on a GPU. Without, by `add_rows`:
    repeatable, and faster, on a CPU.
    """
    return rows.at[inverse].get(mode="promise_in_bounds")


def _take_forward(rows: jax.Array, inverse: jax.Array, sort: bool) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return take_rows(rows, inverse, sort), (inverse, rows[:, :0])


def _take_backward(sort: bool, saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, None]:
    inverse, like = saved
    count = like.shape[0]
    nothing = jnp.zeros((count, gradient.shape[-1]), gradient.dtype)
    if not sort:
        return add_rows(nothing, inverse, gradient), None
    flat = inverse.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    ids, totals = flat[order], _segment_totals(flat[order], gradient.reshape(flat.size, -1)[order])
    # The last of a run of equal ids holds their sum: an id that does not occur keeps zero, the others go out of range.
    target = jnp.where(_is_last(ids), ids, count + jnp.arange(flat.size))
    return nothing.at[target].set(totals, mode="drop", unique_indices=True), None


take_rows.defvjp(_take_forward, _take_backward)


def add_rows(sums: jax.Array, inverse: jax.Array, rows: jax.Array) -> jax.Array:
    """``sums`` [U, W] with ``rows`` [B, S, W] added at ``inverse`` [B, S], duplicates and all: XLA's scatter-add."""
    # As XLA's CPU backend wants it; what NumPy's indexing becomes has it copy all rows to where they are.
    updates = rows.reshape(-1, 1, rows.shape[-1])
    by_row = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(1, 2), inserted_window_dims=(), scatter_dims_to_operand_dims=(0,)
    )
    return jax.lax.scatter_add(sums, inverse.reshape(-1, 1), updates, by_row, mode="promise_in_bounds")


def sum_duplicates(
    ids: jax.Array, rows: jax.Array, gradient: jax.Array, limit: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each id below ``limit`` once, with its row and summed gradients; elsewhere distinct ids from ``limit`` on.

    ``ids`` [N], ``rows`` and ``gradient`` [N, W]; equal ids bring equal rows. Rows and gradients of ids from ``limit``
    on become zero.
    """
    order = jnp.argsort(ids, stable=True)
    ids, totals = ids[order], _segment_totals(ids[order], gradient[order])
    kept = _is_last(ids) & (ids < limit)
    ids = jnp.where(kept, ids, limit + jnp.arange(ids.size, dtype=ids.dtype))
    return ids, jnp.where(kept[:, None], rows[order], 0), jnp.where(kept[:, None], totals, 0)


def is_first(ids: jax.Array) -> jax.Array:
    """Where a run of equal ``ids`` [N] begins: bool [N]."""
    return jnp.concatenate([jnp.ones(1, bool), ids[1:] != ids[:-1]])


def _is_last(ids: jax.Array) -> jax.Array:
    return jnp.concatenate([ids[1:] != ids[:-1], jnp.ones(1, bool)])


def _segment_totals(ids: jax.Array, values: jax.Array) -> jax.Array:
    """Running sums [N, W] within runs of equal ``ids`` [N]; the last of a run is its total."""
    starts = is_first(ids)

    def combine(left, right):
        (left_starts, left_sum), (right_starts, right_sum) = left, right
        return left_starts | right_starts, jnp.where(right_starts[:, None], right_sum, left_sum + right_sum)

    return jax.lax.associative_scan(combine, (starts, values))[1]

"""Unique rows of a batch against NumPy's, and the layout of the physical table."""

import numpy as np
import pytest

from dist_fm import hashing
from dist_fm.tables.spec import Column, RowLayout, TableSpec, zeros
from dist_fm.tables.unique import argsort_by_counting, bucket, fill_unique, find_unique, physical_rows, unique_in_step


def spec(rows: int) -> TableSpec:
    return TableSpec(rows, RowLayout({"w": Column(2, zeros)}))


def unique_rows(rows, table):
    (found,) = find_unique(rows[None], table)
    return fill_unique(found, found.need, table)


@pytest.mark.parametrize("rows", [1, 79, 5040, 5041, 399_999, 400_000, 1_011_278])
def test_physical_rows_are_a_permutation_outside_the_padding(rows):
    table = spec(rows)
    every = table.physical(np.arange(table.padded_rows))
    assert np.array_equal(np.sort(every), np.arange(table.padded_rows))
    assert len(table.padding()) == table.padded_rows - rows
    assert not np.intersect1d(table.physical(np.arange(rows)), table.padding()).size
    assert all(table.padded_rows % devices == 0 for devices in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 16))


def test_popular_rows_spread_evenly_over_shards():
    table = spec(1_011_278)
    popular = table.physical(np.arange(14_000))
    for devices in (2, 4, 8, 16):
        owned = np.bincount(popular // (table.padded_rows // devices), minlength=devices)
        assert owned.max() / owned.mean() <= 1.10


def test_padding_rows_start_at_zero_and_columns_have_their_own_streams():
    from dist_fm.tables.spec import normal

    one = TableSpec(100, RowLayout({"a": Column(3, normal(1.0))}))
    two = TableSpec(100, RowLayout({"b": Column(2, normal(1.0)), "a": Column(3, normal(1.0))}))
    key = hashing.key(3)
    first, second = np.asarray(one.init(key)), np.asarray(two.init(key))
    assert np.array_equal(first, second[:, 2:])
    assert not first[one.padding()].any() and first[one.physical(np.arange(100))].all()


@pytest.mark.parametrize("rows", [700, 2**29])
def test_batches_found_together_are_as_one_by_one(rows):
    rng = np.random.default_rng(rows)
    table = spec(rows)
    batches = rng.integers(-1, 40, (5, 60, 3)).astype(np.int32)  # so few rows that batches share some
    batches[1], batches[3, :, 1] = -1, rows - 1
    together = find_unique(batches, table)
    assert len(together) == 5
    for batch, found in zip(batches, together, strict=True):
        expected = unique_rows(batch, table)
        for ours, theirs in zip(fill_unique(found, found.need, table), expected, strict=True):
            assert ours.dtype == theirs.dtype == np.int32 and np.array_equal(ours, theirs)


@pytest.mark.parametrize("seed", range(20))
def test_unique_rows_against_numpy(seed):
    rng = np.random.default_rng(seed)
    table = spec(int(rng.integers(1, 3000)))
    rows = rng.integers(0, table.rows, (int(rng.integers(1, 300)), int(rng.integers(1, 6)))).astype(np.int32)
    rows[rng.random(rows.shape) < rng.choice([0, 0.3, 1])] = -1
    unique, inverse = unique_rows(rows, table)
    physical = np.where(rows < 0, table.padded_rows, table.physical(np.maximum(rows, 0)))
    assert np.array_equal(unique[inverse], physical)
    expected = np.unique(physical[rows >= 0])
    assert np.array_equal(unique[: len(expected)], expected)
    assert np.array_equal(unique[len(expected) :], table.padded_rows + np.arange(len(unique) - len(expected)))
    assert len(unique) == bucket(len(expected) + 1)


@pytest.mark.parametrize("seed", range(6))
def test_unique_rows_found_in_a_step_are_those_found_on_the_host(seed):
    rng = np.random.default_rng(seed)
    table = spec(200)
    rows = rng.integers(0, (1, 20, 200)[seed % 3], (40, 5)).astype(np.int32)
    rows[rng.random(rows.shape) < (0, 0.3, 1)[seed // 2]] = -1
    unique, inverse = map(np.asarray, unique_in_step(physical_rows(rows, table), table.padded_rows))
    expected_unique, expected_inverse = unique_rows(rows, table)
    count = (expected_unique < table.padded_rows).sum()
    assert np.array_equal(unique[:count], expected_unique[:count])
    assert np.array_equal(inverse, expected_inverse)
    assert np.array_equal(unique[count:], table.padded_rows + np.arange(count, rows.size))  # distinct, ascending


@pytest.mark.parametrize("limit", [1, 100, 2**16, 2**16 + 1, 2**33, 2**62])
def test_counting_orders_keys_of_any_size(limit):
    keys = np.random.default_rng(limit).integers(0, limit, 500)
    assert np.array_equal(argsort_by_counting(keys), np.argsort(keys, kind="stable"))
    assert argsort_by_counting(keys[:0]).size == 0


def test_buckets_grow_by_at_most_two_and_above_4096_by_a_quarter():
    sizes = [bucket(n) for n in range(1, 40_000)]
    assert all(size >= n for n, size in enumerate(sizes, 1))
    distinct = sorted(set(sizes))
    assert all(b <= 2 * a for a, b in zip(distinct, distinct[1:], strict=False))
    assert all(b <= 1.26 * a for a, b in zip(distinct, distinct[1:], strict=False) if a >= 4096)

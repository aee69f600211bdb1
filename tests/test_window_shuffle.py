"""Shuffling by windows: every row once an epoch, in batches that depend on neither hosts nor threads."""

import concurrent.futures
import math

import numpy as np
import pytest
from conftest import make_schema

from dist_fm.data.records import RecordLayout
from dist_fm.data.source import TrainSource
from dist_fm.data.store import BlockStore
from dist_fm.data.store_writer import BlockWriter
from dist_fm.data.windows import Windows

SCHEMA = make_schema((40, 30), (None, None))
LAYOUT = RecordLayout.for_schema(SCHEMA)


class Watched(BlockStore):
    """A store that remembers the rows it was asked for."""

    def __init__(self, *paths):
        super().__init__(*paths)
        self.asked = []

    def gather(self, indices):
        self.asked.append(np.array(indices))
        return super().gather(indices)


@pytest.fixture
def stored(tmp_path):
    """Writes a store whose labels are the row numbers."""

    def write(rows, block_rows):
        path = tmp_path / f"{rows}-{block_rows}"
        if not path.exists():
            number = np.arange(rows)
            with BlockWriter(path, LAYOUT, block_rows=block_rows) as writer:
                writer.append(LAYOUT.pack(number, np.stack([number % 40, 40 + number % 30], 1).astype(np.int32)))
        return Watched(path)

    return write


def make_source(store, batch, readers=4, blocks=2, *, seed=0, padded=None, windows=True, unseen_rate=0.0, **parts):
    windows = Windows(readers, blocks) if windows else None
    parts["padded_size"] = padded or batch
    return TrainSource(store, SCHEMA, batch, seed=seed, steps=10**6, unseen_rate=unseen_rate, windows=windows, **parts)


def rows_of(batch):
    return batch["labels"][batch["mask"] > 0].astype(int)


def epoch_of(source, epoch):
    return [rows_of(source[epoch * source.steps_per_epoch + at]) for at in range(source.steps_per_epoch)]


SIZES = [  # rows, rows a block, batch, readers, blocks a window
    (1037, 100, 100, 4, 2),
    (1037, 100, 100, 16, 1),
    (1000, 10, 64, 16, 3),
    (999, 10, 17, 5, 4),
    (130, 128, 32, 16, 16),  # fewer blocks than readers
    (500, 1000, 50, 3, 2),  # one block
    (300, 7, 11, 16, 2),  # smaller batches than readers
    (5, 2, 100, 16, 1),  # fewer rows than readers
    (1, 100, 1, 16, 16),
    (4096, 64, 256, 1, 5),  # one reader
    (2000, 10, 700, 3, 1),  # a batch takes several windows of each
]


@pytest.mark.parametrize("windows", [True, False])
@pytest.mark.parametrize("rows, block_rows, batch, readers, blocks", SIZES)
def test_every_row_comes_once_an_epoch(stored, rows, block_rows, batch, readers, blocks, windows):
    source = make_source(stored(rows, block_rows), batch, readers, blocks, windows=windows)
    epochs = [epoch_of(source, epoch) for epoch in range(3)]
    for batches in epochs:
        assert [len(found) for found in batches[:-1]] == [batch] * (math.ceil(rows / batch) - 1)
        assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(rows))
    if rows > 5:
        first, second, third = map(np.concatenate, epochs)
        assert not np.array_equal(first, second) and not np.array_equal(second, third)
        other = np.concatenate(epoch_of(make_source(source.store, batch, readers, blocks, seed=1, windows=windows), 0))
        assert not np.array_equal(first, other)


def test_a_batch_has_rows_of_all_readers_from_blocks_in_random_order(stored):
    source = make_source(stored(6400, 10), 64, readers=8, blocks=5)
    blocks = np.array(epoch_of(source, 0)).reshape(100, 8, 8) // 10
    assert np.array_equal(blocks // 80, np.broadcast_to(np.arange(8)[:, None], blocks.shape))
    by_reader = blocks.transpose(1, 0, 2).reshape(8, -1)
    for sequence in by_reader:
        assert 5 <= len(set(sequence[200:264])) <= 15  # of 80: at most three windows
    order = [list(dict.fromkeys(sequence - 80 * reader)) for reader, sequence in enumerate(by_reader)]
    assert order[0] != order[1] and sorted(order[0]) == list(range(80))


@pytest.mark.parametrize("windows", [True, False])
def test_a_step_depends_on_neither_order_nor_threads(stored, windows):
    expected = make_source(stored(2000, 10), 30, windows=windows, unseen_rate=0.1)
    steps = np.random.default_rng(0).permutation(150)
    shared = make_source(stored(2000, 10), 30, windows=windows, unseen_rate=0.1)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for step, found in zip(steps, pool.map(lambda step: shared[int(step)], steps), strict=True):
            for name, array in expected[int(step)].items():
                assert np.array_equal(found[name], array), (step, name)


@pytest.mark.parametrize("batch, padded", [(64, 64), (100, 104), (6, 8)])
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_parts_of_the_same_global_batch(stored, batch, padded, hosts):
    store = stored(1037, 10)
    whole = make_source(store, batch, padded=padded, unseen_rate=0.2)
    parts = [make_source(store, batch, padded=padded, unseen_rate=0.2, host=h, hosts=hosts) for h in range(hosts)]
    for step in (0, 1, whole.steps_per_epoch - 1, whole.steps_per_epoch, 3 * whole.steps_per_epoch - 1):
        for name, array in whole[step].items():
            assert np.array_equal(np.concatenate([part[step][name] for part in parts]), array)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_a_host_reads_its_readers_rows_once_an_epoch(stored, hosts):
    for host in range(hosts):
        store = stored(2560, 10)
        source = make_source(store, 64, 8, 3, host=host, hosts=hosts)
        for epoch in range(2):
            store.asked.clear()
            for at in range(source.steps_per_epoch):
                source[epoch * source.steps_per_epoch + (at ^ 1)]  # each two steps in the wrong order
            read = np.sort(np.concatenate(store.asked))
            assert np.array_equal(read, np.arange(host * 2560 // hosts, (host + 1) * 2560 // hosts))


def test_readers_must_be_shared_evenly(stored):
    with pytest.raises(ValueError, match="4 readers cannot be shared evenly by 3 hosts"):
        make_source(stored(100, 10), 30, readers=4, hosts=3)


def test_few_windows_are_held(stored):
    """Two a reader: for threads that are some batches behind."""
    block_rows, blocks, readers = 64, 8, 4
    source = make_source(stored(4 * 9 * 512 + 5, block_rows), readers, readers, blocks)
    for step in range(2 * source.steps_per_epoch):
        source[step]
        held = [window.rows for reader in source.shuffle.readers for window in reader.held]
        assert all(len(rows) <= blocks * block_rows for rows in held)
        assert len(held) <= 2 * readers


def test_batches_are_no_views_of_windows(stored):
    source = make_source(stored(100, 10), 10, readers=1, blocks=10, unseen_rate=0.5)
    first = {name: array.copy() for name, array in source[3].items()}
    source[3]["rows"][...] = 7
    for name, array in source[3].items():
        assert np.array_equal(array, first[name])

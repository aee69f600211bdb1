"""A share of the negatives: which rows training sees, and that they are the same whoever reads which part."""

import math

import numpy as np
import pytest
from conftest import make_schema, write_split

from dist_fm.data.kept import KeptRows
from dist_fm.data.records import RecordLayout
from dist_fm.data.shards import open_split
from dist_fm.data.source import TrainSource
from dist_fm.data.windows import Windows

ROWS = 5000
SCHEMA = make_schema((ROWS, 3), (None, None))
LAYOUT = RecordLayout.for_schema(SCHEMA)
LABELS = (np.random.default_rng(0).random(ROWS) < 0.2).astype(np.float32)
LABELS[700:1700] = 0  # blocks of 50 rows: of some, at this rate, nothing is kept
RATE = 0.02


@pytest.fixture(scope="module", params=[1, 3])
def store(request, tmp_path_factory):
    """Rows whose first id is their number, in one store or three."""
    directory = tmp_path_factory.mktemp("kept")
    ids = np.stack([np.arange(ROWS), np.full(ROWS, ROWS)], 1).astype(np.int32)
    write_split(directory, "train", LAYOUT.pack(LABELS, ids), LAYOUT, request.param, block_rows=50)
    return open_split(directory, "train")


class Watched(KeptRows):
    """Remembers the blocks that it was asked for."""

    def will_need(self, blocks):
        self.asked = [*getattr(self, "asked", []), *blocks]
        super().will_need(blocks)


def draw(store, rate=RATE, seed=1):
    return Watched.draw(store, rate, seed, tick=lambda: None)


def numbers(words):
    return LAYOUT.ids(words)[:, 0]


def kept_numbers(kept):
    return numbers(kept.gather(np.arange(kept.rows)))


def make_source(rows, windows, **parts):
    parts = {"padded_size": 64, "unseen_rate": 0.0, **parts}
    return TrainSource(rows, SCHEMA, 64, seed=1, steps=10**6, windows=windows, **parts)


def epoch_of(source, epoch):
    steps = range(epoch * source.steps_per_epoch, (epoch + 1) * source.steps_per_epoch)
    return [source[step] for step in steps]


def test_all_positives_and_a_share_of_the_negatives_by_seed_alone(store):
    found = kept_numbers(draw(store))
    assert np.array_equal(found, np.unique(found)) and set(np.flatnonzero(LABELS)) <= set(found)
    negatives = ROWS - LABELS.sum()
    assert abs(len(found) - LABELS.sum() - RATE * negatives) < 4 * math.sqrt(RATE * negatives)
    assert np.array_equal(found, kept_numbers(draw(store)))
    others = kept_numbers(draw(store, seed=2))
    assert 0 < len(np.setdiff1d(found, others)) < 2 * RATE * negatives
    assert np.array_equal(kept_numbers(draw(store, rate=1.0)), np.arange(ROWS))


def test_shards_keep_the_rows_of_one_store(store, tmp_path):
    write_split(tmp_path, "train", store.slice(0, ROWS), LAYOUT, 1, block_rows=50)
    assert np.array_equal(kept_numbers(draw(open_split(tmp_path, "train"))), kept_numbers(draw(store)))


@pytest.mark.parametrize("windows", [None, Windows(4, 3), Windows(16, 1)])
def test_every_epoch_has_the_kept_rows_once_each(store, windows):
    kept = draw(store)
    source = make_source(kept, windows)
    assert source.steps_per_epoch == math.ceil(kept.rows / 64)
    epochs = [epoch_of(source, epoch) for epoch in range(2)]
    for batches in epochs:
        rows = [batch["rows"][batch["mask"] > 0, 0] for batch in batches]
        assert [len(found) for found in rows[:-1]] == [64] * (source.steps_per_epoch - 1)
        assert np.array_equal(np.sort(np.concatenate(rows)), kept_numbers(kept))
    assert not np.array_equal(epochs[0][0]["rows"], epochs[1][0]["rows"])


@pytest.mark.parametrize("windows", [None, Windows(4, 3)])
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_parts_of_the_same_global_batch(store, windows, hosts):
    whole = make_source(draw(store), windows, unseen_rate=0.1)
    parts = [make_source(draw(store), windows, unseen_rate=0.1, host=host, hosts=hosts) for host in range(hosts)]
    for step in (0, whole.steps_per_epoch - 1, whole.steps_per_epoch):
        for name, array in whole[step].items():
            assert np.array_equal(np.concatenate([part[step][name] for part in parts]), array)


def test_a_window_takes_its_blocks_whole_and_no_others(store):
    kept = draw(store)
    source = make_source(kept, Windows(4, 3))
    epoch_of(source, 0)
    occupied = set((kept_numbers(kept) // 50).tolist())
    assert set(kept.asked) == occupied and 80 < len(occupied) < 100
    for reader in source.shuffle.readers:
        for window in reader.held:
            assert len(set(kept_numbers(kept)[window.rows] // 50)) <= 3

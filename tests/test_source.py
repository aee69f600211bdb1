"""Batches as pure functions of (data, seed, step), each row once an epoch, whoever reads which part."""

import numpy as np
import pytest
from conftest import Steps, make_schema

from dist_fm.data.pipeline import Groups, read
from dist_fm.data.records import RecordLayout
from dist_fm.data.schema import EMPTY
from dist_fm.data.source import EvalSource, TrainSource
from dist_fm.data.store import BlockStore
from dist_fm.data.store_writer import BlockWriter

ROWS = 1037


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A store whose labels are the row numbers, with ids that follow from them; and its schema."""
    schema = make_schema((2000, 300), ("user", "item"))
    layout = RecordLayout.for_schema(schema)
    path = tmp_path_factory.mktemp("numbered") / "train.lmdb"
    number = np.arange(ROWS)
    with BlockWriter(path, layout, block_rows=100) as writer:
        writer.append(layout.pack(number, np.stack([1 + number, 2001 + number % 299], 1).astype(np.int32)))
    return BlockStore(path), schema


def source(numbered, *, unseen_rate=0.0, seed=5, padded=100, **parts):
    store, schema = numbered
    return TrainSource(store, schema, 100, seed=seed, steps=1000, unseen_rate=unseen_rate, padded_size=padded, **parts)


def rows_of(batch):
    return batch["labels"][batch["mask"] > 0].astype(int)


def test_every_epoch_is_another_permutation_of_every_row(numbered):
    batches = source(numbered)
    assert batches.steps_per_epoch == 11
    epochs = [np.concatenate([rows_of(batches[e * 11 + i]) for i in range(11)]) for e in range(3)]
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), np.arange(ROWS))
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])
    assert batches[10]["mask"].sum() == 37  # the short batch is padded, not dropped


def test_any_step_is_computable_alone_and_by_seed(numbered):
    first, second = source(numbered), source(numbered)
    expected = [rows_of(first[t]) for t in range(15)]
    assert np.array_equal(rows_of(second[13]), expected[13])
    assert not np.array_equal(rows_of(source(numbered, seed=6)[13]), expected[13])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_slices_of_the_same_global_batch(numbered, hosts):
    whole = source(numbered, unseen_rate=0.2, padded=104)
    parts = [source(numbered, unseen_rate=0.2, padded=104, host=h, hosts=hosts) for h in range(hosts)]
    for step in (0, 10, 25):
        for name in ("labels", "mask", "rows", "weights"):
            joined = np.concatenate([part[step][name] for part in parts])
            assert np.array_equal(joined, whole[step][name])


def test_unseen_ids_at_the_stated_rate_and_nothing_else_changed(numbered):
    plain, forgetful = source(numbered), source(numbered, unseen_rate=0.03)
    changed = total = 0
    for step in range(100):
        a, b = plain[step]["rows"], forgetful[step]["rows"]
        differs = a != b
        assert np.array_equal(b[differs], np.broadcast_to([0, 2000], b.shape)[differs])
        changed += differs.sum()
        total += (a != EMPTY).sum()
    assert abs(changed / total - 0.03) < 0.005
    assert np.array_equal(forgetful[7]["rows"], source(numbered, unseen_rate=0.03)[7]["rows"])


def test_unseen_rate_of_one_forgets_everything(numbered):
    rows = source(numbered, unseen_rate=1.0)[0]["rows"]
    assert np.array_equal(rows, np.broadcast_to([0, 2000], rows.shape))


@pytest.mark.parametrize("size, padded", [(64, 64), (100, 104), (5000, 5000)])
def test_evaluation_sees_every_row_once_in_order(numbered, size, padded):
    store, schema = numbered
    batches = EvalSource(store, schema, size, padded_size=padded)
    seen = np.concatenate([rows_of(batches[i]) for i in range(len(batches))])
    assert np.array_equal(seen, np.arange(ROWS))


def test_padding_is_empty_and_weighs_nothing(numbered):
    batch = source(numbered, padded=128)[0]
    assert (batch["rows"][100:] == EMPTY).all() and not batch["weights"][100:].any() and not batch["mask"][100:].any()


@pytest.mark.parametrize("batch_size, together", [(40_000, 1), (10_000, 3), (1, 8)])
@pytest.mark.parametrize("start", [0, 5, 20])
def test_a_pipeline_keeps_the_order_however_many_batches_it_takes_together(start, batch_size, together):
    taken = []

    def prepare(batches):
        taken.append(len(batches))
        return [batch * 10 for batch in batches]

    groups = Groups(Steps(20, batch_size), 1, start)
    assert [*read(groups, prepare)] == [step * 10 for step in range(start, 20)]
    assert sum(taken) == 20 - start and set(taken[:-1]) <= {together} and max(taken, default=0) <= together

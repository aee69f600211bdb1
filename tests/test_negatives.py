"""Negatives drawn in training: never a positive of the user, the item with all its fields, alike for any reader."""

import concurrent.futures
import dataclasses

import numpy as np
import pytest
from conftest import make_config, make_schema, weights, write_data_set, write_split

from data_tools.build import build
from data_tools.plan import BuildOptions
from dist_fm.data.negatives import NegativesError, Others, WithNegatives, item_fields
from dist_fm.data.records import RecordLayout
from dist_fm.data.schema import EMPTY, SchemaError
from dist_fm.data.source import TrainSource
from dist_fm.data.store import BlockStore
from dist_fm.data.windows import Windows
from dist_fm.errors import UserError
from dist_fm.training.session import train

USERS, ITEMS, SHOPS, ROWS, K = 14, 31, 7, 203, 3
SIZES = (USERS + 1, ITEMS + 1, SHOPS, 3, ROWS)  # user, item, its shop, the sign of its id, and what tells rows apart
BATCH = 100


def schema_of(**changes):
    """Records with values; the shop is an attribute of the item, the sign is made of the item's column."""
    made = make_schema(SIZES, ("user", "item", "item_side", None, None), "implicit")
    fields = list(made.fields)
    fields[3] = dataclasses.replace(fields[3], transform={"column": "f1"})
    for at, change in changes.items():
        fields[int(at[1:])] = dataclasses.replace(fields[int(at[1:])], **change)
    return dataclasses.replace(made, fields=tuple(fields), has_values=True)


SCHEMA = schema_of()
OFFSETS = SCHEMA.slot_offsets


def shop_and_sign(item):
    """Ids, and the shop's value, which a negative has to bring along."""
    return item * 5 % SHOPS, item % 3, 0.5 + item % 4


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A store of positives; and the pairs in it. Item 0 is the unseen one, users 0 and 9 have no rows."""
    rng = np.random.default_rng(3)
    users = np.sort(rng.choice([*range(1, 9), *range(10, USERS + 1)], ROWS))
    items = np.minimum(rng.zipf(1.3, ROWS) - 1, ITEMS - 1)
    items[:ITEMS] = np.arange(ITEMS)  # each occurs
    shops, signs, values = shop_and_sign(items)
    layout = RecordLayout.for_schema(SCHEMA)
    ids = np.stack([users, items, shops, signs, np.arange(ROWS)], 1) + OFFSETS
    numbers = np.ones(ids.shape, np.float32)
    numbers[:, 2] = values
    folder = tmp_path_factory.mktemp("positives")
    write_split(folder, "train", layout.pack(np.ones(ROWS), ids.astype(np.int32), numbers), layout, block_rows=16)
    return BlockStore(folder / "train.lmdb"), set(zip(users.tolist(), items.tolist(), strict=True))


def source(stored, *, negatives=K, seed=5, windows=None, padded=BATCH, unseen_rate=0.0, **parts):
    store = WithNegatives(stored[0], SCHEMA, negatives)
    more = {"steps": 10**6, "unseen_rate": unseen_rate, "windows": windows, "padded_size": padded, **parts}
    return TrainSource(store, SCHEMA, BATCH, seed=seed, **more)


def epoch_of(batches, epoch):
    """Label, ids [5] and the shop's value of all samples of an epoch, in their order."""
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    found = []
    for batch in map(batches.__getitem__, steps):
        real = batch["mask"] > 0
        parts = (batch["labels"][real, None], batch["rows"][real] - OFFSETS, batch["values"][real, 2:3])
        found.append(np.concatenate(parts, axis=1))
    return np.concatenate(found)


def test_others_are_all_items_a_user_has_not():
    rng = np.random.default_rng(0)
    for num_users, num_items, pairs in ((1, 1, 0), (5, 9, 30), (40, 7, 120), (3, 50, 149), (8, 20, 0)):
        users, items = rng.integers(0, num_users, pairs), rng.integers(0, num_items, pairs)
        others = Others(users * num_items + items, num_users, num_items)
        for user in range(num_users):
            expected = np.setdiff1d(np.arange(num_items), items[users == user])
            assert others.counts[user] == len(expected)
            numbers = np.arange(len(expected))
            assert np.array_equal(others.pick(np.full(len(numbers), user), numbers), expected)


@pytest.mark.parametrize("windows", [None, Windows(4, 2)])
def test_an_epoch_is_every_positive_and_its_negatives_in_random_order(stored, windows):
    pairs = stored[1]
    batches = source(stored, windows=windows)
    assert batches.steps_per_epoch == 9 and batches[8]["mask"].sum() == ROWS * (1 + K) - 800
    epochs = [epoch_of(batches, epoch) for epoch in range(2)]
    for samples in epochs:
        label, user, item, shop, sign, row, value = samples.T
        assert np.array_equal(np.sort(row[label == 1]), np.arange(ROWS))
        assert np.array_equal(np.sort(row[label == 0]), np.repeat(np.arange(ROWS), K))
        for one in samples.astype(int):
            assert ((one[1], one[2]) in pairs) == bool(one[0])
        assert np.array_equal(np.stack(shop_and_sign(item)), [shop, sign, value])
        user_of = dict(zip(row[label == 1], user[label == 1], strict=True))
        assert np.array_equal(user, [user_of[one] for one in row])
        assert (item[label == 0] > 0).all()  # the unseen item is none
        together = np.abs(np.diff(np.flatnonzero(row == 50)))
        assert together.max() > 10  # a positive's negatives are anywhere
    by_row = [samples[np.lexsort(samples.T[[2, 0, 5]])] for samples in epochs]
    assert not np.array_equal(by_row[0], by_row[1])
    other_seed = epoch_of(source(stored, windows=windows, seed=6), 0)
    assert not np.array_equal(other_seed[np.lexsort(other_seed.T[[2, 0, 5]])], by_row[0])


def test_negatives_are_uniform_among_the_items_a_user_has_not(stored):
    batches = source(stored, negatives=20)
    label, user, item = np.concatenate([epoch_of(batches, epoch) for epoch in range(20)])[:, :3].astype(int).T
    for one in np.unique(user):
        counts = np.bincount(item[(label == 0) & (user == one)], minlength=ITEMS)
        allowed = np.setdiff1d(np.arange(1, ITEMS), [i for u, i in stored[1] if u == one])
        assert counts.sum() == counts[allowed].sum()
        expected = counts.sum() / len(allowed)
        chi_square = ((counts[allowed] - expected) ** 2 / expected).sum()
        freedom = len(allowed) - 1
        assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5, one


@pytest.mark.parametrize("windows", [None, Windows(4, 2)])
def test_hosts_read_parts_of_the_same_global_batch(stored, windows):
    whole = source(stored, windows=windows, padded=104, unseen_rate=0.2)
    for hosts in (2, 4):
        parts = [
            source(stored, windows=windows, padded=104, unseen_rate=0.2, host=h, hosts=hosts) for h in range(hosts)
        ]
        for step in (0, 3, whole.steps_per_epoch - 1, whole.steps_per_epoch + 2):
            for name, array in whole[step].items():
                assert np.array_equal(np.concatenate([part[step][name] for part in parts]), array), name


@pytest.mark.parametrize("windows", [None, Windows(4, 2)])
def test_a_step_depends_on_neither_order_nor_threads(stored, windows):
    expected = [source(stored, windows=windows, unseen_rate=0.1)[step] for step in range(25)]
    shared, steps = source(stored, windows=windows, unseen_rate=0.1), np.random.default_rng(0).permutation(25).tolist()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for step, found in zip(steps, pool.map(shared.__getitem__, steps), strict=True):
            for name, array in expected[step].items():
                assert np.array_equal(found[name], array), (step, name)


def test_unseen_ids_and_padding_are_as_without_negatives(stored):
    plain, forgetful = source(stored, padded=128), source(stored, padded=128, unseen_rate=0.1)
    differs = np.concatenate([plain[step]["rows"] != forgetful[step]["rows"] for step in range(60)])
    changed = np.concatenate([forgetful[step]["rows"] for step in range(60)])
    assert np.array_equal(changed[differs], np.broadcast_to(OFFSETS, changed.shape)[differs])
    assert abs(differs[:, 4].sum() / (changed[:, 4] != EMPTY).sum() - 0.1) < 0.01
    last = plain[plain.steps_per_epoch - 1]
    assert (last["rows"][12:] == EMPTY).all() and not last["mask"][12:].any() and not last["labels"][12:].any()


def test_items_are_those_of_training_rows_or_all_where_ids_are_taken_as_they_are(tmp_path):
    schema = make_schema((5, 9), ("user", "item"), "implicit")
    layout = RecordLayout.for_schema(schema)
    ids = np.array([[1, 5 + 2], [1, 5 + 4], [2, 5 + 6]], np.int32)
    write_split(tmp_path, "train", layout.pack(np.ones(3), ids), layout, block_rows=16)
    store = BlockStore(tmp_path / "train.lmdb")
    assert (WithNegatives(store, schema, 1).items - 5).ravel().tolist() == [2, 4, 6]
    as_is = dataclasses.replace(schema.fields[1], transform={"add": 1})
    schema = dataclasses.replace(schema, fields=(schema.fields[0], as_is))
    assert (WithNegatives(store, schema, 1).items - 5).ravel().tolist() == list(range(1, 9))


def with_row(schema, **changes):
    return dataclasses.replace(schema, **changes)


@pytest.mark.parametrize(
    "schema, message",
    [
        (schema_of(_1={"role": None}), "exactly one field with role 'item'"),
        (schema_of(_0={"role": None}), "exactly one field with role 'user'"),
        (schema_of(_1={"transform": {"split": "|", "max": 1}}), "needs as item a field of one category a row.*'f1'"),
        (
            schema_of(_4={"transform": {"cross": ["f0", "f1"], "buckets": 2}}),
            "cannot know field 'f4', a cross of f0, f1",
        ),
        (with_row(SCHEMA, label=dataclasses.replace(SCHEMA.label, rule="value")), "its labels are numbers"),
    ],
)
def test_data_that_cannot_have_negatives(schema, message, stored):
    with pytest.raises((NegativesError, SchemaError), match=message):
        WithNegatives(stored[0], schema, 1)


def test_crosses_within_the_item_change_with_it():
    schema = schema_of(_4={"transform": {"cross": ["f1", "f2"], "buckets": ROWS - 1}})
    assert [field.name for field in item_fields(schema, schema.fields[1])] == ["f1", "f2", "f3", "f4"]


def test_training_refuses_rows_that_are_no_positives_and_users_with_every_item(small_data, tmp_path):
    config = lambda data: make_config("lr", data, {"data": {"negatives": 2}, "run": {"output_dir": f"{tmp_path}/run"}})
    with pytest.raises(
        UserError, match=r"--data.negatives=2 goes with .* all positive, .* of its 900 have the label 0"
    ):
        train(config(small_data))
    schema = make_schema((3, 6), ("user", "item"), "implicit")
    data = write_data_set(tmp_path / "all", schema, rows=(400, 9, 9), positive=True)
    with pytest.raises(UserError, match=r"f0 number [12] \(row [12] of the table\) has training rows of all 5 items"):
        train(config(data))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def clubs(tmp_path_factory):
    """Files as the NCF paper's, and data sets: users of three clubs, who choose among the items of their own."""
    folder, rng = tmp_path_factory.mktemp("clubs"), np.random.default_rng(1)
    own = {user: [60 * (user % 3) + int(item) for item in rng.permutation(60)[:21]] for user in range(90)}
    (folder / "train").write_text("".join(f"{user}\t{item}\n" for user in own for item in own[user][1:]))
    lines = []
    for user, items in own.items():
        others = np.setdiff1d(np.arange(180), items)
        lines.append("\t".join([f"({user},{items[0]})", *map(str, rng.choice(others, 30, replace=False))]) + "\n")
    (folder / "test").write_text("".join(lines))
    for name, valid in (("clean", "leave_one_out:30"), ("paper", f"{folder}/test")):
        files = (f"{folder}/train", valid, f"{folder}/test")
        options = BuildOptions("ncf", f"{folder}/{name}", split="files", split_files=files)
        build(options, say=lambda _: None)
    return folder


def neumf(data, output, **keys):
    model = {"name": "ncf", "variant": "gmf", "embed_dim": 8, "embed_std": 0.01}
    sections = {"model": model, "data": {"negatives": 4}, "optimizer": {"lr": 0.01}, "run": {"devices": 1}}
    sections["run"] |= {"output_dir": str(output), "quiet": True}
    return train(make_config("ncf", data, sections, **{"batch_size": 128, "eval_batch_size": 4096, **keys}))


def test_a_model_learns_whom_items_are_for(clubs, tmp_path, capsys):
    result = neumf(clubs / "clean", tmp_path / "run", epochs=8)
    said = capsys.readouterr().out
    assert "negatives: 6,840 of the rows, 4 a positive, drawn anew every epoch from 180 items: item" in said
    assert result["steps"] == 8 * -(-90 * 19 * 5 // 128) and not result["valid_is_test"]
    assert result["valid"]["auc"] > 0.8 and result["test"]["auc"] > 0.8


def test_a_run_that_was_stopped_goes_on_with_the_same_negatives(clubs, tmp_path, capsys):
    whole = neumf(clubs / "paper", tmp_path / "whole", epochs=2, steps=87)
    assert "the best epoch is chosen on test" in capsys.readouterr().out and whole["valid_is_test"]
    assert whole["valid"] == whole["test"]
    for steps in (3, 71, 87):  # within the first epoch, at its last step, within the second
        neumf(clubs / "paper", tmp_path / "parts", epochs=2, steps=steps)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")

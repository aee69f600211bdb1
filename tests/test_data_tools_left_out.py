"""A valid split taken out of the training file: an item of each user, with negatives that are none of its items."""

import collections
import dataclasses

import numpy as np
import pytest
from test_data_tools_ncf import options, rows

from data_tools.build import build
from data_tools.cli import main
from data_tools.errors import DataError
from data_tools.formats import FORMATS, open_rows
from data_tools.inspect import inspect
from data_tools.left_out import LeftOut, Remaining, draw_distinct, left_out
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from dist_fm.data.schema import read_schema

NCF = FORMATS["ncf"]
USERS, ITEMS, NEGATIVES = 40, 60, 12


def draw_pairs():
    """Users 0 to 39 with one item or more, some of them twice; user 40 has all but 5 of the items."""
    rng = np.random.default_rng(2)
    pairs = [(user, int(item)) for user in range(USERS) for item in rng.integers(0, ITEMS, 1 + user % 9)]
    pairs += [(USERS, item) for item in range(ITEMS - 5)] + [(user, ITEMS - 1) for user in (0, 9)]  # 0: its second
    rng.shuffle(pairs)
    return [tuple(pair) for pair in pairs]


PAIRS = draw_pairs()
TEST = "".join(f"({user},{(7 * user + 3) % ITEMS})\t0\t1\n" for user in range(USERS + 1))
TESTED = {(user, (7 * user + 3) % ITEMS) for user in range(USERS + 1)}


def left_out_options(tmp_path, **changes):
    text = "".join(f"{user}\t{item}\n" for user, item in PAIRS) + "x\ty\n"
    found = options(tmp_path, text, TEST, **changes)
    train, _, test = found.split_files
    return dataclasses.replace(found, split_files=(train, f"leave-one-out:{NEGATIVES}", test))


def test_an_item_of_each_user_is_valid_with_negatives_and_no_longer_for_training(tmp_path):
    manifest = build(left_out_options(tmp_path, seed=4), say=lambda _: None)
    assert verify(tmp_path / "set") == [] and manifest.rows_quarantined == 1
    train = {row[1:] for row in rows(tmp_path / "set", "train")[0]}
    valid, groups = rows(tmp_path / "set", "valid")
    positives = {row[1]: row[2] for row in valid if row[0]}
    of_user = collections.defaultdict(set)
    for user, item in PAIRS:
        of_user[user].add(item)
    assert positives.keys() == {user for user, items in of_user.items() if len(items) > 1}
    assert train == {*PAIRS} - {*positives.items()}  # also where a pair is there twice
    assert len(rows(tmp_path / "set", "train")[0]) == sum(positives.get(user) != item for user, item in PAIRS)
    lists = [[row for row in valid if row[1] == user] for user in positives]
    known = {*PAIRS} | TESTED
    for (first, *others), user in zip(lists, positives, strict=True):
        assert first == (1, user, positives[user]) and not any(row[0] for row in others)
        free = {item for item in range(ITEMS) if (user, item) not in known}
        drawn = [row[2] for row in others]
        assert len(drawn) == len({*drawn}) == min(NEGATIVES, len(free)) and {*drawn} <= free
    assert [row for of_one in lists for row in of_one] == valid  # in the order of the training file, together
    assert all(
        len({group for row, group in zip(valid, groups, strict=True) if row[1] == user}) == 1 for user in positives
    )
    assert "valid: an item of each user, left out of train, and 12 negatives" in inspect(tmp_path / "set")


def test_what_is_left_out_depends_on_the_seed_alone(tmp_path):
    found = []
    for name, changes in (("a", {}), ("b", {"workers": 2}), ("c", {"seed": 1})):
        made = left_out_options(tmp_path, **changes)
        build(dataclasses.replace(made, output=str(tmp_path / name)), say=lambda _: None)
        found.append([rows(tmp_path / name, split) for split in ("train", "valid")])
    assert found[0] == found[1] != found[2]
    for chunk_bytes in (20, 10**6):
        opened = lambda: open_rows(NCF.layout, tmp_path / "x.train.rating", label=NCF.label, chunk_bytes=chunk_bytes)  # noqa: B023
        chunks = list(Remaining(opened(), "user", ("item",), 0))
        pairs = [(*pair,) for chunk in chunks for pair in zip(*map(np.asarray, chunk.columns.values()), strict=True)]
        assert [(1, int(user), int(item)) for user, item in pairs] == found[0][0][0]
        chunks = list(LeftOut(opened(), "user", ("item",), 0, NEGATIVES, None))
        assert [chunk.first_row for chunk in chunks] == [0, *np.cumsum([chunk.num_rows for chunk in chunks])[:-1]]
        items = [int(item) for chunk in chunks for item in np.asarray(chunk.columns["item"])]
        positives = [item for chunk, at in _positives(chunks) for item in [int(np.asarray(chunk.columns["item"])[at])]]
        assert positives == [row[2] for row in found[0][1][0] if row[0]] and len(items) > len(positives)


def _positives(chunks):
    return [(chunk, at) for chunk in chunks for at in np.flatnonzero(chunk.labels)]


def test_each_item_of_a_user_is_as_likely_to_be_left_out():
    users, items = np.repeat(np.arange(4000), 3), np.tile([1, 4, 5], 4000)
    chosen = left_out(users, items, 9, seed=3)
    assert (np.bincount(users[chosen]) == 1).all()
    assert np.abs(np.bincount(items[chosen])[[1, 4, 5]] / 4000 * 3 - 1).max() < 0.06


def test_distinct_numbers_are_sets_of_equal_likelihood():
    sizes = np.array([5] * 30_000 + [2, 0, 3])
    drawn = draw_distinct(sizes, 3, seed=1)
    few = [sorted(row[row >= 0]) for row in drawn[-3:]]
    assert few == [[0, 1], [], [0, 1, 2]]
    sets, counts = np.unique(np.sort(drawn[:-3], axis=1), axis=0, return_counts=True)
    assert len(sets) == 10 and (np.diff(sets, axis=1) > 0).all() and sets.min() == 0 and sets.max() == 4
    assert np.abs(counts / 3000 - 1).max() < 0.06


def test_valid_may_be_test_and_the_data_set_says_so(tmp_path):
    made, said = options(tmp_path), []
    train, _, test = made.split_files
    build(dataclasses.replace(made, split_files=(train, test, test)), said.append)
    assert "note: valid is the test split itself" in "\n".join(said)
    assert read_schema(tmp_path / "set").valid_is_test and verify(tmp_path / "set") == []
    assert rows(tmp_path / "set", "valid") == rows(tmp_path / "set", "test")
    assert "valid: the test split itself" in inspect(tmp_path / "set")
    build(dataclasses.replace(made, output=str(tmp_path / "other")), said.append)
    assert not read_schema(tmp_path / "other").valid_is_test


def test_what_cannot_be_left_out(tmp_path, capsys):
    made = left_out_options(tmp_path)
    train, _, test = made.split_files
    for valid, changes, message in (
        ("leave_one_out:0", {}, "--valid=leave_one_out:0: the number of negatives must be at least 1"),
        ("leave_one_out:x", {}, "--valid=leave_one_out:x: the number of negatives must be at least 1"),
        ("leave_one_out", {"label": "above:3"}, "--valid=leave_one_out goes with rows that are all positive"),
        ("leave_one_out", {"format": "criteo", "label": "implicit"}, "needs a field with the role 'user'"),
    ):
        with pytest.raises(DataError, match=message):
            build(dataclasses.replace(made, split_files=(train, valid, test), **changes))
    with pytest.raises(DataError, match="training rows that are all positive"):
        build(dataclasses.replace(made, split_files=(test, "leave_one_out", test)))
    (tmp_path / "single").write_text("0\t1\n1\t1\n0\t1\n")
    with pytest.raises(DataError, match="no user has two items"):
        build(dataclasses.replace(made, split_files=(str(tmp_path / "single"), "leave_one_out", test)))
    flags = (f"--train={train}", "--valid=leave_one_out:3", f"--test={test}", f"--output={tmp_path}/cli")
    assert main(["build-lmdb", "--format=ncf", "--split=files", "--workers=1", *flags]) == 0
    assert "rows quarantined" in capsys.readouterr().out


SIDES = """label = "y"
label_rule = "implicit"
[[field]]
name = "who"
role = "user"
[[field]]
name = "film"
role = "item"
[[field]]
name = "genre"
role = "item_side"
split = "|"
max = 2
[[field]]
name = "length"
role = "item_side"
kind = "numeric"
[[field]]
name = "day"
"""


def test_negatives_take_their_items_columns_with_them(tmp_path):
    rng = np.random.default_rng(0)
    films = {f"f{n}": (f"g{n % 4}|g{n % 3}", str(n / 2)) for n in range(30)}
    lines = [(f"u{n % 8}", f"f{rng.integers(30)}", f"d{n % 5}") for n in range(60)]
    text = "y,who,film,genre,length,day\n" + "".join(f"5,{u},{f},{','.join(films[f])},{d}\n" for u, f, d in lines)
    (tmp_path / "rows.csv").write_text(text)
    (tmp_path / "schema.toml").write_text(SIDES)
    files = (str(tmp_path / "rows.csv"), "leave_one_out:5", None)
    made = BuildOptions("csv", str(tmp_path / "set"), split="files", split_files=files, negatives=2)
    build(dataclasses.replace(made, schema=str(tmp_path / "schema.toml")), say=lambda _: None)
    assert verify(tmp_path / "set") == []
    found = list(inspect(tmp_path / "set", rows=1000))
    samples = [dict(part.split("=") for part in line.split(": ")[1].split()) for line in found if "train row" in line]
    assert sum(sample["label"] == "0" for sample in samples) == 2 * sum(sample["label"] == "1" for sample in samples)
    pairs = {(sample["who"], sample["film"]) for sample in samples if sample["label"] == "1"}
    for sample in samples:
        genre, length = films[sample["film"]]
        assert (sample["genre"], float(sample["length"])) == (genre, float(length))
        assert ((sample["who"], sample["film"]) in pairs) == (sample["label"] == "1")

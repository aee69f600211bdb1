"""NCF's files: pairs that are all positive, given negatives, and negatives sampled when the data set is built."""

import collections
import dataclasses

import numpy as np
import pytest

from data_tools.build import build
from data_tools.errors import DataError
from data_tools.formats import FORMATS, open_rows
from data_tools.labels import parse_rule
from data_tools.negatives import SampledNegatives, draw_negatives
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from dist_fm.data.schema import read_schema
from dist_fm.data.store import BlockStore

NCF = FORMATS["ncf"]
PAIRS = [(0, 1), (0, 2), (1, 0), (2, 4), (2, 1), (2, 2)]
GIVEN = "(0,3)\t4\t0\n(1,1)\t3\t2\n\n(2,0)\t3\n(9,2)\t7\t1\n"


def options(tmp_path, train=None, given=GIVEN, **changes):
    train = "".join(f"{user}\t{item}\n" for user, item in PAIRS) if train is None else train
    (tmp_path / "x.train.rating").write_text(train)
    (tmp_path / "x.test.negative").write_text(given)
    files = (str(tmp_path / "x.train.rating"), None, str(tmp_path / "x.test.negative"))
    return BuildOptions("ncf", str(tmp_path / "set"), **{"split": "files", "split_files": files, **changes})


def rows(directory, split):
    """Label, raw user and raw item of each row of a split, and the groups."""
    schema = read_schema(directory)
    with BlockStore(directory / f"{split}.lmdb") as store:
        words = store.slice(0, store.rows)
        ids = store.layout.ids(words) - [field.offset + 1 for field in schema.fields]
        labels, groups = store.layout.labels(words).astype(int), store.layout.groups(words)
        return [(label, *pair) for label, pair in zip(labels.tolist(), ids.tolist(), strict=True)], groups.tolist()


def test_given_negatives_are_rows_behind_their_positive_in_the_order_of_the_file(tmp_path):
    manifest = build(options(tmp_path), say=lambda _: None)
    train, _ = rows(tmp_path / "set", "train")
    assert train == [(1, user, item) for user, item in PAIRS]
    test, groups = rows(tmp_path / "set", "test")
    # Item 3 is in no training pair, and yet not unseen (-1), as item 7 and user 9 are, which lie behind the last ids.
    expected = [(1, 0, 3), (0, 0, 4), (0, 0, 0), (1, 1, 1), (0, 1, 3), (0, 1, 2), (1, 2, 0), (0, 2, 3)]
    assert test == [*expected, (1, -1, 2), (0, -1, -1), (0, -1, 1)]
    assert [groups.index(group) for group in groups] == [0, 0, 0, 3, 3, 3, 6, 6, 8, 8, 8]
    assert (manifest.rows_in, manifest.rows_quarantined) == (6 + 11 + 1, 1) and verify(tmp_path / "set") == []
    assert "\t3\tan empty line\t" in (tmp_path / "set" / "quarantine.tsv").read_text()


@pytest.mark.parametrize(
    "line, reason",
    [
        ("(1,2)", "there are no negatives"),
        ("1,2\t3", "'1,2' is not a pair as in (user,item)"),
        ("(1,2,3)\t3", "'(1,2,3)' is not a pair as in (user,item)"),
        ("(1,x)\t3", "id 'x' is not an integer from 0 to 2147483646"),
        ("(1,2)\t3\t-4", "id '-4' is not an integer from 0 to 2147483646"),
        ("(1,2)\t3\t2147483647", "id '2147483647' is not an integer from 0 to 2147483646"),
        ("(1,2)\t3\t\t4", "id '' is not an integer from 0 to 2147483646"),
    ],
)
def test_lines_that_cannot_be_read(line, reason, tmp_path):
    path = tmp_path / "test.negative"
    path.write_text(f"(5,6)\t7\n{line}\n(5,8)\t9\n\n")
    for chunk_bytes in (3, 1000):
        chunks = list(open_rows(NCF.layout, path, label=NCF.label, chunk_bytes=chunk_bytes))
        assert [(bad.line, bad.reason, bad.raw) for chunk in chunks for bad in chunk.bad] == [(2, reason, line)]
        assert np.concatenate([chunk.lines for chunk in chunks]).tolist() == [1, 1, 3, 3]
        assert np.concatenate([chunk.columns["item"] for chunk in chunks]).tolist() == ["6", "7", "8", "9"]
        assert np.concatenate([chunk.labels for chunk in chunks]).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    "text",
    [
        "0\t1\t5\t99\n3\t4\t1\t98\n",
        "0\t1\n3\t4\n",
        "0\t1\t5\n3\t4\t1\n",
        "user_id\titem_id\ttime\n0\t1\t99\n3\t4\t98\n",
    ],
)
def test_pairs_may_have_ratings_and_times_which_do_not_decide_the_label(text, tmp_path):
    (tmp_path / "pairs").write_text(text)
    reader = open_rows(NCF.layout, tmp_path / "pairs", label=NCF.label)
    (chunk,) = reader
    assert np.asarray(chunk.columns["item"]).tolist() == ["1", "4"] and chunk.labels.tolist() == [1, 1]
    assert reader.has_times == ("9" in text) and (chunk.times is None or chunk.times.tolist() == [99, 98])


def test_ratings_may_decide_the_label_where_there_are_any(tmp_path):
    (tmp_path / "pairs").write_text("0\t1\t5\n3\t4\t1\n")
    (chunk,) = open_rows(NCF.layout, tmp_path / "pairs", label=parse_rule("above:3", "rating"))
    assert chunk.labels.tolist() == [1, 0]
    (tmp_path / "pairs").write_text("0\t1\n3\t4\n")
    chunk = next(iter(open_rows(NCF.layout, tmp_path / "pairs", label=parse_rule("above:3", "rating"))))
    assert [bad.reason for bad in chunk.bad] == ["2 columns instead of 3"] * 2


def test_rows_to_predict_are_pairs_or_test_lines(tmp_path):
    for text in ("0\t1\n0\t4\n", "(0,1)\t4\n", "item,user\n1,0\n4,0\n"):
        (tmp_path / "rows").write_text(text)
        (chunk,) = open_rows(NCF.layout, tmp_path / "rows", for_prediction=True, keep=("user",))
        pairs = zip(np.asarray(chunk.columns["user"]), np.asarray(chunk.columns["item"]), strict=True)
        assert [*pairs] == [("0", "1"), ("0", "4")] and chunk.labels is None
    (tmp_path / "rows").write_text("(0,1)\t4\n")
    with pytest.raises(DataError, match="unknown column of .*'rating' .*there are: user, item"):
        open_rows(NCF.layout, tmp_path / "rows", for_prediction=True, keep=("rating",))
    with pytest.raises(DataError, match="the file is empty"):
        (tmp_path / "rows").write_text("\n\n")
        open_rows(NCF.layout, tmp_path / "rows", for_prediction=True)


def test_negatives_are_sampled_among_the_items_a_user_has_not(tmp_path):
    rng = np.random.default_rng(0)
    pairs = {
        (int(user), int(item)) for user, item in zip(rng.integers(0, 30, 600), rng.zipf(1.5, 600) % 40, strict=True)
    }
    pairs |= {(30, item) for item in range(40)}  # this user has every item, and the next all but one
    pairs |= {(31, item) for item in range(39)}
    text = "".join(f"{user}\t{item}\t5\t{user * item}\n" for user, item in pairs)
    sampled = options(tmp_path, text, negatives=4, seed=7)
    manifest = build(sampled, say=lambda _: None)
    train, _ = rows(tmp_path / "set", "train")
    assert [row[1:] for row in train if row[0]] == [*pairs]
    positives = collections.Counter()
    for at, (label, user, item) in enumerate(train):
        positives[user] += label
        if not label:
            assert (user, item) not in pairs and user == train[at - 1][1]
    negatives = collections.Counter(user for label, user, _ in train if not label)
    assert {user: negatives[user] for user in range(30)} == {user: 4 * positives[user] for user in range(30)}
    assert (negatives[30], negatives[31]) == (0, 4 * 39)
    drawn = collections.Counter(item for label, _, item in train if not label)
    free = {item: sum((user, item) not in pairs for user in range(30)) for item in range(40)}
    assert all(drawn[item] > 0 for item in free if free[item])
    # Those of the test file are as given, and rows in are rows out.
    assert manifest.splits["test"]["rows"] == 11 and manifest.rows_in == len(train) + 11 + 1
    again = dataclasses.replace(sampled, output=str(tmp_path / "again"))
    build(again, say=lambda _: None)
    assert rows(tmp_path / "again", "train") == rows(tmp_path / "set", "train")
    build(dataclasses.replace(again, seed=8, overwrite=True), say=lambda _: None)
    assert rows(tmp_path / "again", "train") != rows(tmp_path / "set", "train")


def test_negatives_are_uniform_among_the_others():
    users, items = np.zeros(2, int), np.array([3, 5])
    drawn = draw_negatives(users, items, 8, 30_000, seed=1)
    assert drawn.shape == (2, 30_000) and not np.isin(drawn, [3, 5]).any()
    counts = np.bincount(drawn.ravel(), minlength=8)[[0, 1, 2, 4, 6, 7]]
    assert np.abs(counts / 10_000 - 1).max() < 0.05


def test_negatives_do_not_depend_on_how_the_file_is_read(tmp_path):
    (tmp_path / "pairs").write_text("".join(f"{n % 13}\t{n * n % 31}\n" for n in range(200)))
    found = []
    for chunk_bytes in (20, 1000, 10**6):
        reader = open_rows(NCF.layout, tmp_path / "pairs", label=NCF.label, chunk_bytes=chunk_bytes)
        chunks = list(SampledNegatives(reader, "user", ("item",), 3, seed=5))
        assert [chunk.first_row for chunk in chunks] == [0, *np.cumsum([chunk.num_rows for chunk in chunks])[:-1]]
        found.append([np.concatenate([chunk.columns["item"] for chunk in chunks]).tolist(),
                      np.concatenate([chunk.labels for chunk in chunks]).tolist()])  # fmt: skip
    assert found[0] == found[1] == found[2] and found[0][1].count(0) > 500


def test_any_rows_with_user_and_item_may_be_taken_as_implicit(tmp_path):
    text = "".join(f"{n % 7}::{n % 11}::{n % 5 + 1}::{n}\n" for n in range(60))
    (tmp_path / "ratings.dat").write_text(text)
    given = BuildOptions("movielens-1m", str(tmp_path / "set"), (str(tmp_path / "ratings.dat"),), label="implicit",
                         split="time", negatives=2)  # fmt: skip
    manifest = build(given, say=lambda _: None)
    assert manifest.rows_in == 180 and read_schema(tmp_path / "set").label.is_binary and verify(tmp_path / "set") == []
    with BlockStore(tmp_path / "set" / "test.lmdb") as store:
        assert store.layout.labels(store.slice(0, store.rows)).tolist() == [1, 0, 0] * 6


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"negatives": -1}, "--negatives=-1: must not be negative"),
        ({"negatives": 1, "label": None}, "--negatives=1 goes with rows that are all positive .* rule above:3"),
        ({"negatives": 1, "split": "leave_one_out"}, "does not go with --split=leave_one_out"),
        ({"negatives": 1, "format": "criteo"}, "needs a field with the role 'user', which criteo does not have"),
    ],
)
def test_negatives_that_cannot_be_sampled(changes, message, tmp_path):
    (tmp_path / "raw").write_text("1::2::3::4\n")
    given = BuildOptions("movielens-1m", str(tmp_path / "set"), (str(tmp_path / "raw"),), label="implicit")
    with pytest.raises(DataError, match=message):
        build(dataclasses.replace(given, **changes))


def test_the_papers_files(shared, tmp_path):
    folder = shared / "data" / "ml-1m" / "ncf"
    (tmp_path / "train").write_bytes(b"".join((folder / "ncf_ml-1m.train.pairs.tsv").open("rb").readlines()[:20_000]))
    files = (str(tmp_path / "train"), None, str(folder / "ncf_ml-1m.test.negative"))
    manifest = build(BuildOptions("ncf", str(tmp_path / "set"), split="files", split_files=files), say=lambda _: None)
    assert manifest.splits["test"] == {"rows": 604_000, "positives": 6_040, "blocks": 74}
    assert manifest.rows_quarantined == 0
    test, groups = rows(tmp_path / "set", "test")
    assert [row[0] for row in test] == [1, *[0] * 99] * 6_040
    assert all(len({*groups[at : at + 100]}) == 1 for at in range(0, 604_000, 100)) and len({*groups}) == 6_040
    with open(folder / "ncf_ml-1m.test.rating") as ratings:
        known = {field.name: field.rows - 1 for field in read_schema(tmp_path / "set").fields}
        for at, line in zip(range(0, 604_000, 100), ratings, strict=True):
            user, item = map(int, line.split("\t")[:2])
            assert test[at] == (1, user if user < known["user"] else -1, item if item < known["item"] else -1)

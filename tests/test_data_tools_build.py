"""build-lmdb end to end: splits, vocabularies, encoding, quarantine, and all or nothing."""

import collections
import math
import os
import random
import shutil

import numpy as np
import pytest
from raw_logs import make

from data_tools import split as splitting
from data_tools.build import build
from data_tools.encode import Encoder
from data_tools.errors import DataError
from data_tools.formats import FORMATS, open_rows
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from dist_fm.data.schema import read_schema
from dist_fm.data.store import BlockStore

SPLITS = ("train", "valid", "test")


def read_back(directory):
    """Per split the labels and the ids of all rows."""
    found = {}
    for split in SPLITS:
        store = BlockStore(directory / f"{split}.lmdb")
        rows = store.slice(0, store.rows)
        found[split] = (store.layout.labels(rows).tolist(), store.layout.ids(rows).tolist())
    return found


def expected_splits(rows, kind, fractions=(0.8, 0.1, 0.1)):
    """The split of each row by plain loops, for the splits that involve no hash."""
    count = len(rows)
    cuts = [round(fractions[0] * count), round((fractions[0] + fractions[1]) * count)]
    if kind == "leave_one_out":
        splits = [0] * count
        of_user = collections.defaultdict(list)
        for number, row in enumerate(rows):
            of_user[row[0]].append((int(row[3]), number))
        for seen in of_user.values():
            if len(seen) >= 3:
                splits[sorted(seen)[-1][1]], splits[sorted(seen)[-2][1]] = 2, 1
        return splits
    order = sorted(range(count), key=lambda number: (int(rows[number][3]), number)) if kind == "time" else range(count)
    splits = [0] * count
    for rank, number in enumerate(order):
        splits[number] = (rank >= cuts[0]) + (rank >= cuts[1])
    return splits


@pytest.mark.parametrize("kind", ["time", "order", "leave_one_out", "none", "random", "user"])
@pytest.mark.parametrize("min_count", [1, 5])
def test_a_data_set_equals_one_made_by_plain_loops(tmp_path, ratings, kind, min_count):
    path, rows = ratings
    manifest = make(path, tmp_path / "set", split=kind, min_count=min_count, seed=3)
    if kind == "random":
        splits = splitting.assign(kind, 2000, (0.8, 0.1, 0.1), 3).tolist()
    elif kind == "user":
        users = sorted({row[0] for row in rows})
        codes = np.array([users.index(row[0]) for row in rows])
        splits = splitting.assign(kind, 2000, (0.8, 0.1, 0.1), 3, None, codes, users).tolist()
    else:
        splits = [0] * 2000 if kind == "none" else expected_splits(rows, kind)
    ids, offset = [], 0
    for column in (0, 1):
        counts = collections.Counter(row[column] for row, split in zip(rows, splits, strict=True) if split == 0)
        order = sorted((v for v in counts if counts[v] >= min_count), key=lambda v: (-counts[v], v))
        ids.append({value: offset + 1 + number for number, value in enumerate(order)} | {None: offset})
        offset += len(order) + 1
    expected = {split: ([], []) for split in SPLITS}
    for row, split in zip(rows, splits, strict=True):
        labels, records = expected[SPLITS[split]]
        labels.append(float(int(row[2]) > 3))
        records.append([ids[column].get(row[column], ids[column][None]) for column in (0, 1)])
    assert read_back(tmp_path / "set") == expected
    schema = read_schema(tmp_path / "set")
    assert schema.num_rows == offset and [field.role for field in schema.fields] == ["user", "item"]
    assert manifest.splits == schema.counts == {
        split: {"rows": len(labels), "positives": int(sum(labels)), "blocks": math.ceil(len(labels) / 256)}
        for split, (labels, _) in expected.items()
    }  # fmt: skip
    assert verify(tmp_path / "set") == []


def test_random_splits_have_their_shares_and_follow_the_seed():
    one, same, other = (splitting.assign("random", 100_000, (0.8, 0.15, 0.05), seed) for seed in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    for splits in (one, other):
        assert np.abs(np.bincount(splits) / 100_000 - [0.8, 0.15, 0.05]).max() < 0.005
    assert abs((one == other).mean() - (0.8**2 + 0.15**2 + 0.05**2)) < 0.01
    assert np.array_equal(splitting.assign("random", 5_000, (0.8, 0.15, 0.05), 0), one[:5_000])


def test_a_user_is_in_one_split_whatever_the_file_order(tmp_path, ratings):
    path, rows = ratings
    shuffled = tmp_path / "shuffled"
    shuffled.write_text("".join("::".join(row) + "\n" for row in random.Random(1).sample(rows, len(rows))))
    seen = []
    for name, file in (("a", path), ("b", shuffled)):
        make(file, tmp_path / name, split="user", fractions=(0.6, 0.2, 0.2))
        values = Encoder.from_directory(tmp_path / name).vocabularies["user.tsv"].values
        seen.append(set(values))
        for split in ("valid", "test"):
            assert {ids[0] for ids in read_back(tmp_path / name)[split][1]} == {0}
    assert seen[0] == seen[1] and 20 < len(seen[0]) < 50


def test_split_from_files(tmp_path, ratings):
    path, rows = ratings
    other = tmp_path / "other.dat"
    other.write_text("u1::never::5::1\nnobody::i1::1::2\n")
    manifest = make(path, tmp_path / "set", inputs=(), split="files", split_files=(str(path), None, str(other)))
    assert [manifest.splits[split]["rows"] for split in SPLITS] == [2000, 0, 2]
    encoder = Encoder.from_directory(tmp_path / "set")
    labels, ids = read_back(tmp_path / "set")["test"]
    assert labels == [1, 0] and encoder.decode(np.array(ids)) == [["u1", "<unseen>"], ["<unseen>", "i1"]]


def test_many_inputs_are_read_in_order(tmp_path, ratings):
    path, rows = ratings
    first, second = tmp_path / "1.dat", tmp_path / "2.dat"
    lines = path.read_text().splitlines(keepends=True)
    first.write_text("".join(lines[:700]).rstrip("\n"))
    second.write_text("".join(lines[700:]))
    make(path, tmp_path / "one")
    make(None, tmp_path / "two", inputs=(str(first), str(second)))
    assert read_back(tmp_path / "one") == read_back(tmp_path / "two")


def test_the_encoder_gives_the_rows_that_were_built(tmp_path, ratings):
    path, rows = ratings
    make(path, tmp_path / "set", split="order", min_count=2)
    run = tmp_path / "run"  # prediction has copies of these, and no manifest
    run.mkdir()
    shutil.copy(tmp_path / "set" / "schema.json", run)
    shutil.copytree(tmp_path / "set" / "vocab", run / "vocab")
    encoder = Encoder.from_directory(run)
    built = [ids for split in SPLITS for ids in read_back(tmp_path / "set")[split][1]]
    found, values = encoder.encode({"user": [row[0] for row in rows], "item": [row[1] for row in rows], "more": [1]})
    assert found.dtype == np.int32 and found.tolist() == built and values is None
    chunks = [
        encoder.encode(chunk.columns)[0]
        for chunk in open_rows(encoder.schema.source, path, for_prediction=True, chunk_bytes=1000)
    ]
    assert len(chunks) > 5 and np.concatenate(chunks).tolist() == built
    item = encoder.schema.fields[1].offset
    assert encoder.encode({"user": ["new", None, ""], "item": ["new"] * 3})[0].tolist() == [[0, item]] * 3
    with pytest.raises(DataError, match="no column 'item'; columns given: user"):
        encoder.encode({"user": ["1"]})
    (run / "vocab" / "item.tsv").write_text("x\t1\n")
    with pytest.raises(DataError, match=r"item.tsv: the vocabulary was changed"):
        Encoder.from_directory(run)
    with pytest.raises(DataError, match="has no schema.json"):
        Encoder.from_directory(tmp_path)


def test_values_survive_odd_characters(tmp_path):
    values = ["tab\\t", "back\\slash", "\\n", "a\x0bb", "é", "\\", "c\x85d", "e\u2028f", "x\ry"]
    path = tmp_path / "raw"
    path.write_text("".join(f"{value}::i::5::1\n" for value in values), newline="\n")
    make(path, tmp_path / "set", split="none")
    encoder = Encoder.from_directory(tmp_path / "set")
    assert sorted(encoder.vocabularies["user.tsv"].values) == sorted(values)
    ids = encoder.encode({"user": values, "item": ["i"] * len(values)})[0]
    assert [row[0] for row in encoder.decode(ids)] == values


def test_regression_labels(tmp_path, ratings):
    path, rows = ratings
    make(path, tmp_path / "set", label="value", split="none")
    assert read_back(tmp_path / "set")["train"][0] == [float(row[2]) for row in rows]
    schema = read_schema(tmp_path / "set")
    assert schema.label.rule == "value" and not schema.label.is_binary


BAD_LINES = ["1::2::3", "1::2::good::4", "::2::3::4", "", "tab\there::2::x::4"]


def test_bad_rows_are_counted_and_quarantined(tmp_path):
    path = tmp_path / "raw.dat"
    path.write_text("\n".join(["1::2::5::4", *BAD_LINES, "1::2::1::4"]) + "\n")
    manifest = make(path, tmp_path / "set", split="none")
    assert (manifest.rows_in, manifest.rows_quarantined, manifest.splits["train"]["rows"]) == (7, 5, 2)
    lines = (tmp_path / "set" / "quarantine.tsv").read_text().splitlines()
    assert lines == [
        "file\tline\treason\traw",
        f"{path}\t2\t3 columns instead of 4\t1::2::3",
        f"{path}\t3\trating 'good' is not a number\t1::2::good::4",
        f"{path}\t4\tuser is empty\t::2::3::4",
        f"{path}\t5\tan empty line\t",
        f"{path}\t6\trating 'x' is not a number\ttab\\there::2::x::4",
    ]
    assert verify(tmp_path / "set") == []


def test_strict_stops_at_the_first_bad_row(tmp_path):
    path = tmp_path / "raw.dat"
    path.write_text("1::2::5::4\n1::2::good::4\n1::2\n")
    with pytest.raises(DataError, match=r"raw.dat:2: rating 'good' is not a number"):
        make(path, tmp_path / "set", strict=True)
    assert sorted(os.listdir(tmp_path)) == ["raw.dat"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "movielens-2m"}, "unknown format 'movielens-2m'; did you mean 'movielens-1m'"),
        ({"engine": "rya"}, "unknown engine 'rya'; did you mean 'ray'"),
        ({"split": "tiem"}, "unknown split 'tiem'; did you mean 'time'"),
        ({"label": "abov:3"}, "unknown label rule 'abov'; did you mean 'above:NUMBER'"),
        ({"min_count": 0}, "--min_count=0: must be at least 1"),
        ({"inputs": ()}, "needs --input=FILE"),
        ({"split": "files"}, "--split=files takes --train=FILE"),
        ({"split_files": ("a", None, None)}, "--train, --valid and --test go with --split=files"),
        ({"format": "criteo", "split": "time"}, "--split=time needs timestamps, which criteo rows do not have"),
        ({"format": "criteo", "split": "user"}, "--split=user needs a user field"),
        ({"format": "criteo"}, "none of the rows is good; the first: .*ratings.dat:1: 1 columns instead of 40"),
        ({"label": "binary"}, "none|neither"),
    ],
)
def test_impossible_builds_leave_nothing(tmp_path, ratings, options, message):
    path, rows = ratings
    if options == {"label": "binary"}:
        path = tmp_path / "raw"
        path.write_text("1::2::5::4\n")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(DataError, match=message):
        make(path, tmp_path / "set", **options)
    assert sorted(os.listdir(tmp_path)) == before


def test_fractions():
    assert splitting.parse_fractions("0.5,0.25,0.25") == (0.5, 0.25, 0.25)
    for text in ("1", "0.5,0.5", "a,b,c", "0.8,0.1,0.2", "0,0.5,0.5", "1.1,-0.1,0"):
        with pytest.raises(DataError, match="--fractions"):
            splitting.parse_fractions(text)


def test_a_time_split_needs_the_column(tmp_path):
    path = tmp_path / "raw.csv"
    path.write_text("userId,movieId,rating\n" + "1,2,5\n" * 10)
    with pytest.raises(DataError, match="has no timestamp column, which --split=time needs"):
        make(path, tmp_path / "set", format="movielens-csv", split="time")
    assert make(path, tmp_path / "set", format="movielens-csv", split="order").rows_in == 10


def test_two_builds_are_byte_equal(tmp_path, ratings):
    path, _ = ratings
    for name in "ab":
        make(path, tmp_path / name, min_count=2)
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_the_fingerprint_is_of_vocabularies_not_of_splits(tmp_path, ratings):
    path, rows = ratings
    doubled = tmp_path / "doubled"
    doubled.write_text(path.read_text())
    with open(doubled, "a") as file:
        file.write("u1::i1::5::1\n")
    prints = [
        make(source, tmp_path / name, split="none", block_rows=blocks).fingerprint
        for name, source, blocks in (("a", path, 256), ("b", path, 100), ("c", doubled, 256))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_building_again_does_nothing_or_needs_overwrite(tmp_path, ratings):
    path, _ = ratings
    copy = tmp_path / "raw.dat"
    shutil.copy(path, copy)
    make(copy, tmp_path / "set")
    before = os.stat(tmp_path / "set" / "manifest.json").st_mtime_ns
    said = []
    build(BuildOptions("movielens-1m", str(tmp_path / "set"), (str(copy),), block_rows=256), said.append)
    assert "complete already" in said[0]
    assert os.stat(tmp_path / "set" / "manifest.json").st_mtime_ns == before
    with pytest.raises(DataError, match="was built with other options; --overwrite replaces it"):
        make(copy, tmp_path / "set", seed=1)
    copy.write_text(copy.read_text() + "u1::i1::5::1\n")
    with pytest.raises(DataError, match="was built from other inputs; --overwrite replaces it"):
        make(copy, tmp_path / "set")
    assert make(copy, tmp_path / "set", seed=1, overwrite=True).rows_in == 2001
    assert sorted(os.listdir(tmp_path)) == ["raw.dat", "set"] and verify(tmp_path / "set") == []


def test_what_is_no_data_set_is_never_replaced(tmp_path, ratings):
    path, _ = ratings
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="home exists and is not a data set"):
            make(path, tmp_path / "home", overwrite=overwrite)
    with pytest.raises(DataError, match="letter exists and is not a directory"):
        make(path, tmp_path / "home" / "letter", overwrite=True)
    (tmp_path / "empty").mkdir()
    assert make(path, tmp_path / "empty").rows_in == 2000


def test_criteo_classes_are_torchfms(tmp_path, shared):
    """Every pair of rows has equal ids in a field exactly when torchfm's converter gives them equal ids."""
    path = shared / "data" / "criteo-sample" / "train.txt"
    with open(path) as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    rows = [row for row in rows if len(row) == 40]
    for min_count in (10, 3):
        make(path, tmp_path / str(min_count), format="criteo", split="none", min_count=min_count)
        labels, ids = read_back(tmp_path / str(min_count))["train"]
        assert labels == [float(row[0]) for row in rows]
        for field in range(39):
            cells = [_torchfm_token(row[field + 1]) if field < 13 else row[field + 1] for row in rows]
            counts = collections.Counter(cells)
            classes = [cell if counts[cell] >= min_count else None for cell in cells]
            ours = [row[field] for row in ids]
            pairs = set(zip(classes, ours, strict=True))
            assert len(pairs) == len(set(classes)) == len(set(ours)), f"field {field}"
            offset = read_schema(tmp_path / str(min_count)).fields[field].offset
            assert all((name is None) == (row == offset) for name, row in pairs)
    assert FORMATS["criteo"].min_count == 10


def _torchfm_token(cell):
    if cell == "":
        return "NULL"
    value = int(cell)
    return str(int(math.log(value) ** 2)) if value > 2 else str(value - 2)

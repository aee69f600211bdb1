"""verify finds whatever was changed in a data set; inspect says what is in it."""

import json
import random
import shutil

import numpy as np
import pytest

from data_tools.build import build
from data_tools.cli import main
from data_tools.inspect import inspect
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from dist_fm.data.records import RecordLayout
from dist_fm.data.store_writer import BlockWriter


@pytest.fixture
def data_set(tmp_path):
    """500 good and two bad rows; five blocks of training rows."""
    rng = random.Random(0)
    lines = [f"{rng.randint(1, 20)}::{rng.randint(1, 50)}::{rng.randint(1, 5)}::{n}" for n in range(500)]
    lines[3:3] = ["1::2::x::4", "1::2::y::4"]
    (tmp_path / "raw.dat").write_text("\n".join(lines))
    options = BuildOptions("movielens-1m", str(tmp_path / "set"), (str(tmp_path / "raw.dat"),), block_rows=100)
    build(options, lambda message: None)
    assert verify(tmp_path / "set") == []
    return tmp_path / "set"


def flip(path, position, bit=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def test_any_flipped_bit_of_the_text_files_is_found(data_set):
    rng = random.Random(1)
    for name in ("schema.json", "vocab/user.tsv", "vocab/item.tsv", "quarantine.tsv"):
        whole = (data_set / name).read_bytes()
        for _ in range(25):
            flip(data_set / name, rng.randrange(len(whole)), rng.randrange(8))
            problems = verify(data_set)
            assert problems and any(name in problem for problem in problems), name
            (data_set / name).write_bytes(whole)
    assert verify(data_set) == []


def test_a_flipped_bit_of_a_block_is_named(data_set):
    path = data_set / "train.lmdb" / "data.mdb"
    whole = path.read_bytes()
    starts = [at for at in range(len(whole)) if whole.startswith(b"DISTFMBK", at)]
    assert len(starts) == 5
    rng = random.Random(2)
    named = []
    for start in starts:
        rows = int.from_bytes(whole[start + 12 : start + 16], "little")
        flip(path, start + rng.randrange(48 + rows * 12), rng.randrange(8))
        named += [number for number in range(5) if f"train.lmdb: block {number}: " in "\n".join(verify(data_set))]
        path.write_bytes(whole)
    assert sorted(named) == list(range(5))  # LMDB may keep a small block before larger ones


def test_missing_and_cut_files_are_named(data_set):
    (data_set / "vocab" / "user.tsv").rename(data_set / "elsewhere")
    assert any("user.tsv is missing" in problem for problem in verify(data_set))
    (data_set / "elsewhere").rename(data_set / "vocab" / "user.tsv")
    path = data_set / "test.lmdb" / "data.mdb"
    path.write_bytes(path.read_bytes()[:-4096])
    problems = verify(data_set)
    assert any("cut short" in p for p in problems) and any("test.lmdb/data.mdb was changed" in p for p in problems)
    path.unlink()
    assert any("no such store" in problem for problem in verify(data_set))


@pytest.mark.parametrize("change", ["label", "user", "item", "rows"])
def test_wrong_records_with_right_checksums_are_found(data_set, change):
    """As from a build with another vocabulary: every block is intact, and yet it is wrong."""
    layout = RecordLayout(2)
    counts = json.loads((data_set / "manifest.json").read_text())["splits"]["valid"]
    rows = counts["rows"] + (change == "rows")
    items = json.loads((data_set / "schema.json").read_text())["fields"][1]
    labels = (np.arange(rows) < counts["positives"]).astype("f4")
    ids = np.tile(np.int32([0, items["offset"]]), (rows, 1))
    if change == "label":
        labels[4] = 0.5
    elif change != "rows":
        ids[7, 0 if change == "user" else 1] = items["offset"] - (change == "item")
    shutil.rmtree(data_set / "valid.lmdb")
    with BlockWriter(data_set / "valid.lmdb", layout, block_rows=100) as writer:
        writer.append(layout.pack(labels, ids))
    expected = {
        "label": "block 0: row 4: label 0.5 is not 0 or 1",
        "user": f"block 0: row 7: id {items['offset']} is not one of field 'user' (0 to {items['offset'] - 1})",
        "item": f"block 0: row 7: id {items['offset'] - 1} is not one of field 'item'",
        "rows": f"holds {{'rows': {rows}",
    }
    assert any(expected[change] in problem for problem in verify(data_set))


def test_an_unfinished_or_foreign_directory(tmp_path, data_set):
    (data_set / "manifest.json").unlink()
    assert "no manifest.json" in verify(data_set)[0]
    assert "no such directory" in verify(tmp_path / "nothing")[0]
    (data_set / "manifest.json").write_text("{}")
    assert "manifest.json is damaged" in verify(data_set)[0]


def test_verify_and_inspect_commands(data_set, capsys):
    assert main(["verify", str(data_set)]) == 0
    assert main(["inspect", str(data_set), "--rows=1"]) == 0
    assert "train row 0" in capsys.readouterr().out
    flip(data_set / "vocab" / "item.tsv", 0)
    assert main(["verify", str(data_set)]) == 1 and "item.tsv" in capsys.readouterr().err
    assert main(["inspect", str(data_set)]) == 1 and "the vocabulary was changed" in capsys.readouterr().err


def test_inspect_shows_fields_splits_rows_and_bad_rows(data_set):
    text = "\n".join(inspect(data_set, rows=2))
    manifest = json.loads((data_set / "manifest.json").read_text())
    assert manifest["fingerprint"] in text and "502 rows read" in text
    raw = [line.split("::") for line in (data_set.parent / "raw.dat").read_text().splitlines()]
    for split, counts in manifest["splits"].items():
        assert f"{split:<6} {counts['rows']:>12,}" in text
        assert f"{counts['positives'] / counts['rows']:.4f}" in text
    shown = [line for line in text.splitlines() if line.startswith("train row")]
    assert len(shown) == 2
    rows = {f"label={int(int(r) > 3)} user={u} item={i}" for u, i, r, _ in raw if r.isdigit()}
    assert all(line.split(": ", 1)[1] in rows for line in shown)
    assert "quarantined rows: 2" in text and "2 x rating ... is not a number; first at " in text

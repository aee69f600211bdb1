"""A split in shards is read exactly as one store; shards that do not belong together are refused by name."""

import dataclasses
import pickle
import shutil

import numpy as np
import pytest
from conftest import write_split

from data_tools.build import build
from data_tools.cli import main
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from dist_fm.data.records import RecordLayout
from dist_fm.data.shards import open_split
from dist_fm.data.store import BlockStore, StoreError
from dist_fm.data.store_writer import BlockWriter

LAYOUT = RecordLayout(4)


def make_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype("f4")
    return LAYOUT.pack(labels, rng.integers(0, 1000, (count, 4)).astype("i4"))


def write(directory, rows, shards, portions=(), split="train"):
    directory.mkdir(exist_ok=True)
    write_split(directory, split, rows, LAYOUT, shards, block_rows=100, portions=portions)
    return directory


@pytest.mark.parametrize("count", [0, 1, 100, 101, 650, 1050])
@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_shards_are_read_as_one_store(tmp_path, count, shards):
    rows = make_rows(count)
    with BlockWriter(tmp_path / "one", LAYOUT, block_rows=100) as writer:
        writer.append(rows)
    one = BlockStore(tmp_path / "one")
    cut = open_split(write(tmp_path / "cut", rows, shards, portions=range(70, count, 130)), "train")
    assert len(cut.paths) == shards and cut.meta == one.meta and cut.num_blocks == one.num_blocks
    for number in range(one.num_blocks):
        assert cut.block(number).tobytes() == one.block(number).tobytes()
    rng = np.random.default_rng(1)
    for store in (cut, pickle.loads(pickle.dumps(cut))):
        indices = rng.integers(0, count, 500 * (count > 0))
        np.testing.assert_array_equal(store.gather(indices), rows[indices])
        for start, stop in np.sort(rng.integers(0, count + 1, (50, 2))):
            np.testing.assert_array_equal(store.slice(start, stop), rows[start:stop])


def test_shards_hold_about_as_many_blocks_each(tmp_path):
    cut = open_split(write(tmp_path, make_rows(1050), 4), "train")
    assert [BlockStore(path).num_blocks for path in cut.paths] == [2, 3, 3, 3]
    assert [path.name for path in cut.paths] == [f"train-0000{n}-of-00004.lmdb" for n in range(4)]


def test_blocks_are_named_by_shard(tmp_path):
    cut = open_split(write(tmp_path, make_rows(1050), 4), "train")
    path = cut.paths[2] / "data.mdb"
    data = bytearray(path.read_bytes())
    at = data.index(make_rows(1050)[700:800].tobytes()[:200])
    data[at + 77] ^= 4
    path.write_bytes(data)
    assert cut.where(7).endswith("train-00002-of-00004.lmdb: block 2")
    np.testing.assert_array_equal(cut.block(6), make_rows(1050)[600:700])
    for read in (lambda: cut.block(7), lambda: cut.gather([3, 777]), lambda: cut.slice(650, 750)):
        with pytest.raises(StoreError, match="train-00002-of-00004.lmdb: block 2: the checksum does not match"):
            read()


def test_shards_that_do_not_belong_together_are_refused(tmp_path):
    data = write(tmp_path / "a", make_rows(400), 4)
    first, second = (data / f"train-0000{n}-of-00004.lmdb" for n in range(2))

    def refused(message):
        with pytest.raises(StoreError, match=message):
            open_split(data, "train")

    second.rename(data / "elsewhere")
    refused(r"train-00001-of-00004.lmdb: this shard of the train split is missing")
    with BlockWriter(second, RecordLayout(5), block_rows=100):
        pass
    refused(r"train-00001-of-00004.lmdb: .*slots=5.* unlike .*train-00000-of-00004.lmdb")
    shutil.rmtree(second)
    with BlockWriter(second, LAYOUT, block_rows=50):
        pass
    refused(r"train-00001-of-00004.lmdb: .*blocks of 50 rows, unlike")
    shutil.rmtree(second)
    with BlockWriter(second, LAYOUT, block_rows=100) as writer:
        writer.append(make_rows(30))
    refused(r"train-00001-of-00004.lmdb: 30 rows are not whole blocks of 100")
    shutil.rmtree(second)
    (data / "elsewhere").rename(second)
    assert open_split(data, "train").rows == 400
    shutil.copytree(first, data / "train-00007-of-00004.lmdb")
    refused(r"train-00007-of-00004.lmdb: this shard of the train split is one too many")
    (data / "train-00007-of-00004.lmdb").rename(data / "train.lmdb")
    refused(r"several stores of the train split \(train.lmdb, train-00000-of-00004.lmdb\)")
    with pytest.raises(StoreError, match=r"valid.lmdb: no such store"):
        open_split(data, "valid")


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    """The same 1,000 ratings built into one store a split, and into three shards each; and their manifests."""
    work = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    rows = zip(*(rng.integers(1, high, 1000) for high in (30, 60, 6, 900)), strict=True)
    (work / "raw.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in rows))
    options = BuildOptions("movielens-1m", "", (str(work / "raw.dat"),), block_rows=100)
    make = lambda name, shards: build(
        dataclasses.replace(options, output=str(work / name), shards=shards), say=lambda message: None
    )
    return work, make("one", 1), make("three", 3)


def test_a_build_in_shards_is_the_same_data(data_sets, capsys):
    work, one, three = data_sets
    assert (three.fingerprint, three.splits) == (one.fingerprint, one.splits)
    assert sorted(path.name for path in (work / "three").glob("*.lmdb")) == sorted(
        f"{split}-0000{n}-of-00003.lmdb" for split in one.splits for n in range(3)
    )
    for split in one.splits:
        whole, cut = (open_split(work / name, split) for name in ("one", "three"))
        assert cut.slice(0, cut.rows).tobytes() == whole.slice(0, whole.rows).tobytes()
    assert verify(work / "one") == verify(work / "three") == []
    assert main(["inspect", str(work / "three")]) == 0
    said = capsys.readouterr().out
    assert f"train  {one.splits['train']['rows']:>12,} {one.splits['train']['blocks']:>7,}      3 " in said


def test_verify_names_the_shard(data_sets, tmp_path):
    data = shutil.copytree(data_sets[0] / "three", tmp_path / "set")
    path = data / "train-00001-of-00003.lmdb" / "data.mdb"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[whole.rindex(b"DISTFMBK") + 60] ^= 1
    path.write_bytes(damaged)
    assert any("train-00001-of-00003.lmdb: block " in problem for problem in verify(data))
    path.write_bytes(whole)
    assert verify(data) == []
    shutil.rmtree(path.parent)
    assert any("train-00001-of-00003.lmdb: this shard of the train split is missing" in each for each in verify(data))


def test_the_number_of_shards_is_checked(data_sets, tmp_path, capsys):
    command = ["build-lmdb", "--format=movielens-1m", f"--input={data_sets[0]}/raw.dat", f"--output={tmp_path}/set"]
    for shards in (0, 100_000):
        assert main([*command, f"--shards={shards}"]) == 1 and "--shards" in capsys.readouterr().err
    assert main([*command, "--shards=2"]) == 0
    assert open_split(tmp_path / "set", "test").rows > 0

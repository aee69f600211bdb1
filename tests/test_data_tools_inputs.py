"""Raw files: compressed, many, damaged; the formats besides MovieLens and Criteo."""

import gzip

import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard
from raw_logs import ROWS, eleme_rows

from data_tools.build import build
from data_tools.encode import Encoder
from data_tools.errors import DataError
from data_tools.inspect import inspect
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from dist_fm.data.schema import EMPTY, read_schema
from dist_fm.data.store import BlockStore


@pytest.mark.parametrize("compress, suffix", [(gzip.compress, "gz"), (zstandard.ZstdCompressor().compress, "zst")])
def test_compressed_and_many_files_give_the_same_data_set(compress, suffix, built, tmp_path):
    lines = ROWS.splitlines(keepends=True)
    for number, part in enumerate((lines[1:3], lines[3:])):
        text = "".join([lines[0], *part]).encode()
        half = len(text) // 2  # as two frames, or members, which such files may have
        (tmp_path / f"part{number}.csv.{suffix}").write_bytes(compress(text[:half]) + compress(text[half:]))
    options = BuildOptions("csv", str(tmp_path / "set"), (f"{tmp_path}/part*.csv.{suffix}",), split="none",
                           schema=str(built / "schema.toml"))  # fmt: skip
    manifest = build(options)
    assert manifest.rows_in == 4
    with BlockStore(tmp_path / "set" / "train.lmdb") as a, BlockStore(built / "set" / "train.lmdb") as b:
        assert np.array_equal(a.slice(0, 4), b.slice(0, 4))
    assert build(options).inputs == manifest.inputs  # the files on disk are known again


@pytest.mark.parametrize("compress, suffix", [(gzip.compress, "gz"), (zstandard.ZstdCompressor().compress, "zst")])
def test_a_damaged_compressed_file_is_named(compress, suffix, built, tmp_path):
    data = compress((ROWS + ROWS.partition("\n")[2] * 2000).encode())
    (tmp_path / f"cut.csv.{suffix}").write_bytes(data[: len(data) // 2])
    options = BuildOptions("csv", str(tmp_path / "set"), (str(tmp_path / f"cut.csv.{suffix}"),),
                           schema=str(built / "schema.toml"))  # fmt: skip
    with pytest.raises(DataError, match="cut.csv.*damaged or cut short"):
        build(options)
    assert not (tmp_path / "set").exists()


def test_a_glob_that_names_nothing_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no file has such a name"):
        build(BuildOptions("criteo", str(tmp_path / "set"), (str(tmp_path / "*.txt"),)))


def test_ele_me_lists_share_rows_and_numbers_are_averaged(tmp_path):
    (tmp_path / "log.csv").write_text(eleme_rows(300))
    build(BuildOptions("ele-me", str(tmp_path / "set"), (str(tmp_path / "log.csv"),)), say=lambda _: None)
    assert verify(tmp_path / "set") == []
    fields = {field.name: field for field in read_schema(tmp_path / "set").fields}
    assert len(fields) == 36 and fields["shop_id_list"].slots == 50
    for name, other in (("shop_id_list", "shop_id"), ("visit_city", "city_id"), ("geohash12", "shop_geohash_12")):
        assert fields[name].offset == fields[other].offset and fields[name].rows == 10_001
    encoder = Encoder.from_directory(tmp_path / "set")
    columns = {name: [""] for name in encoder.columns} | {"shop_id": ["v7"], "shop_id_list": ["v7;v7"]}
    ids, values = encoder.encode({**columns, "price_list": ["2;4"]})
    by_name = dict(zip(fields, np.split(ids[0], np.cumsum([f.slots for f in fields.values()])[:-1]), strict=True))
    assert by_name["shop_id_list"][:3].tolist() == [by_name["shop_id"][0]] * 2 + [EMPTY]
    assert encoder.decode(ids, values)[0][list(fields).index("price_list")] == "3"


LINES = [f"{n}::{n % 3}::{n % 5 + 1}::{n}" for n in range(30)]
LINES[4] = LINES[9] = "not a row"


def first_rows(tmp_path, count, lines=(LINES[:12], LINES[12:20], LINES[20:]), **options):
    """Builds the first ``count`` rows of files with ``lines``; returns the manifest and the users by split."""
    for number, part in enumerate(lines):
        (tmp_path / f"{number}.dat").write_text("\n".join(part) + "\n")
    options = {"split": "order", "inputs": (f"{tmp_path}/?.dat",), **options}
    manifest = build(BuildOptions("movielens-1m", str(tmp_path / "set"), rows=count, **options), say=lambda _: None)
    assert verify(tmp_path / "set") == []
    schema, users = read_schema(tmp_path / "set"), {}
    for split in ("train", "valid", "test"):
        with BlockStore(tmp_path / "set" / f"{split}.lmdb") as store:
            decoded = Encoder.from_directory(tmp_path / "set").decode(store.layout.ids(store.slice(0, store.rows)))
            users[split] = [row[0] for row in decoded]
    assert manifest.rows_in == sum(map(len, users.values())) + manifest.rows_quarantined
    assert schema.counts["train"]["rows"] == len(users["train"])
    return manifest, users


@pytest.mark.parametrize(
    "count, read, bad",
    [
        (1, [1, 0, 0], 0),
        (10, [10, 0, 0], 2),
        (12, [12, 0, 0], 2),
        (15, [12, 3, 0], 2),
        (30, [12, 8, 10], 2),
        (99, [12, 8, 10], 2),
    ],
)
def test_only_the_first_rows_are_read(count, read, bad, tmp_path):
    manifest, users = first_rows(tmp_path, count, fractions=(1.0, 0.0, 0.0))
    assert [about["rows"] for about in manifest.inputs] == read and manifest.rows_quarantined == bad
    assert [about["is_cut"] for about in manifest.inputs] == [
        rows < whole for rows, whole in zip(read, (12, 8, 10), strict=True)
    ]
    assert users["train"] == [line.split("::")[0] for line in LINES[:count] if "::" in line]
    assert manifest.options["rows"] == count
    shown = any(line.startswith(f"cut: the first {count} rows") for line in inspect(tmp_path / "set"))
    assert shown == (count < 30)
    assert first_rows(tmp_path, count, fractions=(1.0, 0.0, 0.0))[0] == manifest  # the files on disk are known again
    with pytest.raises(DataError, match="built with other options"):
        first_rows(tmp_path, count + 1, fractions=(1.0, 0.0, 0.0))


def test_each_file_of_a_split_is_cut(tmp_path):
    files = tuple(f"{tmp_path}/{number}.dat" for number in range(3))
    manifest, users = first_rows(tmp_path, 6, split="files", inputs=(), split_files=files)
    assert {split: len(found) for split, found in users.items()} == {"train": 5, "valid": 6, "test": 6}
    assert users["train"] == ["0", "1", "2", "3", "5"]


def test_rows_of_a_compressed_file_and_of_parquet_are_cut(tmp_path):
    import pyarrow

    columns = list(zip(*(map(int, line.split("::")) for line in LINES if "::" in line), strict=True))
    names = ("user", "item", "rating", "timestamp")
    pq.write_table(pyarrow.table(dict(zip(names, columns, strict=True))), tmp_path / "raw.parquet")
    (tmp_path / "raw.gz").write_bytes(gzip.compress("\n".join(LINES).encode()))
    for name, bad in (("raw.parquet", 0), ("raw.gz", 1)):
        manifest, users = first_rows(tmp_path, 7, (), inputs=(str(tmp_path / name),), overwrite=True)
        assert sum(map(len, users.values())) == 7 - bad and manifest.inputs[0]["is_cut"]


def test_there_must_be_a_row(tmp_path):
    with pytest.raises(DataError, match="--rows=0: must be at least 1"):
        first_rows(tmp_path, 0)

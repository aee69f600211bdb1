"""Raw files: compressed, many, damaged; the formats besides MovieLens and Criteo."""

import gzip

import numpy as np
import pytest
import zstandard
from raw_logs import ROWS, eleme_rows

from data_tools.build import build
from data_tools.encode import Encoder
from data_tools.errors import DataError
from data_tools.formats import FORMATS
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


REAL = {
    "avazu": "avazu-sample/train.csv",
    "kmrd": "kmrd-small/rates.csv",
    "frappe": "frappe_x1/valid.csv",
    "criteo": "criteo-sample/deepctr_200.csv",
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_build_and_verify(name, shared, tmp_path):
    path = shared / "data" / REAL[name]
    manifest = build(BuildOptions(name, str(tmp_path / "set"), (str(path),)), say=lambda _: None)
    assert manifest.rows_in == len(path.read_bytes().splitlines()) - 1 and manifest.rows_quarantined == 0
    assert verify(tmp_path / "set") == []
    assert set(FORMATS) >= set(REAL)

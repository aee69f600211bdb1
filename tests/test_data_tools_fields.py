"""Kinds of fields: what the cells of a raw file become in the records, through build-lmdb, and back by the encoder."""

import math
import pathlib

import numpy as np
import pytest
import xxhash
from raw_logs import SCHEMA

from data_tools.build import build
from data_tools.encode import Encoder
from data_tools.errors import DataError
from data_tools.formats import get_format, open_rows
from data_tools.numeric import parse_number
from data_tools.plan import BuildOptions
from data_tools.transforms import cell_numbers, scaled
from data_tools.verify import verify
from dist_fm.data.schema import EMPTY, read_schema
from dist_fm.data.store import BlockStore


@pytest.fixture(scope="module")
def records(built):
    """The schema, and by field its rows [N, slots] relative to the offset (EMPTY as it is) and values [N, slots]."""
    schema = read_schema(built / "set")
    with BlockStore(built / "set" / "train.lmdb") as store:
        words = store.slice(0, 4)
        ids, values = store.layout.ids(words).copy(), store.layout.values(words).copy()
    found, at = {}, 0
    for field in schema.fields:
        part = slice(at, at + field.slots)
        rows = np.where(ids[:, part] == EMPTY, EMPTY, ids[:, part] - field.offset)
        found[field.name] = rows.tolist(), values[:, part]
        at += field.slots
    return schema, found


def test_lists_are_averaged_over_their_entries(records):
    schema, found = records
    rows, values = found["tags"]
    # b is in 3 rows, a in 2, c in 1; d is past the third place, and not counted.
    assert rows == [[2, 1, EMPTY], [1, EMPTY, EMPTY], [EMPTY] * 3, [2, 1, 3]]
    np.testing.assert_allclose(values, [[0.5, 0.5, 0], [1, 0, 0], [0, 0, 0], [1 / 3] * 3], rtol=1e-6)


def test_a_list_shares_the_rows_of_its_single_column_and_keeps_its_last_entries(records):
    schema, found = records
    shop, shops = (next(f for f in schema.fields if f.name == name) for name in ("shop", "shops"))
    assert (shop.offset, shop.rows, shop.vocabulary) == (shops.offset, shops.rows, shops.vocabulary)
    # s1 and s2 in both columns: s1 5 times (one of three is cut off), s2 3 times, s3 and s9 once.
    assert found["shop"][0] == [[1], [2], [1], [3]]
    assert found["shops"][0] == [[2, 1], [EMPTY, EMPTY], [1, 2], [4, EMPTY]]
    assert found["shops"][1].tolist() == [[1, 1], [0, 0], [1, 1], [1, 0]]


def test_numbers_are_scaled_by_what_training_rows_hold(records):
    _, found = records
    rows, values = found["price"]
    assert rows == [[1, EMPTY], [1, EMPTY], [1, 0], [1, EMPTY]]  # row 0 says that the cell was empty
    scaled = (np.array([2.0, 4.0, 1.0, 6.0]) - 4.0) / math.sqrt(8 / 3)
    np.testing.assert_allclose(values, np.stack([scaled, [0, 0, 1, 0]], axis=1), rtol=1e-6)
    np.testing.assert_allclose(found["prices"][1][:, 0], np.log1p([4, 0, 5, 2]), rtol=1e-6)


def test_bins_times_hashes_and_crosses(records):
    _, found = records
    # Bins 0, 1, 2 and the empty one are in one row each: ids by value.
    assert found["age"][0] == [[1], [2], [3], [4]]
    assert found["hour"][0] == [[1], [2], [1], [1]]
    assert found["weekend"][0] == [[1], [1], [1], [1]]  # Thursday, Thursday, Monday, Friday
    hashed = lambda salt, value, buckets, seed: (
        1 + xxhash.xxh64_intdigest(f"{salt}\x1f{value}".encode(), seed) % buckets
    )
    assert found["who"][0] == [[hashed("who", user, 50, 3)] for user in ("u1", "u2", "u1", "u3")]
    pairs = [("u1", "s1"), ("u2", "s2"), ("u1", "s1"), ("u3", "s3")]
    assert found["pair"][0] == [[hashed("pair", f"{user}\x1f{shop}", 1000, 0)] for user, shop in pairs]


def test_the_encoder_makes_the_same_records_and_decodes_them(built):
    encoder = Encoder.from_directory(built / "set")
    (chunk,) = open_rows(encoder.schema.source, built / "rows.csv", for_prediction=True)
    ids, values = encoder.encode(chunk.columns)
    with BlockStore(built / "set" / "train.lmdb") as store:
        words = store.slice(0, 4)
        assert np.array_equal(ids, store.layout.ids(words)) and np.array_equal(values, store.layout.values(words))
    decoded = encoder.decode(ids, values)
    assert decoded[0][:7] == ["u1", "a|b", "s1", "s2;s1", "2", "4", "0"] and decoded[2][4] == ""
    assert verify(built / "set") == []


def test_values_that_training_did_not_see(built):
    encoder = Encoder.from_directory(built / "set")
    columns = {name: [""] for name in encoder.columns} | {"user": ["new"], "tags": ["zzz|b"], "price": ["100"]}
    ids, values = encoder.encode(columns)
    assert encoder.decode(ids, values)[0][:2] == ["<unseen>", "<unseen>|b"]
    assert values[0, [5, 6, 7]].tolist() == [0, 0, pytest.approx((100 - 4) / math.sqrt(8 / 3))]


@pytest.mark.parametrize(
    "change, words",
    [
        (("label = ", "lable = "), ["unknown key 'lable'", "did you mean 'label'"]),
        (('kind = "numeric"', 'kind = "number"'), ["unknown kind 'number'", "numeric"]),
        (("buckets = 50", 'buckets = "50"'), ["field 10", "buckets", "must be int"]),
        (("max = 2", ""), ["'shops'", "needs max"]),
        (('pool = "mean"', 'pool = "max"'), ["unknown pool 'max'", "mean, sum"]),
        (('shares = "shop"', 'shares = "shoq"'), ["shoq", "did you mean 'shop'"]),
        (('name = "weekend"', 'name = "hour"'), ["two fields called 'hour'"]),
        (("edges = [25.0, 35.0]", ""), ["needs either edges or bins"]),
        (('part = "hour"', ""), ["needs 'part'"]),
        (('column = "user"', 'column = "usr"'), ["there is no column 'usr'", "columns found", "user"]),
    ],
)
def test_a_wrong_description_is_refused_by_name(change, words, built, tmp_path):
    (tmp_path / "schema.toml").write_text(SCHEMA.replace(*change, 1))
    rows = (str(built / "rows.csv"),)
    with pytest.raises(DataError) as error:
        build(BuildOptions("csv", str(tmp_path / "set"), rows, schema=str(tmp_path / "schema.toml")))
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "set").exists()


def test_numbers_stay_within_float32():
    far = scaled({"shift": 1e30, "divide": 1e-30}, np.array([1e35, -1e35]))
    assert np.isfinite(far).all() and far[0] == -far[1] == np.finfo(np.float32).max
    numbers, empty = cell_numbers({"split": ";", "reduce": "sum"}, ["3e38;3e38", "1e39;2", "1e39"])
    assert np.isfinite(scaled({}, numbers)).all() and numbers[1] == 2 and empty.tolist() == [False, False, True]
    assert [parse_number(text) for text in ("3.4e38", "3.5e38", "-1e39")] == [3.4e38, None, None]


def described(tmp_path, text, schema):
    (tmp_path / "rows").write_text(text)
    (tmp_path / "s.toml").write_text('label = "y"\n' + schema)
    inputs = (str(tmp_path / "rows"),)
    build(BuildOptions("csv", str(tmp_path / "set"), inputs, split="none", schema=str(tmp_path / "s.toml")))
    encoder = Encoder.from_directory(tmp_path / "set")
    with BlockStore(tmp_path / "set" / "train.lmdb") as store:
        return encoder.decode(store.layout.ids(store.slice(0, store.rows)))


def test_ids_as_they_are_must_fit_a_table(tmp_path):
    schema = '[[field]]\nname = "a"\nkind = "id"\n[[field]]\nname = "b"\nkind = "id"\n'
    rows = described(tmp_path, "y,a,b\n1,7.0,-5\n0,0,-6\n1,x,-7\n", schema)
    assert rows == [["7", "<unseen>"], ["0", "<unseen>"], ["<unseen>", "<unseen>"]]
    assert [field.rows for field in read_schema(tmp_path / "set").fields] == [9, 1]
    with pytest.raises(DataError, match="field 'b' has 2,147,483,647 table rows, 2,147,483,649 with .* kind hash"):
        (tmp_path / "b").mkdir()
        described(tmp_path / "b", "y,a,b\n1,0,2147483645\n", schema)


@pytest.mark.parametrize("delimiter", ["¦", "||", ";", " "])
def test_any_text_may_delimit_cells(delimiter, tmp_path):
    text = "y,a,b\n1,é,x\n0,,¤\n".replace(",", delimiter)
    schema = f'delimiter = "{delimiter}"\n[[field]]\nname = "a"\n[[field]]\nname = "b"\n'
    assert described(tmp_path, text, schema) == [["é", "x"], ["", "¤"]]


def test_the_description_in_the_docs_can_be_used(tmp_path):
    page = (pathlib.Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
    (tmp_path / "s.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    for kind in ("csv", "tsv", "parquet"):
        found = get_format(kind, str(tmp_path / "s.toml"))
        assert {spec.kind for spec in found.fields} == {"categorical", "numeric", "binned", "sequence"}
        assert (found.layout.timestamp, found.layout.weight, found.layout.group) == ("time", "seconds", "session")


def test_csv_needs_a_description_and_others_take_none():
    with pytest.raises(DataError, match="--schema=FILE"):
        get_format("csv")
    with pytest.raises(DataError, match="has its own"):
        get_format("criteo", "x.toml")


def test_quantile_bins_hold_as_many_rows_each(tmp_path):
    values = np.random.default_rng(0).lognormal(size=1000)
    (tmp_path / "rows.csv").write_text("y,x\n" + "".join(f"{i % 2},{v!r}\n" for i, v in enumerate(values.tolist())))
    (tmp_path / "s.toml").write_text('label = "y"\n[[field]]\nname = "x"\nkind = "binned"\nbins = 8\n')
    inputs = (str(tmp_path / "rows.csv"),)
    build(BuildOptions("csv", str(tmp_path / "set"), inputs, split="none", schema=str(tmp_path / "s.toml")))
    counts = Encoder.from_directory(tmp_path / "set").vocabularies["x.tsv"].counts
    assert len(counts) == 8 and counts.min() >= 124 and counts.max() <= 126


def test_a_list_that_is_not_pooled_keeps_values_and_one_of_one_entry_may_be_empty(tmp_path):
    (tmp_path / "rows.csv").write_text("y,tags,one\n1,a b,x\n0,,\n1,b,y z\n")
    fields = (
        '[[field]]\nname = "tags"\nsplit = " "\nmax = 3\npool = "none"\n[[field]]\nname = "one"\nsplit = " "\nmax = 1\n'
    )
    (tmp_path / "s.toml").write_text('label = "y"\n' + fields)
    inputs = (str(tmp_path / "rows.csv"),)
    build(BuildOptions("csv", str(tmp_path / "set"), inputs, split="none", schema=str(tmp_path / "s.toml")))
    schema = read_schema(tmp_path / "set")
    assert (schema.num_fields, schema.num_inputs, schema.slot_inputs.tolist()) == (2, 4, [0, 1, 2, 3])
    with BlockStore(tmp_path / "set" / "train.lmdb") as store:
        words = store.slice(0, 3)
        assert store.layout.ids(words).tolist() == [[2, 1, EMPTY, 4], [EMPTY] * 4, [1, EMPTY, EMPTY, 5]]
        values = store.layout.values(words)
        assert values.tolist() == [[1, 1, 0, 1], [0] * 4, [1, 0, 0, 1]]
        assert schema.filled_inputs(values).tolist() == [
            [True] * 2 + [False, True],
            [False] * 3 + [True],
            [True, False, False, True],
        ]
    assert verify(tmp_path / "set") == []

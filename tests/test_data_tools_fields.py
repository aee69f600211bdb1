"""Kinds of fields: what the cells of a raw file become in the records, through build-lmdb, and back by the encoder."""

import gzip
import math

import numpy as np
import pytest
import xxhash
import zstandard

from data_tools.build import build
from data_tools.encode import Encoder
from data_tools.errors import DataError
from data_tools.formats import FORMATS, get_format, open_rows
from data_tools.formats.eleme import COLUMNS
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from dist_fm.data.schema import EMPTY, read_schema
from dist_fm.data.store import BlockStore

ROWS = """click,user,tags,shop,shops,price,prices,age,when
1,u1,a|b,s1,s2;s1,2.0,1;3,20,0
0,u2,b,s2,,4.0,,30,3600
1,u1,,s1,s1;s1;s2,,5,40,345600
0,u3,a|b|c|d,s3,s9,6.0,2;x,,86400
"""
SCHEMA = """
label = "click"
timestamp = "when"
name = "shop"
[[field]]
name = "user"
role = "user"
[[field]]
name = "tags"
split = "|"
max = 3
pool = "mean"
[[field]]
name = "shop"
[[field]]
name = "shops"
split = ";"
max = 2
keep = "last"
shares = "shop"
[[field]]
name = "price"
kind = "numeric"
scale = "standard"
fill = 1.0
missing = true
[[field]]
name = "prices"
kind = "numeric"
split = ";"
reduce = "sum"
log = true
[[field]]
name = "age"
kind = "binned"
edges = [25.0, 35.0]
[[field]]
name = "hour"
kind = "time"
column = "when"
part = "hour"
[[field]]
name = "weekend"
kind = "time"
column = "when"
part = "weekend"
[[field]]
name = "who"
kind = "hash"
column = "user"
buckets = 50
seed = 3
[[field]]
name = "pair"
kind = "cross"
columns = ["user", "shop"]
buckets = 1000
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    work = tmp_path_factory.mktemp("fields")
    (work / "rows.csv").write_text(ROWS)
    (work / "schema.toml").write_text(SCHEMA)
    options = BuildOptions("csv", str(work / "set"), (str(work / "rows.csv"),), schema=str(work / "schema.toml"))
    build(BuildOptions(**{**vars(options), "split": "none"}), say=lambda _: None)
    return work


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


def eleme_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    numbers = {"gender", "avg_price", "is_supervip", "ctr_30", "ord_30", "total_amt_30", "hours"}
    cell = lambda name: (
        str(rng.integers(0, 9)) if name in numbers or name.startswith("rank") else f"v{rng.integers(99)}"
    )
    entry = lambda name: str(rng.integers(0, 9)) if name in ("price_list", "hours_list") else f"v{rng.integers(99)}"

    def value(name):
        if name == "clicked":
            return str(rng.integers(0, 2))
        if name.endswith("_list"):
            return ";".join(entry(name) for _ in range(rng.integers(0, 60)))
        return cell(name) if rng.random() < 0.9 else ""

    return "".join(",".join(value(name) for name in COLUMNS) + "\n" for _ in range(count))


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


USERS = "1::F::25::3::1\n2::M::25::4::2\n3::F::56::3::2\n"
ITEMS = "10::A film (1999)::Comedy|Drama\n11::Another::Drama\n12::Third (2001)::Drama|War|Comedy\n"
RATINGS = [(1, 10), (2, 11), (1, 12), (3, 11), (2, 99)]


@pytest.fixture
def movies(tmp_path):
    for name, text in (("users.dat", USERS), ("movies.dat", ITEMS)):
        (tmp_path / name).write_text(text)
    (tmp_path / "ratings.dat").write_text("".join(f"{u}::{i}::5::{n}\n" for n, (u, i) in enumerate(RATINGS)))
    tables = (("users", str(tmp_path / "users.dat")), ("items", str(tmp_path / "movies.dat")))
    return BuildOptions("movielens-1m", str(tmp_path / "set"), (str(tmp_path / "ratings.dat"),), split="none",
                        tables=tables)  # fmt: skip


def test_attributes_of_users_and_films_are_taken_by_their_keys(movies, tmp_path):
    build(movies, say=lambda _: None)
    assert verify(tmp_path / "set") == []
    encoder = Encoder.from_directory(tmp_path / "set")
    fields = [field.name for field in encoder.schema.fields]
    assert fields == ["user", "item", "gender", "age", "occupation", "year", "genres"]
    # Counts over ratings: Drama 4 (film 99 has no attributes), Comedy 2, War 1.
    assert encoder.vocabularies["genres.tsv"].values == ["Drama", "Comedy", "War"]
    assert encoder.vocabularies["genres.tsv"].counts.tolist() == [4, 2, 1]
    assert encoder.vocabularies["gender.tsv"].values == ["F", "M"]
    assert encoder.vocabularies["gender.tsv"].counts.tolist() == [3, 2]
    ids, values = encoder.encode({"user": ["1", "2", "4"], "item": ["12", "99", "10"]})
    assert [row[2:] for row in encoder.decode(ids, values)] == [
        ["F", "25", "3", "2001", "Drama|War|Comedy"],
        ["M", "25", "4", "", ""],
        ["<unseen>", "<unseen>", "<unseen>", "1999", "Comedy|Drama"],
    ]
    genres = next(field for field in encoder.schema.fields if field.name == "genres")
    assert ids[0, 6:9].tolist() == [genres.offset + 1, genres.offset + 3, genres.offset + 2]
    np.testing.assert_allclose(values[0, 6:], [1 / 3] * 3 + [0] * 7, rtol=1e-6)
    (tmp_path / "set" / "vocab" / "users.table.tsv").write_text("")
    assert any("users.table.tsv" in problem and "changed" in problem for problem in verify(tmp_path / "set"))


def test_side_tables_that_cannot_be_used_are_refused(movies, tmp_path):
    with pytest.raises(DataError, match="did you mean 'users'"):
        build(BuildOptions(**{**vars(movies), "tables": (("user", "x"),)}))
    (tmp_path / "users.dat").write_text(USERS + USERS)
    with pytest.raises(DataError, match="users.dat:4: user_id '1' is there twice"):
        build(movies)
    (tmp_path / "users.dat").write_text(USERS + "4::F\n")
    with pytest.raises(DataError, match="users.dat:4: 2 columns instead of 5"):
        build(movies)
    assert not (tmp_path / "set").exists()


def day(path, users, **options):
    lines = "".join(f"{user}::{10 + n % 3}::5::{n}\n" for n, user in enumerate(users))
    path.with_suffix(".dat").write_text(lines)
    build(BuildOptions("movielens-1m", str(path), (str(path.with_suffix(".dat")),), split="none", **options))
    return read_schema(path), Encoder.from_directory(path)


def test_tomorrows_log_with_todays_vocabulary(tmp_path):
    today, first = day(tmp_path / "a", "xxyyyz")
    tomorrow, second = day(tmp_path / "b", "zwwx", vocab_from=str(tmp_path / "a"))
    assert tomorrow.fingerprint == today.fingerprint and verify(tmp_path / "b") == []
    with BlockStore(tmp_path / "b" / "train.lmdb") as store:
        assert [row[0] for row in second.decode(store.layout.ids(store.slice(0, 4)))] == [
            "z",
            "<unseen>",
            "<unseen>",
            "x",
        ]
    grown, third = day(tmp_path / "c", "zwwvx", vocab_from=str(tmp_path / "a"), grow=True, min_count=2)
    assert grown.fingerprint != today.fingerprint and verify(tmp_path / "c") == []
    assert first.vocabularies["user.tsv"].values == ["y", "x", "z"]
    assert third.vocabularies["user.tsv"].values == ["y", "x", "z", "w"]  # w twice; v once, which is too few
    assert third.vocabularies["user.tsv"].counts.tolist() == [0, 1, 1, 2]
    assert [field.offset for field in grown.fields] == [0, 5]
    with BlockStore(tmp_path / "c" / "train.lmdb") as store:
        decoded = third.decode(store.layout.ids(store.slice(0, 5)))
    assert decoded == [["z", "10"], ["w", "11"], ["w", "12"], ["<unseen>", "10"], ["x", "11"]]


def test_growing_keeps_shared_rows_scales_and_attributes(built, movies, tmp_path):
    options = {"schema": str(built / "schema.toml"), "split": "none", "vocab_from": str(built / "set"), "grow": True}
    (tmp_path / "new.csv").write_text(ROWS.partition("\n")[0] + "\n1,u9,e|a,s8,s7;s8,9.0,1,20,0\n")
    build(BuildOptions("csv", str(tmp_path / "new"), (str(tmp_path / "new.csv"),), **options))
    before, after = ({f.name: f for f in read_schema(path).fields} for path in (built / "set", tmp_path / "new"))
    assert after["price"].transform == before["price"].transform
    assert after["shop"].offset == after["shops"].offset and after["shop"].rows == before["shop"].rows + 2
    assert Encoder.from_directory(tmp_path / "new").vocabularies["tags.tsv"].values[-1] == "e"
    assert verify(tmp_path / "new") == []
    build(movies, say=lambda _: None)
    more = {**vars(movies), "tables": (), "output": str(tmp_path / "more"), "vocab_from": str(tmp_path / "set")}
    build(BuildOptions(**more))
    assert read_schema(tmp_path / "more").fingerprint == read_schema(tmp_path / "set").fingerprint


@pytest.mark.parametrize(
    "options, words",
    [
        ({"grow": True}, "--vocab_from=DIR, which is not given"),
        ({"vocab_from": "SET", "tables": (("users", "x"),)}, "--table does not go with --vocab_from"),
        ({"vocab_from": "SET"}, "has no field"),
        ({"vocab_from": "nowhere"}, "no schema.json"),
    ],
)
def test_vocabularies_that_cannot_be_used(options, words, built, tmp_path):
    (tmp_path / "r.dat").write_text("1::2::5::0\n")
    options = {k: str(built / "set") if v == "SET" else v for k, v in options.items()}
    with pytest.raises(DataError, match=words):
        build(BuildOptions("movielens-1m", str(tmp_path / "set"), (str(tmp_path / "r.dat"),), split="none", **options))
    assert not (tmp_path / "set").exists()

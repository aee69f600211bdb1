"""Side tables of users and films; yesterday's vocabularies for today's log."""

import dataclasses

import numpy as np
import pytest
from raw_logs import ROWS

from data_tools.build import build
from data_tools.encode import Encoder
from data_tools.errors import DataError
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from dist_fm.data.schema import read_schema
from dist_fm.data.store import BlockStore

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


KMRD = {
    "movies": "movie\ttitle\ttitle_eng\tyear\tgrade\n7\t시네마 천국\tCinema Paradiso , 1988\t2013\tPG\n8\tX\tY\t\t\n",
    "genres": "movie,genre\n7,Drama\n8,SF\n7,Love/Romance\n",
    "countries": "movie,country\n7,IT\n7,FR\n",
    "castings": "movie,people,order,leading\n7,90,1,1\n" + "".join(f"8,{n},{n},0\n" for n in range(12)),
}


def kmrd(tmp_path, names=tuple(KMRD)):
    for name, text in KMRD.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "rates.csv").write_text("user,movie,rate,time\n0,7,10,5\n0,8,3,6\n1,9,10,7\n")
    tables = tuple((name, str(tmp_path / name)) for name in names)
    return BuildOptions("kmrd", str(tmp_path / "set"), (str(tmp_path / "rates.csv"),), split="none", tables=tables)


def test_films_of_kmrd_have_what_any_of_its_tables_say(tmp_path):
    build(kmrd(tmp_path), say=lambda _: None)
    assert verify(tmp_path / "set") == []
    encoder = Encoder.from_directory(tmp_path / "set")
    with BlockStore(tmp_path / "set" / "train.lmdb") as store:
        rows = encoder.decode(store.layout.ids(store.slice(0, 3)), store.layout.values(store.slice(0, 3)))
    assert [row[2:] for row in rows] == [
        ["2013", "PG", "Drama|Love/Romance", "IT|FR", "90"],  # genres in the order of the lines
        ["", "", "SF", "", "0|1|2|3|4|5|6|7|8|9"],  # the first ten of the cast
        ["", "", "", "", ""],
    ]
    build(dataclasses.replace(kmrd(tmp_path, ("genres",)), overwrite=True), say=lambda _: None)
    assert [field.name for field in read_schema(tmp_path / "set").fields] == ["user", "movie", "genres"]


def test_tables_of_kmrd_that_cannot_be_used(tmp_path):
    options = kmrd(tmp_path)
    (tmp_path / "genres").write_text(KMRD["genres"] + "8,a|b\n")
    with pytest.raises(DataError, match=r"genres:5: a cell holds '\|', which separates the entries of a list"):
        build(options)
    (tmp_path / "genres").write_text(KMRD["genres"])
    (tmp_path / "movies").write_text(KMRD["movies"] + "7\tagain\t\t\t\n")
    with pytest.raises(DataError, match="movies:4: movie '7' is there twice"):
        build(options)


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

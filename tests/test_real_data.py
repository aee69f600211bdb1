"""Every public data set at hand: converted whole, verified, and trained on for an epoch."""

import dataclasses
import math

import numpy as np
import pytest
from conftest import pooled_rows
from raw_logs import eleme_rows

from data_tools.build import build
from data_tools.encode import Encoder
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from dist_fm.data.schema import EMPTY, read_schema
from dist_fm.data.store import BlockStore
from dist_fm.flags import load_config, parse_flags
from dist_fm.training.session import train

GROCERY = """label_rule = "implicit"
timestamp = "time"
[[field]]
name = "user_id"
role = "user"
[[field]]
name = "item_id"
role = "item"
"""
DIN = """label = "click"
delimiter = ";"
columns = ["items", "categories", "item", "category", "click"]
[[field]]
name = "item"
role = "item"
[[field]]
name = "category"
[[field]]
name = "items"
kind = "sequence"
split = " "
max = 20
shares = "item"
[[field]]
name = "categories"
kind = "sequence"
split = " "
max = 20
shares = "category"
"""
KMRD = {"movies": "movies.txt", "genres": "genres.csv", "countries": "countries.csv", "castings": "castings.csv"}
NCF = "ml-1m/ncf/ncf_ml-1m"
ML100K = {"tables": {"users": "users.inter.tsv", "items": "items.inter.tsv"}}
ML1M = {"tables": {"users": "users.dat", "items": "movies.dat"}}
IMPLICIT = {"schema": GROCERY, "negatives": 2}
FILES = {"split": "files"}
# name: format, files, rows, and what else is given
CASES = {
    "ml-100k": ("movielens-100k", ["ml-100k/u.data"], 100_000, ML100K),
    "ml-1m": ("movielens-1m", ["ml-1m/ratings.dat"], 487_650, ML1M),
    "ml-latest-small": ("movielens-csv", ["ml-latest-small/ratings.csv"], 100_836, {"tables": {"items": "movies.csv"}}),
    "criteo": ("criteo", ["criteo-sample/train.txt", "criteo-sample/test.txt"], 10_000, {}),
    "criteo as CSV": ("criteo", ["criteo-sample/deepctr_200.csv"], 200, {}),
    "avazu": ("avazu", ["avazu-sample/train.csv"], 8_087, {}),
    "avazu without id": ("avazu", ["made"], 8_087, {}),
    "kmrd": ("kmrd", ["kmrd-small/rates.csv"], 10_000, {"tables": KMRD, "rows": 10_000}),
    "frappe": ("frappe", [f"frappe_x1/{part}.csv" for part in ("train", "valid", "test")], 288_609, FILES),
    "ncf": ("ncf", [f"{NCF}.train.pairs.tsv", None, f"{NCF}.test.negative"], 994_169 + 604_000, FILES),
    "ele-me": ("ele-me", ["made"], 300, {}),
    "grocery": ("tsv", ["amazon-sample/grocery_train.tsv"], 3 * 121_892, IMPLICIT),
    "din": ("csv", ["amazon-sample/din_sample.txt"], 100, {"schema": DIN}),
}


def options(name, shared, tmp_path, **changes):
    """The build of a case; files that are not among the shared ones are made here."""
    kind, files, _, given = CASES[name]
    folder = shared / "data"
    paths = [file and str(folder / file) for file in files]
    if files == ["made"]:
        paths = [str(tmp_path / "raw")]
        lines = (folder / "avazu-sample" / "train.csv").read_text().splitlines()
        avazu = "".join(line.partition(",")[2] + "\n" for line in lines)
        (tmp_path / "raw").write_text(eleme_rows(300) if kind == "ele-me" else avazu)
    given = {**given, **changes}
    if "tables" in given:
        beside = (folder / str(files[0])).parent
        given["tables"] = tuple((table, str(beside / file)) for table, file in given["tables"].items())
    if "schema" in given:
        (tmp_path / "schema.toml").write_text(given["schema"])
        given["schema"] = str(tmp_path / "schema.toml")
    if given.get("split") == "files":
        given["split_files"] = tuple(paths)
    else:
        given["inputs"] = tuple(paths)
    return BuildOptions(kind, str(tmp_path / "set"), **given)


def trained(tmp_path, *flags):
    given = ["--model=deepfm", "--epochs=1", "--embed_dim=4", "--devices=1", "--quiet", *flags]
    given += [f"--data={tmp_path}/set", f"--output_dir={tmp_path}/run"]
    return train(load_config(None, parse_flags(given)[0]))


@pytest.mark.parametrize("name", CASES)
def test_whole_files_are_converted_without_a_bad_row(name, shared, tmp_path):
    manifest = build(options(name, shared, tmp_path), say=lambda _: None)
    assert (manifest.rows_in, manifest.rows_quarantined) == (CASES[name][2], 0)
    assert verify(tmp_path / "set") == []


def test_deepfm_trains_on_the_first_rows_for_an_epoch(shared, tmp_path):
    build(options("din", shared, tmp_path, rows=300), say=lambda _: None)
    result = trained(tmp_path, "--batch_size=1024")  # one batch, and so one program, an epoch
    assert result["steps"] == 1 and 0.1 < result["test"]["logloss"] < 2


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_deepfm_trains_on_whole_files_for_an_epoch(name, shared, tmp_path):
    given = options(name, shared, tmp_path)
    build(dataclasses.replace(given, negatives=4) if name == "ncf" else given, say=lambda _: None)
    result = trained(tmp_path, "--batch_size=2048")
    rows = read_schema(tmp_path / "set").counts["train"]["rows"]
    assert result["steps"] == math.ceil(rows / 2048) and math.isfinite(result["test"]["logloss"])
    if rows > 50_000:
        assert result["test"]["auc"] > 0.6


@pytest.mark.slow
def test_ratings_themselves_are_learnt_with_mse(shared, tmp_path):
    build(options("ml-100k", shared, tmp_path, label="value", tables={}), say=lambda _: None)
    with BlockStore(tmp_path / "set" / "train.lmdb") as store:
        labels = store.layout.labels(store.slice(0, store.rows))
        assert set(labels.tolist()) == {1, 2, 3, 4, 5}
    result = trained(tmp_path, "--loss=mse", "--batch_size=1024", "--optimizer.lr=0.01")
    assert result["test"]["rmse"] < 1.05 < labels.std()


def test_genres_are_the_mean_of_their_rows(shared, tmp_path):
    """A batch of three films made by hand, of which the genres are known, against the table's rows."""
    build(options("ml-latest-small", shared, tmp_path, rows=5000), say=lambda _: None)
    encoder = Encoder.from_directory(tmp_path / "set")
    schema = encoder.schema
    films = {"1": ["Adventure", "Animation", "Children", "Comedy", "Fantasy"], "6": ["Action", "Crime", "Thriller"],
             "14": ["Drama"]}  # fmt: skip
    ids, values = encoder.encode({"user": ["1"] * 3, "item": list(films)})
    with BlockStore(tmp_path / "set" / "train.lmdb") as store:
        words = store.layout.pack(np.zeros(3), ids, values)
    rows, table = pooled_rows(schema, words)
    names = [field.name for field in schema.fields]
    genres = schema.fields[names.index("genres")]
    vocabulary = encoder.vocabularies["genres.tsv"]
    for number, own in enumerate(films.values()):
        expected = table[genres.offset + vocabulary.ids(own)].mean(axis=0)
        np.testing.assert_allclose(rows[number, names.index("genres")], expected, atol=1e-7)
        for field in ("user", "item", "year"):
            at = names.index(field)
            np.testing.assert_allclose(rows[number, at], table[ids[number, at]], atol=1e-7)
    assert (ids != EMPTY).sum(axis=1).tolist() == [3 + len(own) for own in films.values()]

"""Parquet: typed columns give the cells that a text file has, so the same data set, and the same predictions."""

import csv
import dataclasses
import datetime
import decimal
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_logs import ROWS, SCHEMA
from test_commands import command

from data_tools.build import build
from data_tools.cli import main
from data_tools.errors import DataError
from data_tools.formats import FORMATS, get_format, open_rows
from data_tools.formats.arrow_cells import check_type, column_cells
from data_tools.formats.parquet import ParquetReader
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from dist_fm.data.schema import read_schema
from dist_fm.data.store import BlockStore


def typed(rows):
    """The rows of ``raw_logs.ROWS`` as a table of numbers, times and lists."""
    number = lambda cell: float(cell) if cell else None
    entries = lambda cell, separator: [part for part in cell.split(separator) if part] if cell else None
    return pa.table(
        {
            "when": pa.array([datetime.datetime.fromtimestamp(int(row["when"]), datetime.UTC) for row in rows]),
            "extra": pa.array([{"not": "read"} for _ in rows]),
            "click": pa.array([row["click"] == "1" for row in rows]),
            "user": pa.array([row["user"] for row in rows]).dictionary_encode(),
            "tags": pa.array([entries(row["tags"], "|") for row in rows], pa.list_(pa.string())),
            "shop": pa.array([row["shop"] for row in rows], pa.large_string()),
            "shops": pa.array([entries(row["shops"], ";") for row in rows], pa.large_list(pa.string())),
            "price": pa.array([number(row["price"]) for row in rows], pa.float32()),
            "prices": pa.array([entries(row["prices"], ";") for row in rows], pa.list_(pa.string())),
            "age": pa.array([None if not row["age"] else int(row["age"]) for row in rows], pa.int16()),
        }
    )


@pytest.fixture
def described(tmp_path):
    (tmp_path / "schema.toml").write_text(SCHEMA)
    return lambda *inputs, **options: BuildOptions(
        "parquet", str(tmp_path / "set"), inputs, schema=str(tmp_path / "schema.toml"), split="none", **options
    )


def test_many_typed_files_give_the_data_set_of_the_text(built, described, tmp_path):
    table = typed(list(csv.DictReader(ROWS.splitlines())))
    pq.write_table(table.slice(0, 3), tmp_path / "a.parquet", row_group_size=2)
    pq.write_table(table.slice(3), tmp_path / "b.parquet")
    options = described(str(tmp_path / "*.parquet"))
    manifest = build(options, say=lambda _: None)
    assert [about["rows"] for about in manifest.inputs] == [3, 1] and verify(tmp_path / "set") == []
    assert read_schema(tmp_path / "set").fields == read_schema(built / "set").fields
    with BlockStore(tmp_path / "set" / "train.lmdb") as ours, BlockStore(built / "set" / "train.lmdb") as text:
        assert np.array_equal(ours.slice(0, 4), text.slice(0, 4))
    assert build(options, say=lambda _: None).inputs == manifest.inputs  # the files on disk are known again


def cells(values, kind=None, split=None):
    array = pa.array(values, kind)
    check_type(array.type, "x", split)
    tokens, wrong = column_cells(array, split)
    return np.asarray(tokens).tolist(), wrong


@pytest.mark.parametrize(
    "values, kind, expected",
    [
        ([1, None, -3], pa.int8(), ["1", "", "-3"]),
        ([3.0, 2.5, None, 0.1, -0.0, 1e300], pa.float64(), ["3", "2.5", "", "0.1", "0", "1e+300"]),
        ([0.1, 16777216.0], pa.float32(), ["0.1", "16777216"]),
        ([1.5, None], pa.float16(), ["1.5", ""]),
        ([True, None, False], pa.bool_(), ["1", "", "0"]),
        ([decimal.Decimal("1.50"), decimal.Decimal("1000"), None], None, ["1.5", "1000", ""]),
        ([" a ", None, "é"], pa.string(), ["a", "", "é"]),
        (["a", None], pa.string_view(), ["a", ""]),
        ([b"\xff", b"x"], pa.binary(), ["\\xff", "x"]),
        ([None, None], pa.null(), ["", ""]),
        ([datetime.date(1970, 1, 2), None], None, ["86400", ""]),
        ([1500, -500, None], pa.timestamp("ms", "Asia/Tokyo"), ["1", "-1", ""]),
        ([86_400_000], pa.date64(), ["86400"]),
    ],
)
def test_values_are_written_one_way(values, kind, expected):
    assert cells(values, kind) == (expected, {})


def test_lists_are_joined_and_entries_must_not_hold_the_separator():
    for kind in (pa.list_(pa.string()), pa.large_list(pa.string())):
        found = cells([["a", "b"], None, [], ["c", None, "x|y"], ["d"]], kind, "|")
        assert found == (["a|b", "", "", "c||x|y", "d"], {3: "'x|y' holds '|', which separates the entries"})
    assert cells([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2), ";") == (["1;2", "", "3;4"], {})
    array = pa.array([["0"], ["a", "b"], None, ["c"]]).slice(1)
    assert np.asarray(column_cells(array, ";")[0]).tolist() == ["a;b", "", "c"]


@pytest.mark.parametrize(
    "kind, split, message",
    [
        (pa.list_(pa.string()), None, "column 'x' holds lists .* split is not given"),
        (pa.list_(pa.list_(pa.string())), "|", "column 'x' is of type list"),
        (pa.struct([("a", pa.int8())]), None, "column 'x' is of type struct"),
        (pa.time32("s"), None, "column 'x' is of type time32"),
    ],
)
def test_types_without_cells_are_refused(kind, split, message):
    with pytest.raises(DataError, match=message):
        check_type(kind, "x", split)


def test_bad_rows_have_number_and_reason(described, tmp_path):
    rows = list(csv.DictReader(ROWS.splitlines())) * 3
    table = typed(rows).to_pydict()
    table["click"] = [float(flag) for flag in table["click"]]
    table["click"][1], table["click"][2], table["tags"][4], table["user"][7] = None, 0.5, ["a|b"], "a\0"
    table["price"][6] = float("nan")
    pq.write_table(pa.table(table), tmp_path / "raw.parquet", row_group_size=5)
    manifest = build(described(str(tmp_path / "raw.parquet")), say=lambda _: None)
    assert (manifest.rows_in, manifest.rows_quarantined) == (12, 5) and verify(tmp_path / "set") == []
    found = [line.split("\t")[1:3] for line in (tmp_path / "set" / "quarantine.tsv").read_text().splitlines()[1:]]
    assert found == [
        ["2", "click is empty"],
        ["3", "click '0.5' is neither 0 nor 1"],
        ["5", "tags: 'a|b' holds '|', which separates the entries"],
        ["7", "price 'nan' is not a number"],
        ["8", "user: holds a control character (0x00 or 0x1f)"],
    ]


def test_rows_come_in_the_same_chunks_of_any_size(tmp_path):
    kmrd = FORMATS["kmrd"]
    table = pa.table({"user": [1, 2, None, 4, 5], "movie": list("abcde"), "rate": [10, 9, 8, 7, 6], "time": range(5)})
    pq.write_table(table, tmp_path / "raw")
    for size in (1, 2, 5):
        chunks = list(ParquetReader(kmrd.layout, str(tmp_path / "raw"), kmrd.label, False, (), size))
        assert [chunk.first_row for chunk in chunks] == list(range(0, 5, size))
        assert np.concatenate([chunk.lines for chunk in chunks]).tolist() == [1, 2, 4, 5]
        assert np.concatenate([chunk.labels for chunk in chunks]).tolist() == [1, 0, 0, 0]
        assert np.concatenate([chunk.times for chunk in chunks]).tolist() == [0, 1, 3, 4]
        assert [bad.line for chunk in chunks for bad in chunk.bad] == [3]
        assert sum(chunk.num_bytes for chunk in chunks) == (tmp_path / "raw").stat().st_size


@pytest.mark.parametrize("damage", ["half", "middle", "empty", "column", "twice"])
def test_files_that_cannot_be_read(damage, described, tmp_path):
    path = tmp_path / "raw.parquet"
    table = typed(list(csv.DictReader(ROWS.splitlines())) * 50)
    if damage == "column":
        table = table.drop_columns(["shop"])
    if damage == "twice":
        table = table.append_column("shop", table["shop"])
    pq.write_table(table.slice(0, 0) if damage == "empty" else table, path)
    data = bytearray(path.read_bytes())
    if damage == "half":
        path.write_bytes(data[: len(data) // 2])
    if damage == "middle":
        data[4:400] = bytes(396)
        path.write_bytes(data)
    words = {
        "empty": "has no rows",
        "column": "no column 'shop'; columns found: when",
        "twice": "'shop' is there twice",
    }
    with pytest.raises(DataError, match=words.get(damage, "raw.parquet: the parquet file is damaged or cut short")):
        build(described(str(path)))
    assert not (tmp_path / "set").exists()


def test_a_description_of_parquet_has_no_delimiter(tmp_path):
    (tmp_path / "s.toml").write_text('delimiter = ";"\n' + SCHEMA)
    with pytest.raises(DataError, match="delimiter = ';' goes with --format=csv or tsv"):
        get_format("parquet", str(tmp_path / "s.toml"))


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch, capsys):
    pq.write_table(pa.table({"user": [1]}), tmp_path / "raw.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    arguments = ["--format=kmrd", f"--input={tmp_path}/raw.parquet", f"--output={tmp_path}/set"]
    assert main(["build-lmdb", *arguments]) == 1
    assert "raw.parquet: reading parquet needs pyarrow: pip install 'dist_fm[parquet]'" in capsys.readouterr().err
    (tmp_path / "text").write_text("1,2,10,4\n")
    assert len(list(open_rows(FORMATS["kmrd"].layout, tmp_path / "text", label=FORMATS["kmrd"].label))) == 1


def test_prediction_reads_parquet_as_it_reads_text(described, tmp_path):
    rows = list(csv.DictReader(ROWS.splitlines()))
    pq.write_table(typed(rows * 20), tmp_path / "train.parquet")
    build(dataclasses.replace(described(str(tmp_path / "train.parquet")), split="random"), say=lambda _: None)
    flags = ("--model=fm", "--epochs=1", "--batch_size=32", "--quiet")
    command("train", f"--data={tmp_path}/set", *flags, f"--output_dir={tmp_path}/run")
    (tmp_path / "rows.csv").write_text(ROWS)
    pq.write_table(typed(rows).drop_columns(["click"]), tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.parquet"):
        arguments = (f"--input={tmp_path / name}", f"--output={tmp_path / name}.scores", "--keep=user,tags")
        command("predict", f"--run={tmp_path}/run", *arguments)
    scores = (tmp_path / "rows.parquet.scores").read_text()
    assert scores == (tmp_path / "rows.csv.scores").read_text() and scores.count("\n") == 5
    assert len({line.split(",")[1] for line in scores.splitlines()[1:]}) > 1

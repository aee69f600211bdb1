"""Reading raw files: every row is good or bad with line and reason, whatever the file looks like."""

import csv
import math
import random

import numpy as np
import pytest

from data_tools.errors import DataError
from data_tools.formats import FORMATS, get_format, open_rows
from data_tools.labels import format_rule, parse_rule
from data_tools.numeric import log_squared_bin, parse_integer, parse_number
from data_tools.tokens import Tokens

ML1M, ML100K, MLCSV, CRITEO = (FORMATS[name] for name in ("movielens-1m", "movielens-100k", "movielens-csv", "criteo"))


def test_columns_go_by_the_header_of_their_files_too():
    layout = MLCSV.layout
    assert [layout.name_of(name) for name in ("userId", "user", "movieId", "shade")] == [
        "user",
        "user",
        "item",
        "shade",
    ]


def read(tmp_path, fmt, content, **options):
    """All rows of a file: its good rows as (line, {column: cell}), and its bad rows."""
    path = tmp_path / "raw"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if not options.get("for_prediction"):
        options.setdefault("label", fmt.label)
    good, bad, rows = [], [], 0
    for chunk in open_rows(fmt.layout, path, **options):
        assert chunk.first_row == rows
        rows += chunk.num_rows
        columns = {name: np.asarray(tokens) for name, tokens in chunk.columns.items()}
        good += [(int(line), {n: c[i] for n, c in columns.items()}) for i, line in enumerate(chunk.lines)]
        bad += chunk.bad
        if chunk.labels is not None:
            assert len(chunk.labels) == len(chunk.lines) and np.isfinite(chunk.labels).all()
    return good, bad


def row(user, item, rating, timestamp):
    return {"user": user, "item": item, "rating": rating, "timestamp": timestamp}


def test_each_format_reads_its_rows(tmp_path):
    expected = [(1, row("1", "10", "5", "99")), (2, row("2", "20", "3.5", "98"))]
    assert read(tmp_path, ML1M, "1::10::5::99\n2::20::3.5::98\n") == (expected, [])
    assert read(tmp_path, ML100K, "1\t10\t5\t99\n2\t20\t3.5\t98\n") == (expected, [])
    good, bad = read(tmp_path, MLCSV, "userId,movieId,rating,timestamp\n1,10,5,99\n2,20,3.5,98\n")
    assert ([cells for _, cells in good], [line for line, _ in good], bad) == ([e[1] for e in expected], [2, 3], [])
    line = "\t".join(["1", "5", "", "-1"] + [""] * 10 + ["68fd1e64"] + [""] * 25)
    ((number, cells),), bad = read(tmp_path, CRITEO, line + "\n")
    assert (number, bad) == (1, [])
    assert (cells["label"], cells["I1"], cells["I2"], cells["I3"], cells["C1"], cells["C26"]) == (
        "1", "5", "", "-1", "68fd1e64", "",
    )  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("tail", ["", "END", "ENDEND", "ENDENDEND"])
def test_line_ends_bom_and_empty_last_lines(tmp_path, end, tail):
    content = b"\xef\xbb\xbf" + f"1::10::5::99{end}2::20::3::98{tail.replace('END', end)}".encode()
    good, bad = read(tmp_path, ML1M, content)
    assert good == [(1, row("1", "10", "5", "99")), (2, row("2", "20", "3", "98"))] and not bad


def test_cells_are_stripped_and_odd_bytes_survive(tmp_path):
    good, bad = read(tmp_path, ML100K, b" caf\xe9 \tna\xc3\xafve\x0b\t 4\t1 \n")
    assert good == [(1, row("caf\\xe9", "naïve", "4", "1"))] and not bad


@pytest.mark.parametrize(
    "line, reason",
    [
        ("1::2::3", "3 columns instead of 4"),
        ("1::2::3::4::5", "5 columns instead of 4"),
        ("", "an empty line"),
        ("1::2::good::4", "rating 'good' is not a number"),
        ("1::2::nan::4", "rating 'nan' is not a number"),
        ("1::2::1e999::4", "rating '1e999' is not a number"),
        ("1::2::::4", "rating is empty"),
        ("::2::3::4", "user is empty"),
        ("1:: ::3::4", "item is empty"),
        ("1::2::3::noon", "timestamp 'noon' is not an integer"),
        ("1::\0::3::4", "holds a control character (0x00 or 0x1f)"),
        ("1::\x1f2::3::4", "holds a control character (0x00 or 0x1f)"),
    ],
)
def test_bad_rows_have_line_and_reason(tmp_path, line, reason):
    for options in ({}, {"chunk_bytes": 5}):
        good, bad = read(tmp_path, ML1M, f"1::2::3::4\n{line}\n5::6::7::8\n", **options)
        assert [number for number, _ in good] == [1, 3]
        assert [(b.line, b.reason, b.raw) for b in bad] == [(2, reason, line)]


@pytest.mark.parametrize(
    "cell, good", [("0", True), ("1", True), ("1.0", True), ("2", False), ("-1", False), ("", False)]
)
def test_binary_labels(tmp_path, cell, good):
    found, bad = read(tmp_path, CRITEO, cell + "\t" * 39 + "\n" + "1" + "\t" * 39)
    assert len(found) == 1 + good
    assert good or bad[0].reason in (f"label {cell!r} is neither 0 nor 1", "label is empty")


def test_labels_follow_the_rule(tmp_path):
    path = tmp_path / "raw"
    path.write_text("1::1::3::1\n1::1::3.5::1\n1::1::4::1\n")
    for rule, expected in (("above:3", [0, 1, 1]), ("above:3.5", [0, 0, 1]), ("value", [3, 3.5, 4])):
        label = parse_rule(rule, "rating")
        assert format_rule(label) == rule
        (chunk,) = open_rows(ML1M.layout, path, label=label)
        assert chunk.labels.tolist() == expected and chunk.times.tolist() == [1, 1, 1]
    for rule in ("above", "above:x", "abve:3", "binary:1", "value:2"):
        with pytest.raises(DataError):
            parse_rule(rule, "rating")


@pytest.mark.parametrize("header", ["timestamp,extra,movieId,rating,userId", "timestamp\textra\titem\trating\tuser"])
def test_a_header_is_matched_by_name_in_any_order(tmp_path, header):
    delimiter = "," if "," in header else "\t"
    content = f"{header}\n" + delimiter.join(["9", "zz", "10", "4", "1"]) + "\n"
    for fmt in (ML1M, ML100K, MLCSV):
        good, bad = read(tmp_path, fmt, content)
        assert good == [(2, row("1", "10", "4", "9"))] and not bad


def test_prediction_rows_need_neither_label_nor_timestamp(tmp_path):
    cells = {"user": "1", "item": "10"}
    for content in ("userId,movieId\n1,10\n", "item,user\n10,1\n", "user::item\n1::10\n", "1::10\n", "1,10\n", "1\t10"):
        ((_, found),), bad = read(tmp_path, ML1M, content, for_prediction=True)
        assert (found, bad) == (cells, [])
    for content in ("1::10::x\n", "1,10,,\n", "user,item,rating,timestamp\n1,10,what,\n"):
        ((_, found),), bad = read(tmp_path, ML1M, content, for_prediction=True)
        assert found.items() >= cells.items() and not bad
    ((_, found),), bad = read(tmp_path, ML1M, "user,item\n,10\n", for_prediction=True)
    assert (found, bad) == ({"user": "", "item": "10"}, [])
    line = "\t".join(["7"] + [""] * 38)
    ((_, found),), bad = read(tmp_path, CRITEO, line, for_prediction=True)
    assert found["I1"] == "7" and "label" not in found and not bad
    good, bad = read(tmp_path, CRITEO, line + "\n" + line.replace("7", "x"), for_prediction=True)
    assert [b.reason for b in bad] == ["I1 'x' is not an integer"] and len(good) == 1


def test_prediction_keeps_extra_columns_and_quoted_cells(tmp_path):
    content = 'title,user,item\n"Odd, ""one""",1,10\nplain,"2",20\n"open,3,30\n'
    good, bad = read(tmp_path, MLCSV, content, for_prediction=True, keep=("title",))
    assert good == [
        (2, {"title": 'Odd, "one"', "user": "1", "item": "10"}),
        (3, {"title": "plain", "user": "2", "item": "20"}),
    ]
    assert [(b.line, b.reason) for b in bad] == [(4, "1 columns instead of 3")]


@pytest.mark.parametrize(
    "fmt, content, prediction, message",
    [
        (ML1M, "", False, "raw: the file is empty"),
        (ML1M, "\n\n", False, "raw: the file is empty"),
        (MLCSV, "userId,movieId,rating,timestamp\n", False, "raw: the file has no rows"),
        (MLCSV, "userId,rating\n1,4\n", False, r"no column 'item' \(or 'movieId'\); columns found: userId, rating"),
        (MLCSV, "uid,iid\n1,4\n", True, r"no column 'user' \(or 'userId'\); columns found: uid, iid"),
        (MLCSV, "user,item,user\n1,4,1\n", True, "column 'user' is there twice"),
        (ML1M, "1\n2\n", True, "a row of movielens-1m has 2 or 3 or 4 columns separated by '::'"),
        (ML1M, "user,item\n1,4\n", False, "no column 'rating'"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, fmt, content, prediction, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, fmt, content, for_prediction=prediction)


def test_absent_file_and_unknown_format(tmp_path):
    with pytest.raises(DataError, match="nothing: cannot be read: No such file"):
        open_rows(ML1M.layout, tmp_path / "nothing", label=ML1M.label)
    with pytest.raises(DataError, match="unknown format 'movielens_1m'; did you mean 'movielens-1m'"):
        get_format("movielens_1m")


def test_a_source_survives_json():
    for fmt in FORMATS.values():
        assert type(fmt.layout).from_json(fmt.layout.to_json()) == fmt.layout


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("delimiter", ["\t", ",", "::"])
def test_random_files_equal_a_plain_loop(tmp_path, seed, delimiter):
    """Every line is accounted for exactly as splitting it in Python says, whatever the chunks."""
    rng = random.Random(seed)
    pieces = ["1", "22", "abcdefgh", "abcdefghi", "x" * 70, "é", " 7 ", "", "", delimiter, '"', ":", "\r", "\0", "\x1f"]
    lines = []
    for _ in range(150):
        if rng.random() < 0.6:
            cells = ["".join(rng.choices(pieces[:7], k=rng.randint(1, 3))) for _ in range(2)]
            lines.append(delimiter.join([*cells, rng.choice("12345"), "7"]))
        else:
            lines.append("".join(rng.choices(pieces, k=rng.randint(0, 12))))
    lines.append("1" + delimiter + "2" + delimiter + "3" + delimiter + "4")
    fmt = {"\t": ML100K, ",": MLCSV, "::": ML1M}[delimiter]
    header = delimiter.join(["user", "item", "rating", "timestamp"]) + "\n"
    content = (header + "\n".join(lines)).encode()
    good, bad = read(tmp_path, fmt, content)
    assert sorted([line for line, _ in good] + [b.line for b in bad]) == list(range(2, len(lines) + 2))
    assert {b.line: b.raw for b in bad} == {b.line: lines[b.line - 2].removesuffix("\r") for b in bad}
    expected = {}
    for number, line in enumerate(lines, start=2):
        if "\0" in line or (delimiter != "\t" and "\x1f" in line):
            continue
        try:
            cells = next(csv.reader([line]), []) if delimiter == "," and '"' in line else line.split(delimiter)
        except csv.Error:
            continue
        cells = [cell.strip() for cell in cells]
        if len(cells) == 4 and all(cells) and None not in (parse_number(cells[2]), parse_integer(cells[3])):
            expected[number] = row(*cells)
    assert dict(good) == expected
    for chunk_bytes in (7, 100, 1000):
        assert read(tmp_path, fmt, content, chunk_bytes=chunk_bytes) == (good, bad)


def test_cells_of_every_length_and_alignment(tmp_path):
    rng = random.Random(0)
    cells = ["".join(rng.choices("ab", k=length)) for length in list(range(1, 40)) * 4 + [63, 64, 65, 200]]
    rng.shuffle(cells)
    content = "".join(f"{cell}\t{cell[::-1]}\t{i % 5}\t{i}\n" for i, cell in enumerate(cells))
    good, bad = read(tmp_path, ML100K, content)
    assert not bad and [found["user"] for _, found in good] == cells
    assert [found["item"] for _, found in good] == [cell[::-1] for cell in cells]


def test_tokens_of_plain_sequences():
    tokens = Tokens.of(["a", None, " b", float("nan"), "a", 3])
    assert np.asarray(tokens).tolist() == ["a", "", "b", "", "a", "3"]
    assert np.asarray(tokens.select(np.array([2, 0]))).tolist() == ["b", "a"]
    assert len(Tokens.of([])) == 0


def test_log_squared_bins_are_torchfms():
    def torchfm(value):
        if value == "":
            return "NULL"
        value = int(value)
        return str(int(math.log(value) ** 2)) if value > 2 else str(value - 2)

    for value in [*range(-50, 3000), 10**6, 2**31, 10**17]:
        assert log_squared_bin(str(value)) == torchfm(str(value))
    assert log_squared_bin("") == "NULL" and log_squared_bin("260.0") == torchfm("260")
    assert [log_squared_bin(token) for token in ("x", "1.5", "1_0", "٣", "1e3", "9" * 30)] == [None] * 6


def test_numbers():
    assert [parse_number(t) for t in ("1", "-2.5", ".5", "1e3", "+4.")] == [1, -2.5, 0.5, 1000, 4]
    assert [parse_number(t) for t in ("", "inf", "nan", "1_0", "0x1", "1e999", "1,5", "٣")] == [None] * 8


def test_real_files_parse_as_csv_does(shared):
    path = shared / "data" / "ml-latest-small" / "ratings.csv"
    found = [np.asarray(chunk.columns["item"]) for chunk in open_rows(MLCSV.layout, path, label=MLCSV.label)]
    with open(path, newline="") as file:
        assert np.concatenate(found).tolist() == [cells["movieId"] for cells in csv.DictReader(file)]

"""libsvm and libffm files: every line is a row or set aside with a reason, and its entries are slots with values."""

import gzip
import random
import re

import numpy as np
import pytest

from data_tools.build import build
from data_tools.encode import Encoder
from data_tools.errors import DataError
from data_tools.formats import open_rows
from data_tools.formats.entries import find_entries
from data_tools.inspect import inspect
from data_tools.numeric import parse_number
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from dist_fm.data.schema import EMPTY, read_schema
from dist_fm.data.store import BlockStore

LIBSVM = """+1 3:0.5 7:2  # two entries
-1 3:1
0
1 9: 3:0 7:-1.5e0\t11:1
"""
LIBFFM = """1 0:3:1 1:7:0.5 1:8:2
-1 0:4
1 2:3:1 0:3:0.25
"""


def make(tmp_path, text, name="libsvm", **options):
    (tmp_path / "raw.txt").write_text(text)
    options = {"inputs": (str(tmp_path / "raw.txt"),), "split": "none", **options}
    build(BuildOptions(name, str(tmp_path / "set"), **options), say=lambda _: None)
    assert verify(tmp_path / "set") == []
    return read_schema(tmp_path / "set")


def records(directory, split="train"):
    with BlockStore(directory / f"{split}.lmdb") as store:
        words = store.slice(0, store.rows)
        layout = store.layout
        return layout.labels(words).tolist(), layout.ids(words).copy(), layout.values(words).copy()


def quarantined(directory):
    lines = (directory / "quarantine.tsv").read_text().splitlines()[1:]
    return [(int(line.split("\t")[1]), line.split("\t")[2]) for line in lines]


def test_a_libsvm_row_is_one_field_of_entries_with_values(tmp_path):
    schema = make(tmp_path, LIBSVM)
    (field,) = schema.fields
    assert (field.slots, field.is_pooled, schema.num_inputs, field.rows) == (3, False, 3, 5)
    labels, ids, values = records(tmp_path / "set")
    assert labels == [1, 0, 0, 1]
    # 3 and 7 are in two rows each, 9 and 11 in one: ids by count, then by text. An entry of value 0 is none.
    assert ids.tolist() == [[1, 2, EMPTY], [1, EMPTY, EMPTY], [EMPTY] * 3, [4, 2, 3]]
    assert values.tolist() == [[0.5, 2, 0], [1, 0, 0], [0, 0, 0], [1, -1.5, 1]]
    encoder = Encoder.from_directory(tmp_path / "set")
    assert encoder.decode(ids, values) == [["3:0.5 7:2"], ["3:1"], [""], ["9:1 7:-1.5 11:1"]]
    assert any("features=9:1 7:-1.5 11:1" in line for line in inspect(tmp_path / "set", 4))


def test_a_libffm_row_has_a_field_for_every_number(tmp_path):
    schema = make(tmp_path, LIBFFM, "libffm")
    assert [(field.name, field.slots, field.is_pooled) for field in schema.fields] == [
        ("0", 1, True), ("1", 2, True), ("2", 1, True)]  # fmt: skip
    labels, ids, values = records(tmp_path / "set")
    offsets = [field.offset for field in schema.fields]
    assert offsets == [0, 3, 6] and labels == [1, 0, 1]
    assert ids.tolist() == [[1, 4, 5, EMPTY], [2, EMPTY, EMPTY, EMPTY], [1, EMPTY, EMPTY, 7]]
    assert values.tolist() == [[1, 0.5, 2, 0], [1, 0, 0, 0], [0.25, 0, 0, 1]]


def test_fields_that_are_all_there_once_may_be_lacking_in_a_row(tmp_path):
    schema = make(tmp_path, "1 0:3 1:7\n-1 1:7\n", "libffm", pool="none")
    assert schema.num_slots == schema.num_fields == 2 and not any(field.is_pooled for field in schema.fields)
    assert records(tmp_path / "set")[1].tolist() == [[1, 3], [EMPTY, 3]]


@pytest.mark.parametrize(
    "line, reason",
    [
        ("1 x:1", "index 'x' of 'x:1' is not a whole number"),
        ("1 -3:1", "index '-3' of '-3:1' is not a whole number"),
        ("1 2:3 5", "'5' is not index:value"),
        ("1 0:3:1", "'0:3:1' is not index:value"),
        ("1 3:abc", "value 'abc' of '3:abc' is not a number that float32 holds"),
        ("1 3:nan", "value 'nan' of"),
        ("1 3:1_0", "value '1_0' of"),
        ("1 3:1e39", "value '1e39' of"),
        ("1 3:\x00", "value '\\\\x00' of"),
        ("2 3:1", "label '2' is neither -1, 0 nor 1"),
        ("a 3:1", "label 'a' is not a number"),
        ("3:1 4:1", "label '3:1' is not a number"),
        ("", "an empty line"),
        (" # nothing", "an empty line"),
    ],
)
def test_a_bad_libsvm_row_is_set_aside_with_its_line_and_reason(line, reason, tmp_path):
    make(tmp_path, f"1 3:1\n{line}\n-1 4:1\n")
    ((number, found),) = quarantined(tmp_path / "set")
    assert number == 2 and found.startswith(reason), found
    assert records(tmp_path / "set")[0] == [1, 0]
    with pytest.raises(DataError, match=r"raw.txt:2: "):
        build(BuildOptions("libsvm", str(tmp_path / "s"), (str(tmp_path / "raw.txt"),), strict=True, split="none"))


@pytest.mark.parametrize(
    "entry, reason",
    [
        ("7", "'7' is not field:index:value"),
        ("0:1:2:3", "'0:1:2:3' is not field:index:value"),
        ("a:3:1", "field 'a' of 'a:3:1' is not a whole number"),
        ("0:3.5", "index '3.5' of '0:3.5' is not a whole number"),
        ("0:3:x", "value 'x' of '0:3:x' is not"),
    ],
)
def test_a_bad_libffm_row_is_set_aside_with_its_line_and_reason(entry, reason, tmp_path):
    make(tmp_path, f"1 0:3:1\n1 0:3:1 {entry}\n-1 0:4:1\n", "libffm")
    ((number, found),) = quarantined(tmp_path / "set")
    assert number == 2 and found.startswith(reason), found


def plain(line, with_fields):
    """A line's (field, index, value) entries, "empty", or None where it is bad."""
    words = re.split(r"[ \t]+", line.partition("#")[0].strip(" \t"))
    if words == [""]:
        return "empty"
    found = []
    for word in words[1:]:
        parts = word.split(":")
        if with_fields and len(parts) == 2:
            parts.append("")
        if len(parts) != 2 + with_fields or not all(part.isdigit() for part in parts[:-1]):
            return None
        number = parse_number(parts[-1]) if parts[-1] else 1.0
        with np.errstate(over="ignore"):
            value = np.float32(np.nan if number is None else number)
        if not np.isfinite(value):
            return None
        if value:
            found.append((int(parts[0]) if with_fields else 0, str(int(parts[-2])), value))
    return found


@pytest.mark.parametrize("with_fields", [False, True])
def test_entries_are_those_of_a_plain_reader(with_fields):
    rng = random.Random(with_fields)
    pieces = ["1", "-1", " ", " ", " ", "\t", ":", ":", "3", "07", "0", "2.5", "1e-3", "x", "#", "1234567890123", "é"]
    good = lambda: (
        f"{'4:' * with_fields}{rng.choice(['3', '007', '81234567890'])}:{rng.choice(['', '0', '0.25', '-1e2'])}"
    )
    lines = []
    for _ in range(3000):
        words = [rng.choice(["1", "-1", "junk"]), *(good() for _ in range(rng.randrange(4)))]
        noise = "".join(rng.choice(pieces) for _ in range(rng.randrange(5)))
        lines.append(rng.choice([" ", "\t", "  "]).join(words) + rng.choice(["", " ", noise, " " + noise]))
    found = find_entries("".join(f"{line}\n" for line in lines).encode(), with_fields=with_fields, may_lack_label=False)
    assert found.num_lines == len(lines)
    texts = np.asarray(found.indices)
    for number, line in enumerate(lines):
        expected, mine = plain(line, with_fields), found.lines == number
        assert (number in found.bad, number in found.empty) == (expected is None, expected == "empty"), line
        if expected and expected != "empty":
            assert list(zip(found.fields[mine], texts[mine], found.numbers[mine], strict=True)) == expected, line
    assert 0.1 < len(found.bad) / len(lines) < 0.7


def test_small_chunks_and_compressed_files_change_nothing(tmp_path):
    rng = random.Random(3)
    entries = lambda: " ".join(f"{i}:{rng.random():.3f}" for i in rng.sample(range(30), rng.randrange(6)))
    text = "".join(f"{rng.choice([-1, 1])} {entries()}\n" for _ in range(400))
    schema = make(tmp_path, text, max_entries=5)
    whole = records(tmp_path / "set")
    assert whole[1].shape == (400, 5)
    encoder = Encoder.from_directory(tmp_path / "set")
    (tmp_path / "raw.gz").write_bytes(gzip.compress(text.encode()))
    chunks = list(open_rows(schema.source, tmp_path / "raw.gz", for_prediction=True, chunk_bytes=200))
    assert len(chunks) > 20
    for part, all_rows in enumerate(zip(*(encoder.encode(chunk.columns) for chunk in chunks), strict=True)):
        np.testing.assert_array_equal(np.concatenate(all_rows), whole[1 + part])
    with pytest.raises(DataError, match="'features' must be one of entries"):
        encoder.encode({"features": ["1:2 3:1"]})


def test_places_for_entries_are_counted_or_given_and_longer_rows_set_aside(tmp_path):
    text = "1 1:1 2:1 3:1\n0 1:1 2:1\n1 1:1 2:0 3:0 4:0 5:1\n"
    assert make(tmp_path, text).num_slots == 3
    assert make(tmp_path, text, max_entries=2, overwrite=True).num_slots == 2
    assert quarantined(tmp_path / "set") == [
        (1, "field 'features' has more entries than the 2 that records have places for")
    ]
    long = "1 " + " ".join(f"{i}:1" for i in range(1500)) + "\n0 1:1\n"
    (tmp_path / "raw.txt").write_text(long)
    with pytest.raises(DataError, match="1,500 entries.*--max_entries=N"):
        build(BuildOptions("libsvm", str(tmp_path / "s"), (str(tmp_path / "raw.txt"),), split="none"))
    assert make(tmp_path, long, max_entries=1500, overwrite=True).num_slots == 1500

"""Ten thousand damaged lines of every format: each is a row, or set aside with its line and a reason; none is lost."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_logs import ROWS, SCHEMA, eleme_rows

from data_tools.build import build
from data_tools.encode import Encoder
from data_tools.errors import DataError
from data_tools.formats import get_format, open_rows
from data_tools.formats.avazu import FORMATS as AVAZU
from data_tools.formats.described import DELIMITERS
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from data_tools.vocab import unescape

LINES = 10_000
WEIGHTED = SCHEMA.replace('label = "click"', 'label = "click"\nweight = "w"\ngroup = "user"')
DESCRIBED = [line + f",{number}" for number, line in enumerate(ROWS.splitlines())]
DESCRIBED[0] = ROWS.splitlines()[0] + ",w"


def ratings(delimiter, rng):
    rows = [(rng.integers(90), rng.integers(200), rng.choice([1, 2.5, 4, 5]), rng.integers(10**9)) for _ in range(200)]
    return [delimiter.join(map(str, row)) for row in rows]


def criteo(rng):
    number = lambda: str(rng.integers(-2, 5000)) if rng.random() < 0.8 else ""
    token = lambda: f"{rng.integers(40):08x}" if rng.random() < 0.9 else ""
    return ["\t".join([str(n % 2), *(number() for _ in range(13)), *(token() for _ in range(26))]) for n in range(200)]


def avazu(rng):
    names = [column.name for column in AVAZU[0].layout.columns]
    row = lambda n: [str(n % 2), f"1410{rng.integers(10, 31)}{rng.integers(24):02}", *map(str, rng.integers(0, 60, 21))]
    return [",".join(["id", *names]), *(",".join([str(n), *row(n)]) for n in range(200))]


def ncf_test(rng):
    ids = lambda count: "\t".join(map(str, rng.integers(0, 300, count)))
    return [f"({n},{rng.integers(300)})\t{ids(9)}" for n in range(200)]


def frappe(rng):
    names = "label,user,item,daytime,weekday,isweekend,homework,cost,weather,country,city"
    return [names, *(",".join(map(str, [n % 2, *rng.integers(0, 400, 10)])) for n in range(200))]


# name: format, delimiter, lines, of which the first is a header if it holds no digit
CASES = {
    "movielens-100k": ("movielens-100k", "\t", lambda rng: ratings("\t", rng)),
    "movielens-1m": ("movielens-1m", "::", lambda rng: ratings("::", rng)),
    "movielens-csv": ("movielens-csv", ",", lambda rng: ["userId,movieId,rating,timestamp", *ratings(",", rng)]),
    "kmrd": ("kmrd", ",", lambda rng: ["user,movie,rate,time", *ratings(",", rng)]),
    "criteo": ("criteo", "\t", criteo),
    "avazu": ("avazu", ",", avazu),
    "frappe": ("frappe", ",", frappe),
    "ele-me": ("ele-me", ",", lambda rng: eleme_rows(60, longest=12).splitlines()),
    "ncf": ("ncf", "\t", lambda rng: ratings("\t", rng)),
    "ncf test": ("ncf", "\t", ncf_test),
    "csv": ("csv", ",", lambda rng: DESCRIBED),
    "tsv": ("tsv", "\t", lambda rng: [line.replace(",", "\t") for line in DESCRIBED]),
}
CELLS = [
    *(b"", b" ", b"-1", b"1e999", b"1e39", b"-1e300", b"9" * 30, b"2147483648", b"nan", b"inf", b"-Infinity", b"0x1f"),
    *(b"\xff\xfe", b"\xc3", "１２".encode(), "\u2028".encode(), b"\0", b"\x1f", b'"', b'""', b'"a', b"\r", b"\\t"),
    *(b"1_0", b"(1,2)", b"::", b"|;|", b"x" * 5000),
]


def damaged(line: bytes, delimiter: bytes, rng: np.random.Generator) -> bytes:
    """``line`` with up to three things wrong with it."""
    for _ in range(rng.integers(0, 4)):
        kind = rng.integers(8)
        at = int(rng.integers(len(line) + 1))
        if kind == 0 and line:
            flipped = line[at - 1] ^ (1 << rng.integers(8))
            line = line[: at - 1] + bytes([flipped]) + line[at:] if at else line
        elif kind == 1:
            line = line.replace(delimiter, b"", int(rng.integers(1, 3)))
        elif kind == 2:
            line = line[:at] + delimiter * int(rng.integers(1, 4)) + line[at:]
        elif kind == 3:
            line = line[:at]
        elif kind == 4:
            line = line[:at] + CELLS[rng.integers(len(CELLS))] + line[at:]
        else:
            cells = line.split(delimiter)
            cells[rng.integers(len(cells))] = CELLS[rng.integers(len(CELLS))]
            line = delimiter.join(cells)
    return line


def damaged_file(name, seed=0):
    """The bytes of a file whose first lines alone are sound, and whether the first is a header."""
    _, delimiter, make = CASES[name]
    rng = np.random.default_rng(seed)
    sound = [line.encode() for line in make(rng)]
    has_header = not any(byte in b"0123456789" for byte in sound[0]) or b"C1" in sound[0]
    lines = [damaged(sound[n], delimiter.encode(), rng) for n in rng.integers(has_header, len(sound), LINES)]
    lines[5000] = (b"y" * 300_000).join([sound[1][: len(sound[1]) // 2], sound[1][len(sound[1]) // 2 :]])
    ends = np.array([b"\n", b"\r\n", b"\n\n"], object)[rng.choice(3, LINES, p=[0.89, 0.1, 0.01])]
    text = b"".join(line + end for line, end in zip(lines, ends, strict=True))
    return b"\n".join(sound[:3]) + b"\n" + text + sound[-1], has_header


def described(name, tmp_path):
    """The format of a case, and the description it needs, if it does."""
    kind = CASES[name][0]
    if kind not in DELIMITERS:
        return kind, None
    (tmp_path / "schema.toml").write_text(WEIGHTED)
    return kind, str(tmp_path / "schema.toml")


def read(layout, path, **options):
    """Line numbers and cells of the good rows, and the bad rows."""
    chunks = list(open_rows(layout, path, **options))
    lines = np.concatenate([chunk.lines for chunk in chunks]).tolist()
    names = list(chunks[0].columns)
    cells = {name: np.concatenate([np.asarray(chunk.columns[name], object) for chunk in chunks]) for name in names}
    return lines, cells, [bad for chunk in chunks for bad in chunk.bad], chunks


@pytest.mark.parametrize("name", CASES)
def test_every_damaged_line_is_a_row_or_set_aside(name, tmp_path):
    content, has_header = damaged_file(name)
    path = tmp_path / "raw"
    path.write_bytes(content)
    kind, schema = described(name, tmp_path)
    chosen = get_format(kind, schema)
    raw = content.replace(b"\r\n", b"\n").split(b"\n")
    everything = range(1 + has_header, len(raw) + 1)
    assert len(everything) > LINES

    good, cells, bad, _ = read(chosen.layout, path, label=chosen.label)
    assert sorted({*good} | {row.line for row in bad}) == [*everything] and not {*good} & {row.line for row in bad}
    assert len(bad) == len({row.line for row in bad}) and 1000 < len(bad) < LINES
    assert all(row.reason and row.raw == raw[row.line - 1].decode("utf-8", "backslashreplace") for row in bad)
    again = read(chosen.layout, path, label=chosen.label, chunk_bytes=len(content) // 100)
    assert (good, bad) == (again[0], again[2]) and all((cells[name] == again[1][name]).all() for name in cells)

    options = BuildOptions(kind, str(tmp_path / "set"), (str(path),), schema=schema)
    manifest = build(options, say=lambda _: None)
    assert manifest.rows_in == len(good) + len(bad) and manifest.rows_quarantined == len(bad)
    assert manifest.rows_in == sum(about["rows"] for about in manifest.splits.values()) + manifest.rows_quarantined
    with open(tmp_path / "set" / "quarantine.tsv", encoding="utf-8", newline="\n") as file:
        quarantined = [line.rstrip("\n").split("\t") for line in file][1:]
    found = [(int(line), unescape(reason), unescape(text)) for _, line, reason, text in quarantined]
    assert found == [(row.line, row.reason, row.raw) for row in bad] and {row[0] for row in quarantined} == {str(path)}
    assert verify(tmp_path / "set") == []

    encoder = Encoder.from_directory(tmp_path / "set")
    lines, _, unread, chunks = read(encoder.schema.source, path, for_prediction=True)
    assert sorted({*lines} | {row.line for row in unread}) == [*everything] and {*good} <= {*lines}
    for chunk in chunks:
        ids, values = encoder.encode(chunk.columns)
        assert ids.max() < encoder.schema.num_rows and (values is None or np.isfinite(values).all())


@pytest.mark.parametrize("name", CASES)
def test_a_file_whose_first_lines_are_damaged_is_read_or_refused(name, tmp_path):
    _, delimiter, make = CASES[name]
    rng = np.random.default_rng(1)
    sound = [line.encode() for line in make(rng)]
    chosen = get_format(*described(name, tmp_path))
    ends = []
    for _ in range(60):
        lines = [damaged(line, delimiter.encode(), rng) for line in sound[:3]] + sound[3:6]
        (tmp_path / "raw").write_bytes(b"\n".join(lines))
        for options in ({"label": chosen.label}, {"for_prediction": True}):
            try:
                good, _, bad, _ = read(chosen.layout, tmp_path / "raw", **options)
                ends.append(bool(good))
            except DataError as error:
                assert str(tmp_path / "raw") in str(error)
                ends.append(None)
    assert True in ends


def test_damaged_cells_of_parquet_are_rows_or_set_aside(tmp_path):
    rng = np.random.default_rng(2)
    names, *sound = (line.encode().split(b",") for line in DESCRIBED)
    rows = [list(sound[n]) for n in rng.integers(len(sound), size=LINES)]
    for row in rows:
        for at in {*rng.integers(len(row), size=rng.integers(3)).tolist()}:
            row[at] = damaged(row[at], b";", rng) if rng.random() < 0.9 else None
    columns = {
        name.decode(): pa.array(cells, pa.binary()) for name, cells in zip(names, zip(*rows, strict=True), strict=True)
    }
    columns["tags"] = pa.array([None if row[2] is None else row[2].split(b"x") for row in rows], pa.list_(pa.binary()))
    pq.write_table(pa.table(columns), tmp_path / "raw.parquet", row_group_size=3000)
    (tmp_path / "schema.toml").write_text(WEIGHTED)
    inputs = (str(tmp_path / "raw.parquet"),)
    options = BuildOptions("parquet", str(tmp_path / "set"), inputs, schema=str(tmp_path / "schema.toml"))
    manifest = build(options, say=lambda _: None)
    lines = [line.split("\t") for line in (tmp_path / "set" / "quarantine.tsv").read_bytes().decode().split("\n")[1:-1]]
    assert manifest.rows_in == LINES and 1000 < manifest.rows_quarantined == len(lines) < LINES
    assert all(reason for _, _, reason, _ in lines) and len({line for _, line, *_ in lines}) == len(lines)
    assert verify(tmp_path / "set") == []


def test_a_damaged_parquet_file_is_read_or_refused(tmp_path):
    rng, kmrd = np.random.default_rng(3), get_format("kmrd")
    columns = {name: rng.integers(1, 11, 500) for name in ("user", "movie", "rate", "time")}
    pq.write_table(pa.table(columns), tmp_path / "raw", row_group_size=200)
    whole, ends = (tmp_path / "raw").read_bytes(), []
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(4, len(data))] ^= 1 << rng.integers(8)
        (tmp_path / "raw").write_bytes(data)
        try:
            ends.append(sum(chunk.num_rows for chunk in open_rows(kmrd.layout, tmp_path / "raw", label=kmrd.label)))
        except DataError as error:
            assert f"{tmp_path}/raw" in str(error) and "\n" not in str(error)
            ends.append(None)
    assert {*ends} == {500, None}

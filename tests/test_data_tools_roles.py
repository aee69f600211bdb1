"""Columns with a part of their own: weights, groups, times, sequences; warnings of columns that say nothing."""

import json

import numpy as np
import pytest
from conftest import pooled_rows
from test_commands import command

from data_tools.build import build
from data_tools.cli import main
from data_tools.encode import Encoder
from data_tools.errors import DataError
from data_tools.formats import get_format, open_rows
from data_tools.inspect import inspect
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from dist_fm.data.schema import EMPTY, SchemaError, read_schema
from dist_fm.data.store import BlockStore
from dist_fm.metrics.loss import logloss

FIELDS = '[[field]]\nname = "user"\nrole = "user"\n[[field]]\nname = "item"\nrole = "item"\n'


def made(tmp_path, text, schema, **options):
    """Builds ``text`` as ``schema`` describes; returns what was said."""
    (tmp_path / "rows.csv").write_text(text)
    (tmp_path / "schema.toml").write_text(schema)
    said = []
    options = {"split": "none", "schema": str(tmp_path / "schema.toml"), **options}
    build(BuildOptions("csv", str(tmp_path / "set"), (str(tmp_path / "rows.csv"),), **options), said.append)
    assert verify(tmp_path / "set") == []
    return said


def words(directory, split="train"):
    with BlockStore(directory / f"{split}.lmdb") as store:
        return store.layout, store.slice(0, store.rows).copy()


def test_weights_are_kept_with_their_rows_and_bad_ones_set_aside(tmp_path):
    cells = ["1", "0", "2.5", "-1", "x", "", "nan", "1e39", "0.25"]
    text = "y,user,item,w\n" + "".join(f"{n % 2},u{n},i,{cell}\n" for n, cell in enumerate(cells))
    made(tmp_path, text, 'label = "y"\nweight = "w"\n' + FIELDS)
    layout, rows = words(tmp_path / "set")
    assert layout.weights(rows).tolist() == [1, 0, 2.5, 0.25] and layout.labels(rows).tolist() == [0, 1, 0, 0]
    quarantined = (tmp_path / "set" / "quarantine.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1:3] for line in quarantined] == [
        ["5", "w '-1' is a negative weight"],
        ["6", "w 'x' is not a number"],
        ["7", "w is empty"],
        ["8", "w 'nan' is not a number"],
        ["9", "w '1e39' is not a number"],
    ]
    shown = "\n".join(inspect(tmp_path / "set"))
    assert "weight: w" in shown and "train row 2: label=0 weight=2.5 user=u2 item=i" in shown


def test_another_column_for_the_label_or_the_weight_is_another_data_set(tmp_path):
    text = "y,z,user,item,w\n1,0,u,i,2\n0,0,u,j,3\n"
    schema = 'label = "y"\nweight = "w"\n' + FIELDS
    made(tmp_path, text, schema)
    assert "complete already" in made(tmp_path, text, schema)[0]
    for change in (('"y"', '"z"'), ('weight = "w"', 'weight = "z"'), ('weight = "w"', 'group = "w"')):
        with pytest.raises(DataError, match="built with other options"):
            made(tmp_path, text, schema.replace(*change))


def test_training_and_evaluation_count_a_row_by_its_weight(tmp_path):
    """Item a is clicked in rows of weight 9 and not in rows of weight 1; of item b it is the other way round."""
    text = "y,user,item,w\n" + "".join(
        f"{n % 2},u,{'ab'[n // 2 % 2]},{9 if n % 4 in (1, 2) else 1}\n" for n in range(800)
    )
    made(tmp_path, text, 'label = "y"\nweight = "w"\n' + FIELDS, split="random")
    flags = (
        "--model=lr",
        "--epochs=8",
        "--lr=0.2",
        "--batch_size=100",
        "--data.unseen_rate=0",
        "--devices=1",
        "--quiet",
    )
    command("train", f"--data={tmp_path}/set", *flags, "--train.monitor=logloss", f"--output_dir={tmp_path}/run")
    (tmp_path / "new.csv").write_text("item,user\na,u\nb,u\n")  # rows to predict have no weight
    arguments = (f"--input={tmp_path}/new.csv", f"--output={tmp_path}/scores.csv")
    command("predict", f"--run={tmp_path}/run", *arguments)
    a, b = (float(line.split(",")[1]) for line in (tmp_path / "scores.csv").read_text().splitlines()[1:])
    assert a == pytest.approx(0.9, abs=0.03) and b == pytest.approx(0.1, abs=0.03)  # unweighted, both would be .5
    layout, rows = words(tmp_path / "set", "test")
    by_item = {f"{name}": np.log(p / (1 - p)) for name, p in (("a", a), ("b", b))}
    encoder = Encoder.from_directory(tmp_path / "set")
    logits = np.array([by_item[cells[1]] for cells in encoder.decode(layout.ids(rows))])
    expected = logloss(layout.labels(rows), logits, layout.weights(rows))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test"]["logloss"] == pytest.approx(expected, rel=1e-5)


def test_a_group_is_kept_even_of_rows_that_training_has_not_seen(tmp_path):
    sessions = ["s1", "s2", "s1", "s3", "s2", "", "s4", "s4", "s3", "s5"]
    text = "y,user,item,s\n" + "".join(f"{n % 2},u,i{n},{s}\n" for n, s in enumerate(sessions))
    made(tmp_path, text, 'label = "y"\ngroup = "s"\n' + FIELDS, split="order", fractions=(0.5, 0.0, 0.5))
    assert read_schema(tmp_path / "set").num_fields == 2  # the session is no feature
    found = []
    for split in ("train", "test"):
        layout, rows = words(tmp_path / "set", split)
        found += layout.groups(rows).tolist()
    pairs = set(zip(sessions, found, strict=True))
    assert len(pairs) == len(set(sessions)) == len(set(found))
    assert "group: s" in inspect(tmp_path / "set")
    layout = get_format("csv", str(tmp_path / "schema.toml")).layout
    (tmp_path / "new.csv").write_text("user,item\nu,i1\n")
    assert len(list(open_rows(layout, tmp_path / "new.csv", for_prediction=True))) == 1


ROLES = """label = "y"
[[field]]
name = "who"
column = "user"
role = "user"
[[field]]
name = "item"
role = "item"
[[field]]
name = "hour"
kind = "time"
column = "at"
part = "hour"
role = "timestamp"
[[field]]
name = "query"
kind = "hash"
buckets = 10
column = "q"
role = "group"
"""


def test_every_role_is_of_use_from_a_description(tmp_path):
    times = [5, 1, 4, 2, 3, 9, 8, 7, 6, 0]
    text = "y,user,item,at,q\n" + "".join(f"{n % 2},u{n % 3},i{n % 4},{t},q{n % 5}\n" for n, t in enumerate(times))
    made(tmp_path, text, ROLES, split="time", fractions=(0.5, 0.2, 0.3))
    schema = read_schema(tmp_path / "set")
    assert [schema.field_with_role(role) for role in ("user", "item", "timestamp", "group")] == [0, 1, 2, 3]
    layout, rows = words(tmp_path / "set", "train")
    assert [row[1] for row in Encoder.from_directory(tmp_path / "set").decode(layout.ids(rows))] == [
        f"i{n % 4}" for n in (1, 2, 3, 4, 9)
    ]
    groups = layout.groups(rows).tolist()  # of q1, q2, q3, q4, q4
    assert len({*groups}) == 4 and groups[3] == groups[4]
    made(tmp_path, text, ROLES, split="user", overwrite=True)
    made(tmp_path, text, ROLES, split="leave_one_out", overwrite=True)
    (tmp_path / "new.csv").write_text("user,item,q\nu1,i1,q1\n")  # fields read the time, so rows to predict need it
    with pytest.raises(DataError, match="no column 'at'"):
        open_rows(schema.source, tmp_path / "new.csv", for_prediction=True)


@pytest.mark.parametrize(
    "schema, message",
    [
        (ROLES.replace('role = "item"', 'role = "user"'), "fields 'who' and 'item' both have the role 'user'"),
        ('timestamp = "then"\n' + ROLES, "timestamp = 'then', but field 'hour' .* is made of 'at'"),
        ('group = "user"\n' + ROLES, "group = 'user', but field 'query' .* is made of 'q'"),
        (ROLES.replace('role = "item"', 'role = "itm"'), "unknown role 'itm'; did you mean 'item'"),
        (ROLES.replace('label = "y"', ""), "needs 'label'"),
        (ROLES.replace("label = ", "columns = ['y', 'user', 3]\nlabel = "), "an entry of columns = 3 must be str"),
        (ROLES.replace("label = ", "columns = ['y', 'user', 'item', 'at']\nlabel = "), "columns lacks 'q'"),
        ("delimiter = ''\n" + ROLES, "delimiter = '' must be text"),
        ("field = [1]\nlabel = 'y'", "an entry of field = 1 must be dict"),
        (ROLES + "[[field]]\nname = 'c'\nkind = 'cross'\ncolumns = ['q', 'at']\nbuckets = 9\nrole = 'item'", "no role"),
        (ROLES + "[[field]]\nname = 'c'\nkind = 'binned'\nedges = [3, 1]", "edges = .* must ascend"),
        (ROLES + "[[field]]\nname = 'c'\nsplit = ''\nmax = 3", "split must not be empty"),
        (ROLES + "[[field]]\nname = 'c'\nkind = 'sequence'\nsplit = ' '", "kind 'sequence' needs 'max'"),
        (ROLES + "[[field]]\nname = 'c'\nshares = 'hour'", "'c' cannot share rows with 'hour'"),
    ],
)
def test_descriptions_that_are_refused(schema, message, tmp_path):
    with pytest.raises(DataError, match=message):
        made(tmp_path, "y,user,item,at,q\n1,u,i,1,q\n", schema)


HISTORY = """label_rule = "implicit"
delimiter = ";"
columns = ["seen", "next"]
[[field]]
name = "next"
role = "item"
[[field]]
name = "seen"
kind = "sequence"
split = " "
max = 3
shares = "next"
[[field]]
name = "hashed"
kind = "sequence"
column = "seen"
split = " "
max = 2
keep = "first"
buckets = 50
pool = "sum"
"""


def test_a_sequence_keeps_its_last_entries_in_order(tmp_path):
    lines = ["a b c d;e", "b a;a", ";b", "e e a;c", "d;d"]
    made(tmp_path, "".join(line + "\n" for line in lines), HISTORY)
    schema = read_schema(tmp_path / "set")
    item, seen, hashed = schema.fields
    assert (seen.kind, seen.slots, seen.offset, seen.rows) == ("sequence", 3, item.offset, item.rows)
    layout, rows = words(tmp_path / "set")
    ids, values = layout.ids(rows), layout.values(rows)
    encoder = Encoder.from_directory(tmp_path / "set")
    assert [row[1] for row in encoder.decode(ids, values)] == ["b c d", "b a", "", "e e a", "d"]
    history = ids[:, 1:4]
    assert (history != EMPTY).sum(axis=1).tolist() == [3, 2, 0, 3, 1]  # the lengths
    assert history[1].tolist() == [ids[2, 0], ids[1, 0], EMPTY]  # b, a: rows of the items themselves
    np.testing.assert_allclose(values[:, 1:4].sum(axis=1), [1, 1, 0, 1, 1], rtol=1e-6)
    assert values[0, 4:].tolist() == [1, 1] and (hashed.slots, hashed.rows) == (2, 51)
    with pytest.raises(SchemaError, match="kind 'history' is not one of"):
        type(seen)(**{**vars(seen), "kind": "history"})


def test_a_model_takes_the_mean_of_a_sequence(tmp_path):
    made(tmp_path, "a b c d;e\n;b\na b b c d e;c\n", HISTORY)
    schema = read_schema(tmp_path / "set")
    rows, table = pooled_rows(schema, words(tmp_path / "set")[1])
    ids = Encoder.from_directory(tmp_path / "set").vocabularies["next.tsv"].ids([*"abcde"])
    a, b, c, d, e = table[ids]
    np.testing.assert_allclose(rows[:, 1], [(b + c + d) / 3, 0 * a, (c + d + e) / 3], atol=1e-7)
    np.testing.assert_allclose(rows[:, 0], [e, b, c], atol=1e-7)
    assert np.ptp(table[ids]) > 1e-3


LOG = 'label = "y"\ntimestamp = "at"\n' + FIELDS + """
[[field]]
name = "site"
[[field]]
name = "weekend"
kind = "time"
column = "at"
part = "weekend"
[[field]]
name = "price"
kind = "numeric"
"""  # fmt: skip


def warned(said):
    return [line for line in said if line.startswith("warning: ")]


def test_columns_that_say_nothing_are_named(tmp_path):
    rng = np.random.default_rng(0)
    items = [f"i{n}" if n >= 9 else "i" for n in range(200)]  # 192 values in 200 rows, and price has 200
    text = "y,user,item,site,at,price\n" + "".join(
        f"{n % 2},u{n % 9},{item},s,{n},{rng.random()}\n" for n, item in enumerate(items)
    )
    said = made(tmp_path, text, LOG)
    assert warned(said) == [
        "warning: the same value in all 200 training rows: site, weekend",
        "warning: nearly as many values as training rows (95% of 200 or more), as a row's number has: item",
    ]
    # Only training rows count: the site differs in the last row, which is for testing.
    assert "site, weekend" in warned(made(tmp_path, text + "0,u0,i,t,9,1\n", LOG, split="order", overwrite=True))[0]
    few = "".join(text.splitlines(keepends=True)[:90])  # too few rows to tell
    assert warned(made(tmp_path, few, LOG, overwrite=True)) == [
        "warning: the same value in all 89 training rows: site, weekend"
    ]
    varied = "y,user,item,site,at,price\n" + "".join(
        f"{n % 2},u{n % 9},i{n % 20},s{n % 3},{n * 86400},{n}\n" for n in range(200)
    )
    assert warned(made(tmp_path, varied, LOG, overwrite=True)) == []


def test_a_label_that_never_changes_is_named(tmp_path, capsys):
    (tmp_path / "raw").write_text("".join(f"{n % 7}::{n % 5}::4::{n}\n" for n in range(50)))
    arguments = ["build-lmdb", "--format=movielens-1m", f"--input={tmp_path}/raw", "--split=none"]
    assert main([*arguments, f"--output={tmp_path}/a"]) == 0
    assert "warning: every training row has the label 1\n" in capsys.readouterr().out
    assert main([*arguments, f"--output={tmp_path}/b", "--label=above:4"]) == 0
    assert "warning: every training row has the label 0\n" in capsys.readouterr().out
    assert main([*arguments, f"--output={tmp_path}/c", "--label=implicit"]) == 0
    hint = "--negatives=N samples others, or training does by --data.negatives=N"
    assert f"warning: every training row has the label 1; {hint}\n" in capsys.readouterr().out
    assert main([*arguments, f"--output={tmp_path}/d", "--label=value"]) == 0
    assert "warning: every" not in capsys.readouterr().out

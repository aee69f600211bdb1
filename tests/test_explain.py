"""What a model has learnt: importance of fields, strength of pairs, neighbours, vectors; by loops and by command."""

import dataclasses
import json

import jax
import numpy as np
import pyarrow.parquet
import pytest
import sklearn.metrics
from conftest import SCRIPT, make_engine, make_schema
from test_commands import command

from data_tools.encode import Encoder
from data_tools.vocab import unescape
from dist_fm.data.records import RecordLayout
from dist_fm.data.schema import EMPTY, Field, Label, Schema
from dist_fm.data.shards import open_split
from dist_fm.data.source import EvalSource
from dist_fm.explaining import embeddings, neighbours
from dist_fm.explaining.importance import field_words, permutation_importance
from dist_fm.explaining.pairs import INTERACTIONS, no_pairs, pair_strengths
from dist_fm.explaining.rows import SomeRows, table_rows
from dist_fm.models import MODELS
from dist_fm.parallel.mesh import make_mesh
from dist_fm.run_dir import RunDir
from dist_fm.training.evaluation import score
from dist_fm.training.opening import open_best


@pytest.fixture(scope="module")
def opened(hostile_run):
    """The run's engine, best weights, encoder, and all rows of its test split."""
    run = RunDir.open(hostile_run / "run")
    with open_split(hostile_run / "data", "test") as store:
        rows = SomeRows.draw(store, 10_000)
    engine, state = open_best(run, make_mesh(jax.devices()[:1]))
    return engine, state, Encoder.from_directory(run.path), rows


def logical(engine, state):
    """The whole table [R, W], in logical order."""
    return np.asarray(state.table)[engine.spec.physical(np.arange(engine.schema.num_rows))]


def auc_of(engine, state, rows):
    source = EvalSource(rows, engine.schema, 256, padded_size=256)
    logits, labels, weights = map(np.concatenate, zip(*score(engine, state, source), strict=True))
    return sklearn.metrics.roc_auc_score(labels, logits, sample_weight=weights)


def test_importance_is_the_auc_that_is_lost(opened):
    engine, state, _, rows = opened
    found = permutation_importance(engine, state, rows, repeats=2, seed=5)
    assert found.base["auc"] == pytest.approx(auc_of(engine, state, rows), abs=1e-12)
    for field in (1, 2):  # one id, and a list of which every entry has a value
        slots = np.flatnonzero(engine.schema.slot_fields == field)
        order = np.random.default_rng((5, field, 1)).permutation(rows.rows)
        ids, values = rows.ids.copy(), rows.layout.values(rows.words).copy()
        ids[:, slots], values[:, slots] = ids[order][:, slots], values[order][:, slots]
        words = rows.layout.pack(rows.layout.labels(rows.words), ids, values)
        lost = found.base["auc"] - auc_of(engine, state, dataclasses.replace(rows, words=words))
        assert found.worse["auc"][field, 1] == pytest.approx(lost, abs=1e-12)
    names = [found.fields[field] for field in found.ranked]
    assert names[0] == "item" and found.worse["auc"][1].min() > 0.1
    assert abs(found.worse["auc"][3]).max() < 0.02  # noise
    again = permutation_importance(engine, state, rows, repeats=2, seed=5)
    np.testing.assert_array_equal(again.worse["auc"], found.worse["auc"])
    other = permutation_importance(engine, state, rows, repeats=2, seed=6)
    assert (other.worse["auc"][1] != found.worse["auc"][1]).all()


def test_all_of_a_field_moves_together_and_nothing_else(opened):
    engine, _, _, rows = opened
    words = [field_words(engine.schema, rows, field) for field in range(engine.schema.num_fields)]
    assert sorted(np.concatenate(words)) == list(range(rows.layout.first_id, rows.layout.words))
    assert len(words[2]) == 6  # three ids and their values


def draw_rows(fields, count=9, seed=0):
    """Rows of ``fields`` categorical ones, one of two slots with values, weights, some slots empty."""
    sizes = (5, 7, 4, 6)[:fields]
    offsets = np.cumsum([0, *sizes[:-1]])
    each = enumerate(zip(sizes, offsets.tolist(), strict=True))
    made = [Field(f"f{i}", "categorical", n, offset, 1 + (i == 1)) for i, (n, offset) in each]
    schema = Schema("pairs", tuple(made), Label("label", "binary"), has_values=True, has_weights=True)
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, f.rows, count) + f.offset for f in made for _ in range(f.slots)], 1).astype(
        np.int32
    )
    ids[rng.random(ids.shape) < 0.1] = EMPTY
    layout = RecordLayout.for_schema(schema)
    weights = rng.random(count).astype(np.float32)
    words = layout.pack(np.zeros(count), ids, rng.normal(1, 0.3, ids.shape), weights)
    return schema, SomeRows(words, layout, count)


@pytest.mark.parametrize("model", INTERACTIONS)
def test_strength_of_pairs_against_a_loop(model):
    schema, rows = draw_rows(4)
    engine = make_engine(model, schema=schema, sections={"model": {"name": model, "embed_dim": 3}})
    state = engine.init()
    factors = logical(engine, state)[:, engine.layout.slices["factors"]].astype(np.float64)
    weights = rows.weights.astype(np.float64)
    total = np.zeros((4, 4))
    for ids, values, weight in zip(rows.ids, rows.values, weights, strict=True):
        of_field = [np.zeros(factors.shape[1]) for _ in range(4)]
        for slot, field in enumerate(schema.slot_fields):
            if ids[slot] != EMPTY:
                of_field[field] = of_field[field] + values[slot] * factors[ids[slot]]
        for i in range(4):
            for j in range(4):
                a, b = of_field[i][:3], of_field[j][:3]  # hofm: those of pairs come first
                if model in ("ffm", "fnfm"):
                    a, b = of_field[i][3 * j : 3 * j + 3], of_field[j][3 * i : 3 * i + 3]
                total[i, j] += weight * (np.sum((a * b) ** 2) if model in ("nfm", "fnfm") else np.dot(a, b) ** 2)
    expected = np.sqrt(total / weights.sum())
    np.fill_diagonal(expected, 0)
    found = pair_strengths(engine, state, rows)
    np.testing.assert_allclose(found.strengths, expected, rtol=1e-5)
    strengths = [found.strengths[pair] for pair in found.ranked]
    assert len(strengths) == 6 and strengths == sorted(strengths, reverse=True)


@pytest.mark.parametrize("model", ["fm", "ffm", "hofm"])
def test_the_strength_of_the_only_pair_of_one_row_is_its_logit(model):
    """At first, first-order weights are zero."""
    schema, rows = draw_rows(2, count=1, seed=3)
    engine = make_engine(model, schema=schema, sections={"model": {"name": model, "embed_dim": 3}})
    state = engine.init()
    ((logits, *_),) = score(engine, state, EvalSource(rows, schema, 1, padded_size=1))
    assert logits[0] != 0
    assert pair_strengths(engine, state, rows).strengths[0, 1] == pytest.approx(abs(float(logits[0])), rel=1e-5)


def test_every_other_model_says_why_it_has_no_pairs():
    for model in MODELS:
        reason = no_pairs(model, make_schema())
        assert (reason is None) == (model in INTERACTIONS)
        assert reason is None or (f"for {model}: " in reason and "fm, deepfm" in reason)
    schema, _ = draw_rows(1)
    assert "has one field" in no_pairs("fm", schema)


def test_neighbours_are_those_of_all_vectors(opened, monkeypatch):
    engine, state, encoder, _ = opened
    monkeypatch.setattr(neighbours, "AT_ONCE", 6)  # of 21 rows
    field = engine.schema.fields[1]
    table = logical(engine, state)[field.offset : field.offset + field.rows, engine.layout.slices["factors"]]
    values = [encoder.value_of(field, field.offset + i) for i in range(field.rows)]
    own = table[values.index(SCRIPT)]
    dots = dict(zip(values, table @ own, strict=True))
    cosines = {v: dots[v] / np.linalg.norm(x) / np.linalg.norm(own) for v, x in zip(values, table, strict=True)}
    for by, known in (("cosine", cosines), ("dot", dots)):
        found = neighbours.neighbours(engine, state, encoder, field, SCRIPT, column="factors", top=7, by=by)
        others = [value for value in values[1:] if value != SCRIPT]
        assert [one.value for one in found] == sorted(others, key=lambda value: -known[value])[:7]
        assert [one.cosine for one in found] == pytest.approx([cosines[one.value] for one in found], abs=1e-6)
        assert [one.dot for one in found] == pytest.approx([dots[one.value] for one in found], abs=1e-6)
    vocabulary = encoder.vocabularies[field.vocabulary]
    counts = dict(zip(vocabulary.values, vocabulary.counts.tolist(), strict=True))
    assert all(one.training_rows == counts[one.value] for one in found)


def test_the_command_prints_and_saves_what_it_found(hostile_run, tmp_path):
    flags = (f"--run={hostile_run}/run", "--devices=1", "--repeats=2", f"--output={tmp_path}/found.json")
    out = command("explain", *flags)
    assert out.index("\nitem ") < out.index("\nnoise ") and "item x user" in out or "user x item" in out
    found = json.loads((tmp_path / "found.json").read_text())
    result = json.loads((hostile_run / "run" / "result.json").read_text())["test"]
    assert found["metrics"]["auc"] == pytest.approx(result["auc"]) and found["rows"] == found["rows_of_split"]
    assert found["importance"][0]["field"] == "item" and len(found["pairs"]) == 10
    assert f"{found['importance'][0]['auc']['mean']:.5f}" in out
    assert command("explain", *flags) == out
    few = command("explain", *flags, "--rows=100", "--split=train", "--top=2")
    assert "100 of 9" in few and few.count(" x ") == 2


def test_the_command_prints_neighbours(hostile_run):
    out = command("explain", f"--run={hostile_run}/run", "--field=user", "--value=u3", "--top=4", "--by=dot")
    lines = out.splitlines()
    assert len(lines) == 6 and "by dot of factors" in lines[0]
    dots = [float(line.split()[2]) for line in lines[2:]]
    assert dots == sorted(dots, reverse=True)


@pytest.fixture(scope="module")
def vectors(opened):
    """The factors of the fields item and tags, and their rows' field, id and value."""
    engine, state, encoder, _ = opened
    fields = [engine.schema.fields[1], engine.schema.fields[2]]
    rows = np.concatenate([np.arange(field.offset, field.offset + field.rows) for field in fields])
    names = [(f.name, str(i), encoder.value_of(f, f.offset + i)) for f in fields for i in range(f.rows)]
    return logical(engine, state)[rows][:, engine.layout.slices["factors"]], names


def read_names(path):
    with open(path, encoding="utf-8", newline="\n") as file:
        lines = [line.rstrip("\n").split("\t") for line in file]
    assert lines[0] == ["field", "id", "value", "count"]
    return [(field, number, unescape(value)) for field, number, value, _ in lines[1:]]


def test_vectors_go_out_in_logical_order_with_raw_values(hostile_run, vectors, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "AT_ONCE", 8)
    expected, names = vectors
    fields = ("--fields=item,<b>tags</b>", f"--run={hostile_run}/run")
    command("explain", *fields, f"--embeddings={tmp_path}/v.npy", "--devices=1")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), expected)
    assert read_names(tmp_path / "v.tsv") == names

    command("explain", *fields, f"--embeddings={tmp_path}/projector", "--devices=1")
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "projector" / "tensors.tsv", np.float32), expected)
    assert read_names(tmp_path / "projector" / "metadata.tsv") == names
    assert "a\\tb" in (tmp_path / "projector" / "metadata.tsv").read_text(encoding="utf-8")

    command("explain", *fields, f"--embeddings={tmp_path}/v.parquet", "--columns=linear,factors", "--devices=1")
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet").to_pydict()
    assert list(zip(table["field"], map(str, table["id"]), table["value"], strict=True)) == names
    np.testing.assert_array_equal(np.array(table["factors"], np.float32), expected)
    assert np.array(table["linear"]).shape == (len(expected), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["projector", "v.npy", "v.parquet", "v.tsv"]


def test_rows_of_a_sharded_table_are_the_same():
    found = []
    for placement in ("replicated", "sharded"):
        engine = make_engine("fm", 4, sections={"tables": {"placement": placement, "update": "sparse"}})
        assert engine.lookup.sharded == (placement == "sharded")
        state = engine.init()
        found.append(table_rows(engine, state, np.arange(engine.schema.num_rows)[::-1]))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[1], logical(engine, state)[::-1])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--field=itme", "--value=3"), "no field 'itme'; did you mean item?"),
        (("--field=item", "--value=<script>alert</script>"), f"did you mean {SCRIPT}?"),
        (("--field=price", "--value=3"), "of numbers, which share one vector"),
        (("--field=item", "--value=3", "--column=factor"), "did you mean factors?"),
        (("--field=item", "--value=3", "--by=cos"), "--by=cos"),
        (("--field=item",), "--value=... must be given"),
        (("--field=item", "--value=3", "--top=0"), "--top=0: must be at least 1"),
        (("--embeddings=v.npz",), "FILE.npy, FILE.parquet, or a directory"),
        (("--embeddings=/nowhere/v.npy",), "FILE.npy, FILE.parquet, or a directory"),
        (("--embeddings=v.npy", "--columns=linaer"), "did you mean linear?"),
        (("--embeddings=v.npy", "--repeats=3"), "unknown flag --repeats"),
        (("--split=tset",), "did you mean test?"),
        (("--rows=0",), "--rows=0: must be at least 1"),
        (("--output=/nowhere/x.json",), "there is no directory /nowhere"),
        (("--data=/nowhere",), "no such directory"),
    ],
)
def test_what_is_refused(hostile_run, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    assert words in command("explain", f"--run={hostile_run}/run", *flags, expect=2)
    assert not list(tmp_path.iterdir())


def test_values_and_rows_are_each_others_inverse(opened, built):
    """For fields with a vocabulary, hashed and list fields; also those of a schema with every kind of field."""
    _, _, encoder, _ = opened
    for one in (encoder, Encoder.from_directory(built / "set")):
        for field in one.schema.fields:
            if field.kind != "numeric":
                rows = range(field.offset, field.offset + field.rows)
                assert [one.row_of(field, one.value_of(field, row)) for row in rows] == list(rows)
                assert one.row_of(field, "no such value") is None


def test_the_rows_that_are_drawn_are_the_seeds(hostile_run):
    with open_split(hostile_run / "data", "train") as store:
        one, same, other = (SomeRows.draw(store, 50, seed).words for seed in (1, 1, 2))
        every = SomeRows.draw(store, 10**6)
        np.testing.assert_array_equal(every.words, store.slice(0, store.rows))
    np.testing.assert_array_equal(one, same)
    assert len(one) == 50 and not (one == other).all()
    assert {row.tobytes() for row in one} <= {row.tobytes() for row in every.words}

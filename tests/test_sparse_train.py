"""libsvm and libffm data sets from splits to scores: vocabularies, training, evaluation, prediction from raw rows."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from test_data_tools_disturbed import run_build, same_files

import dist_fm.evaluate
import dist_fm.predict
from data_tools.build import build
from data_tools.encode import Encoder
from data_tools.errors import DataError
from data_tools.plan import BuildOptions
from data_tools.verify import verify
from dist_fm.data.records import RecordLayout
from dist_fm.data.schema import EMPTY, read_schema
from dist_fm.data.store import BlockStore
from dist_fm.data.store_writer import BlockWriter
from dist_fm.flags import load_config, parse_flags
from dist_fm.parallel.mesh import make_mesh
from dist_fm.run_dir import RunDir
from dist_fm.training.opening import open_best
from dist_fm.training.session import train


def make(directory, files, name, **options):
    """``files``: one text, or those of train, valid and test."""
    directory.mkdir()
    texts = (files,) if isinstance(files, str) else files
    paths = [str(directory / f"{number}.txt") for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    if len(paths) > 1:
        options |= {"split": "files", "split_files": tuple(paths)}
    else:
        options = {"split": "none", "inputs": tuple(paths), **options}
    build(BuildOptions(name, str(directory / "set"), **options), say=lambda _: None)
    assert verify(directory / "set") == []
    return directory / "set"


def decoded(directory, split="train"):
    with BlockStore(directory / f"{split}.lmdb") as store:
        words = store.slice(0, store.rows)
        return Encoder.from_directory(directory).decode(store.layout.ids(words), store.layout.values(words))


def test_fields_are_those_of_the_training_file_and_places_those_of_all(tmp_path):
    files = ("1 0:1 1:5\n0 0:2\n", "1 0:1 0:2:3 1:9\n1 7:1\n", "0 1:5:2\n")
    data = make(tmp_path / "a", files, "libffm")
    assert [(field.name, field.slots) for field in read_schema(data).fields] == [("0", 2), ("1", 1)]
    capped = make(tmp_path / "capped", files, "libffm", max_entries=1)
    assert [field.slots for field in read_schema(capped).fields] == [1, 1]
    assert [len(decoded(found, "valid")) for found in (data, capped)] == [1, 0]
    assert decoded(data, "valid") == [["1:1 2:3", "<unseen>:1"]] and decoded(data, "test") == [["", "5:2"]]
    line = (data / "quarantine.tsv").read_text().splitlines()[1]
    assert line.split("\t")[1:3] == ["2", "field '7' is not one of those that training has"]


def test_workers_and_pieces_do_not_change_a_byte(tmp_path):
    data = make(tmp_path / "a", "".join(rows_of(True, 300)), "libffm", split="random", block_rows=50)
    raw = tmp_path / "a" / "0.txt"
    done = run_build(raw, tmp_path / "set", format="libffm", block_rows=50, workers=2, chunk_bytes=400)
    assert done.returncode == 0, done.stderr
    assert same_files(data, tmp_path / "set")


def test_min_count_yesterdays_vocabulary_and_its_growth(tmp_path):
    old = make(tmp_path / "old", "1 3:1 4:1\n0 3:1 5:1\n1 4:2\n", "libsvm", min_count=2)
    assert Encoder.from_directory(old).vocabularies["features.tsv"].values == ["3", "4"]
    log = "1 3:1 8:1\n0 8:2\n1 3:1 4:1 8:3\n"
    new = make(tmp_path / "new", log, "libsvm", vocab_from=str(old))
    assert read_schema(new).fingerprint == read_schema(old).fingerprint
    assert decoded(new) == [["3:1 <unseen>:1"], ["<unseen>:2"]]  # the third row is longer than yesterday's
    grown = make(tmp_path / "grown", log, "libsvm", vocab_from=str(old), grow=True, min_count=2)
    assert Encoder.from_directory(grown).vocabularies["features.tsv"].values == ["3", "4", "8"]
    assert decoded(grown)[1] == ["8:2"]
    with pytest.raises(DataError, match="'libsvm' was not built from libffm rows"):
        make(tmp_path / "other", "1 0:3\n", "libffm", vocab_from=str(old))


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("libsvm", {"split": "leave_one_out"}, "needs timestamps"),
        ("libsvm", {"pool": "mean"}, "unknown pool of libsvm entries 'mean'.*sum, none"),
        ("libffm", {"max_entries": 0}, "--max_entries=0: must be at least 1"),
        ("movielens-100k", {"max_entries": 5}, "--max_entries goes with --format=libsvm"),
        ("libsvm", {"pool": "sum", "vocab_from": "x"}, "--pool does not go with --vocab_from"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, options, words, tmp_path):
    with pytest.raises(DataError, match=words):
        make(tmp_path / "a", "1 3:1\n", name, **options)


def test_files_without_a_good_row_or_an_entry_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"0.txt: no row has an entry; the first bad one: .*0.txt:2: index 'x' of"):
        make(tmp_path / "a", "\n1 3:x\n", "libffm")
    with pytest.raises(DataError, match="0.txt: no row has an entry$"):
        make(tmp_path / "b", "1\n0 3:0\n", "libsvm")


def test_verify_finds_a_value_that_does_not_tell_its_slot(tmp_path):
    data = make(tmp_path / "a", "1 3:1 4:1\n0 3:1\n", "libsvm")
    layout = RecordLayout.for_schema(read_schema(data))
    with BlockStore(data / "train.lmdb") as store:
        words = store.slice(0, 2).copy()
    layout.values(words)[1, 1] = 0.5
    assert layout.ids(words)[1, 1] == EMPTY
    shutil.rmtree(data / "train.lmdb")
    with BlockWriter(data / "train.lmdb", layout) as writer:
        writer.append(words)
    assert any("row 1: field 'features' has id -1 with value 0.5 in one slot" in problem for problem in verify(data))


def rows_of(with_fields, count=1500, seed=0):
    """Two indices of 1 to 8 and one of 9: the label says whether both are odd or both even, so that pairs decide."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        a, b = rng.integers(1, 5), rng.integers(5, 9)
        values = rng.choice(["1", "0.75", "1.25"], 2)
        entries = [f"{a}:{values[0]}", f"{b}:{values[1]}", *(["9:0.5"] if rng.random() < 0.5 else [])]
        order = rng.permutation(len(entries))
        fields = [f"{number}:" if with_fields else "" for number in (0, 1, 1)]
        label = "+1" if (a + b) % 2 == 0 else "-1"
        lines.append(" ".join([label, *(fields[at] + entries[at] for at in order)]) + "\n")
    return lines


@pytest.mark.parametrize("name, model", [("libsvm", "fm"), ("libffm", "ffm"), ("libffm", "deepfm")])
def test_training_learns_the_pairs_and_predicts_what_it_evaluates(name, model, tmp_path, capsys):
    lines = rows_of(name == "libffm")
    data = make(tmp_path / "a", "".join(lines), name, split="order")
    flags = [f"--data={data}", f"--model={model}", f"--output_dir={tmp_path}/run", "--devices=1", "--quiet"]
    flags += [
        "--epochs=8",
        "--batch_size=64",
        "--embed_dim=4",
        "--lr=0.05",
        "--model.embed_std=0.1",
        "--tables.update=sparse",
    ]
    result = train(load_config(None, parse_flags(flags)[0]))
    assert result["test"]["auc"] > 0.95
    capsys.readouterr()
    dist_fm.evaluate.main([f"--run={tmp_path}/run", "--devices=1"])
    assert json.loads(capsys.readouterr().out) == {"split": "test", "rows": 150, **result["test"]}
    found = {}
    for labelled in (True, False):
        text = lines[-150:] if labelled else [line.split(" ", 1)[1] for line in lines[-150:]]
        (tmp_path / "in.txt").write_text("".join(text))
        flags = [f"--run={tmp_path}/run", f"--input={tmp_path}/in.txt", f"--output={tmp_path}/out.csv"]
        dist_fm.predict.main([*flags, "--keep=label"])
        out = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
        found[labelled] = np.array([float(line["score"]) for line in out])
        assert {line["label"] for line in out} == ({"+1", "-1"} if labelled else {""})
    np.testing.assert_array_equal(found[True], found[False])
    is_click = np.array([line.startswith("+1") for line in lines[-150:]])
    mean = -np.mean(np.log(np.where(is_click, found[True], 1 - found[True])))
    assert mean == pytest.approx(result["test"]["logloss"], rel=1e-5)


def loop_score(run, entries):
    """An fm's probability of a row, from its stored weights, by loops over the row's (index, value) entries."""
    run = RunDir.open(run)
    engine, state = open_best(run, make_mesh(jax.devices()[:1]))
    ids = Encoder.from_directory(run.path).vocabularies["features.tsv"].ids([index for index, _ in entries])
    rows = np.asarray(state.table, np.float64)[engine.spec.physical(ids)]  # one field, whose offset is 0
    x = [value for _, value in entries]
    logit = float(state.params["linear"]["bias"][...][0]) + sum(x[i] * rows[i, 0] for i in range(len(x)))
    logit += sum(x[i] * x[j] * (rows[i, 1:] @ rows[j, 1:]) for i in range(len(x)) for j in range(i))
    return 1 / (1 + np.exp(-logit))


def test_scores_are_loops_over_the_text_of_a_row_and_bad_rows_keep_their_place(tmp_path):
    data = make(tmp_path / "a", "".join(rows_of(False, 100)), "libsvm", split="order")
    flags = [f"--data={data}", "--model=fm", f"--output_dir={tmp_path}/run", "--epochs=1", "--quiet", "--devices=1"]
    train(load_config(None, parse_flags([*flags, "--model.embed_std=0.5", "--embed_dim=3"])[0]))
    (tmp_path / "in.txt").write_text("1:1 5:0.5\n1:1 x:1\n\n99:1 # unseen\n1:1 2:1 3:1 4:1\n")
    arguments = [f"--run={tmp_path}/run", f"--input={tmp_path}/in.txt", f"--output={tmp_path}/out.csv"]
    dist_fm.predict.main(arguments)
    scores = [line["score"] for line in csv.DictReader((tmp_path / "out.csv").read_text().splitlines())]
    assert [bool(score) for score in scores] == [True, False, False, True, False]
    assert float(scores[0]) == pytest.approx(loop_score(tmp_path / "run", [("1", 1.0), ("5", 0.5)]), rel=1e-6)
    assert float(scores[3]) == pytest.approx(loop_score(tmp_path / "run", [("99", 1.0)]), rel=1e-6)
    errors = (tmp_path / "out.csv.errors").read_text().splitlines()
    assert [error.split(":")[1] for error in errors] == ["2", "3", "5"]
    with pytest.raises(DataError, match="no column 'user'; columns found: label"):
        dist_fm.predict.main([*arguments, "--keep=user"])

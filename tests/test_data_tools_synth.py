"""Planted data: the stated best is right, the rows are in the raw formats, and interactions carry the signal."""

import json

import numpy as np
import pytest

from data_tools.build import build
from data_tools.formats import FORMATS, open_rows
from data_tools.numeric import log_squared_bin
from data_tools.plan import BuildOptions
from data_tools.synth import KINDS, synth
from data_tools.synth.criteo import _BINS, _SMALLEST, Criteo
from data_tools.synth.metrics import auc, logloss
from data_tools.synth.movielens import MovieLens

FORMAT_OF = {"movielens": FORMATS["movielens-1m"], "criteo": FORMATS["criteo"]}


def test_auc_and_log_loss_equal_loops():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(1, 8, 60) / 8  # with ties
        labels = rng.random(60) < scores
        wins = [(p > n) + 0.5 * (p == n) for p in scores[labels] for n in scores[~labels]]
        assert auc(scores, labels) == pytest.approx(np.mean(wins), abs=1e-12)
        terms = [-np.log(s if y else 1 - s) for s, y in zip(scores, labels, strict=True)]
        assert logloss(scores, labels) == pytest.approx(np.mean(terms), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_in_the_raw_format_and_follow_the_seed(tmp_path, kind):
    said = synth(kind, 20_000, tmp_path / "a", seed=1)
    assert json.loads((tmp_path / "a.planted.json").read_text()) == said
    labels = []
    for chunk in open_rows(FORMAT_OF[kind].layout, tmp_path / "a", label=FORMAT_OF[kind].label):
        assert not chunk.bad
        labels.append(chunk.labels)
        if chunk.times is not None:
            assert (np.diff(chunk.times) > 0).all()
    labels = np.concatenate(labels)
    assert len(labels) == 20_000 and labels.mean() == pytest.approx(said["positive_rate"], abs=1e-9)
    synth(kind, 20_000, tmp_path / "b", seed=1)
    synth(kind, 20_000, tmp_path / "c", seed=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n}{s}" for n in "abc" for s in ("", ".planted.json")]


@pytest.mark.parametrize("kind", [MovieLens, Criteo])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_reachable_auc_is_in_the_promised_range(kind, seed):
    drawn = kind(1_000_000, seed).draw(0, 50_000, np.random.default_rng(seed))
    assert 0.80 < auc(drawn.probabilities, drawn.labels) < 0.85
    # Drawn from the probabilities: the labels of rows said to be p likely are positive in p of the cases.
    for low in np.arange(0.05, 0.95, 0.1):
        bin_ = (drawn.probabilities > low) & (drawn.probabilities < low + 0.1)
        error = drawn.labels[bin_].mean() - drawn.probabilities[bin_].mean()
        assert abs(error) < 4 * 0.5 / np.sqrt(bin_.sum())


def test_movielens_has_enough_users_and_zipf_items():
    model = MovieLens(1_000_000, 0)
    text = model.draw(0, 200_000, np.random.default_rng(0)).text
    users, items = np.array([line.split("::")[:2] for line in text.splitlines()]).T
    counts = np.sort(np.unique(items, return_counts=True)[1])[::-1]
    assert model.users >= 5_000 and len(np.unique(users)) > 4_000
    assert counts[0] > 5 * counts[100] > 5 * counts[400] > 0


def test_criteo_bins_are_the_format_s():
    values = [*range(-3, 5000), *np.random.default_rng(0).integers(0, 1_000_000, 2000).tolist(), 1_000_000]
    assert [str(_BINS[value - _SMALLEST]) for value in values] == [log_squared_bin(str(value)) for value in values]


def test_criteo_has_missing_cells_unseen_values_and_negative_counts(tmp_path):
    synth("criteo", 20_000, tmp_path / "raw")
    columns = {}
    for chunk in open_rows(FORMATS["criteo"].layout, tmp_path / "raw", label=FORMATS["criteo"].label):
        for name, tokens in chunk.columns.items():
            columns.setdefault(name, []).append(np.asarray(tokens))
    columns = {name: np.concatenate(parts) for name, parts in columns.items()}
    missing = {name: np.mean(cells == "") for name, cells in columns.items()}
    assert sum(0.08 < share < 0.42 for share in missing.values()) == 10
    assert sum(share == 0 for share in missing.values()) == 30
    assert min(int(cell) for cell in columns["I2"]) < -1
    assert len(np.unique(columns["C9"])) == 3
    build(BuildOptions("criteo", str(tmp_path / "set"), (str(tmp_path / "raw"),), split="order", min_count=1))
    first, last = (set(columns["C3"][part]) for part in (slice(0, 16_000), slice(16_000, None)))
    assert len(last - first) > 3
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["rows_quarantined"] == 0

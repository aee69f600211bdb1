"""scikit-learn's estimators: frames, arrays and sparse matrices; the same answer as a run; scikit-learn's tools."""

import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_commands import command

import dist_fm.estimator.engines as engines
from data_tools.cli import main as data_tools
from dist_fm.errors import UserError
from dist_fm.estimator import CTRClassifier, CTRRegressor
from dist_fm.metrics.calibration import probabilities
from dist_fm.models import MODELS

SMALL = {"embed_dim": 4, "epochs": 3, "batch_size": 32, "random_state": 0}


def draw_frame(rows=160, seed=0):
    """Two categories, of which one tells the label together with a number."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "shop": rng.choice(["a", "b", "c", "d"], rows),
            "price": rng.normal(size=rows),
            "mobile": rng.random(rows) < 0.5,
        }
    )
    score = np.where(frame.shop.isin(["a", "b"]), 2.0, -2.0) + frame.price
    return frame, np.where(score + rng.normal(0, 0.3, rows) > 0, "yes", "no")


@pytest.fixture(scope="module")
def frame():
    return draw_frame()


@pytest.fixture(scope="module")
def fitted(frame):
    return CTRClassifier("fm", embed_dim=4, epochs=30, batch_size=32, random_state=0).fit(*frame)


def test_columns_of_text_are_categories_and_numbers_values(frame, fitted):
    X, y = frame
    assert fitted.score(X, y) > 0.95
    assert fitted.classes_.tolist() == ["no", "yes"] and fitted.n_features_in_ == 3 and fitted.n_iter_ == 30
    assert [(field.name, field.kind, field.rows) for field in fitted.fields_] == [
        ("shop", "categorical", 5),
        ("price", "numeric", 2),
        ("mobile", "categorical", 3),
    ]
    logits = fitted.decision_function(X)
    np.testing.assert_allclose(fitted.predict_proba(X)[:, 1], probabilities(logits), rtol=1e-12)
    # By Rendle's equation 1, from the weights as they are shown.
    shop, price, mobile = (field.offset for field in fitted.fields_)
    linear, factors = fitted.embeddings_["linear"][:, 0], fitted.embeddings_["factors"]
    ids = {value: row for row, value in enumerate(X.shop.value_counts().index, shop + 1)}
    flags = {value: row for row, value in enumerate(X.mobile.value_counts().index, mobile + 1)}
    for row in range(5):
        rows = [ids[X.shop[row]], price + 1, flags[X.mobile[row]]]
        x = np.array([1.0, X.price[row], 1.0])
        pairs = sum(x[i] * x[j] * factors[rows[i]] @ factors[rows[j]] for i in range(3) for j in range(i))
        expected = fitted.network_["linear.bias"][0] + x @ linear[rows] + pairs
        assert logits[row] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_unseen_categories_are_alike_and_missing_ones_a_value(frame, fitted):
    X = frame[0].iloc[:4].copy()
    X["shop"] = ["x", "y", None, np.nan]
    X["price"], X["mobile"] = 0.5, True
    logits = fitted.decision_function(X)
    assert len(set(logits)) == 1  # no row had missed its shop: it is unseen, too
    X["shop"] = "a"
    assert fitted.decision_function(X)[0] != logits[0]
    some, y = frame
    some = some.assign(shop=some.shop.where(some.shop != "d"))
    again = CTRClassifier("fm", **SMALL).fit(some, y)
    X["shop"] = ["d", None, np.nan, "a"]
    unseen, missing, also_missing, known = again.decision_function(X)
    assert missing == also_missing and len({unseen, missing, known}) == 3


def test_missing_numbers_have_a_row_once_they_occur_in_training(frame, fitted):
    X, y = frame
    few = X.iloc[:2].assign(price=[np.nan, 0.0], shop="a", mobile=True)
    assert np.diff(fitted.decision_function(few)) == 0  # adds nothing, as zero does
    holes = X.assign(price=X.price.where(y == "yes"))  # whoever says no has no price
    learnt = CTRClassifier("lr", epochs=40, lr=0.05, batch_size=32, random_state=0).fit(holes, y)
    missing, zero = learnt.decision_function(few)
    assert missing < zero - 2
    with pytest.raises(ValueError, match="infinity"):
        fitted.predict(few.assign(price=np.inf))


@pytest.mark.parametrize("model", ["fm", pytest.param("deepfm", marks=pytest.mark.slow)])
def test_fit_is_the_answer_of_a_run(tmp_path, model):
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"a": rng.integers(0, 9, 300), "b": rng.integers(0, 30, 300)}).astype(str)
    clicks = (rng.random(300) < np.where(frame.a.astype(int) > 4, 0.8, 0.2)).astype(int)
    raw = tmp_path / "rows.csv"
    frame.assign(click=clicks).to_csv(raw, index=False)
    (tmp_path / "s.toml").write_text('label = "click"\n[[field]]\nname = "a"\n[[field]]\nname = "b"\n')
    build = ["build-lmdb", "--format=csv", f"--schema={tmp_path}/s.toml", f"--input={raw}", f"--output={tmp_path}/d"]
    assert data_tools([*build, "--split=order", "--fractions=0.8,0.1,0.1"]) == 0
    flags = (f"--model={model}", "--epochs=3", "--batch_size=50", "--lr=0.01", "--seed=5", "--no_eval", "--devices=1")
    sizes = ("--embed_dim=4", "--model.embed_std=0.1", "--quiet")  # Xavier's bound is of the rows, here rounded up
    command("train", f"--data={tmp_path}/d", *flags, *sizes, f"--output_dir={tmp_path}/run")
    scores = tmp_path / "scores.csv"
    command("predict", f"--run={tmp_path}/run", f"--input={raw}", f"--output={scores}", "--devices=1")

    ours = CTRClassifier(
        model,
        embed_dim=4,
        model_params={"embed_std": 0.1},
        epochs=3,
        batch_size=50,
        random_state=5,
    ).fit(frame[:240], clicks[:240])
    np.testing.assert_allclose(ours.predict_proba(frame)[:, 1], pd.read_csv(scores).score, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", ["fm", pytest.param("deepfm", marks=pytest.mark.slow)])
def test_partial_fits_are_a_fit_and_go_on_after_pickling(frame, model):
    X, y = frame
    model = CTRClassifier(model, **SMALL)
    whole = clone(model).fit(X, y).decision_function(X)
    parts = clone(model).partial_fit(X, y, classes=["no", "yes"]).partial_fit(X, y)
    parts = pickle.loads(pickle.dumps(parts))
    np.testing.assert_array_equal(parts.partial_fit(X, y).decision_function(X), whole)
    assert parts.n_iter_ == 3
    parts.partial_fit(X[:50], y[:50])  # of another length, and of one class
    only = parts.partial_fit(X[y == "no"], y[y == "no"])
    assert only.n_iter_ == 5 and np.isfinite(only.decision_function(X)).all()
    with pytest.raises(ValueError, match="class 'maybe'; classes are"):
        parts.partial_fit(X, np.where(y == "yes", "yes", "maybe"))


def test_a_pickled_estimator_predicts_bit_equally(tmp_path, frame, fitted):
    expected = fitted.decision_function(frame[0])
    assert b"jax" not in pickle.dumps(fitted)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).decision_function(frame[0]), expected)
    joblib.dump(fitted, tmp_path / "fitted")
    mapped = joblib.load(tmp_path / "fitted", mmap_mode="r")
    np.testing.assert_array_equal(mapped.decision_function(frame[0]), expected)


def test_a_failed_partial_fit_changes_nothing(frame):
    X, y = frame
    model = CTRRegressor("fm", optimizer="sgd", lr=0.05, **SMALL).fit(X, y == "yes")
    before = model.predict(X)
    with pytest.raises(UserError, match="diverged"):
        model.partial_fit(X.assign(price=1e20), y == "yes")
    np.testing.assert_array_equal(model.predict(X), before)
    assert model.n_iter_ == 3


def test_seeds_and_vocabularies_share_what_is_compiled(frame):
    X, y = frame
    model = CTRClassifier("fm", **SMALL).fit(X, y)
    before, engine = engines._engine.cache_info().misses, model._trained
    compiled = engines.shared_engine(engine.config, engine.schema).compiled_steps()
    again = CTRClassifier("fm", **{**SMALL, "random_state": 1, "epochs": 2}).fit(X[X.shop != "d"], y[X.shop != "d"])
    assert engines._engine.cache_info().misses == before
    assert engines.shared_engine(engine.config, engine.schema).compiled_steps() == compiled
    assert np.abs(again.decision_function(X) - model.decision_function(X)).max() > 1e-3
    same = CTRClassifier("fm", **SMALL).fit(X, y)
    np.testing.assert_array_equal(same.decision_function(X), model.decision_function(X))


@pytest.fixture(scope="module")
def matrix():
    """Rows with 1 to 6 entries in 30 columns, and the numbers that a linear model of them gives."""
    rng = np.random.default_rng(1)
    dense = np.zeros((120, 30), np.float32)
    for row in dense:
        columns = rng.choice(28, rng.integers(1, 7), replace=False)
        row[columns] = rng.choice([1.0, 1.0, 0.5, 2.0], len(columns))
    return scipy.sparse.csr_matrix(dense), dense @ rng.normal(size=30).astype(np.float32)


def test_sparse_matrices_of_any_format_are_as_libsvm_rows(matrix):
    X, y = matrix
    model = CTRRegressor("fm", **{**SMALL, "epochs": 60, "lr": 0.05}, unseen_rate=0.0).fit(X, y)
    assert model.score(X, y) > 0.95
    (field,) = model.fields_
    assert field.slots == 6 and not field.is_pooled and field.rows == 31
    predicted = model.predict(X)
    for form in ("csc", "coo", "lil"):
        np.testing.assert_array_equal(model.predict(X.asformat(form)), predicted)
    np.testing.assert_array_equal(model.predict(X.toarray()), predicted)
    linear, factors = model.embeddings_["linear"][1:, 0], model.embeddings_["factors"][1:]
    long = np.zeros((2, 30), np.float32)
    long[0, :20] = 0.5  # longer than any row of training
    long[1, [3, 29]] = 1.0  # a column that training never had, which is row 0
    weight, factor = linear.copy(), factors.copy()
    weight[28:], factor[28:] = model.embeddings_["linear"][0, 0], model.embeddings_["factors"][0]
    pairs = [sum(x[i] * x[j] * factor[i] @ factor[j] for i in range(30) for j in range(i)) for x in long]
    expected = model.network_["linear.bias"][0] + long @ weight + pairs
    np.testing.assert_allclose(model.predict(scipy.sparse.csr_array(long)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="NaN"):
        model.predict(np.where(long == 0.5, np.nan, long))


def test_fields_of_a_sparse_matrix_are_summed_for_models_of_fields(matrix):
    X, y = matrix
    fields = np.repeat(["left", "right"], 15)
    model = CTRRegressor("ffm", **SMALL, fields=fields, unseen_rate=0.0).fit(X, y)
    assert [(field.name, field.rows, field.is_pooled) for field in model.fields_] == [
        ("left", 16, True),
        ("right", 16, True),
    ]
    tables = model.embeddings_
    left, right = X.toarray()[:, :15], X.toarray()[:, 15:]
    for_right = left @ tables["factors"].reshape(32, 2, 4)[1:16, 1]
    right_seen = np.r_[np.arange(17, 30), 16, 16]
    for_left = right @ tables["factors"].reshape(32, 2, 4)[right_seen, 0]
    linear = left @ tables["linear"][1:16, 0] + right @ tables["linear"][right_seen, 0]
    expected = model.network_["linear.bias"][0] + linear + (for_right * for_left).sum(1)
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="fields gives 2 columns"):
        CTRRegressor("ffm", fields=["a", "b"]).fit(X, y)
    wide = scipy.sparse.csr_matrix((3, 1001), dtype=np.float32)
    with pytest.raises(UserError, match="say by fields=.*lr, fm, afm, nfm, hofm"):
        CTRRegressor("deepfm").fit(wide, [1.0, 2.0, 3.0])


def test_weights_count_as_repeated_rows(matrix):
    dense, y = matrix[0].toarray(), matrix[1]
    counts = np.random.default_rng(0).integers(0, 3, len(y))
    model = CTRRegressor("fm", epochs=10, embed_dim=4, batch_size=256, random_state=0)
    weighted = clone(model).fit(dense, y, sample_weight=counts).predict(dense)
    repeated = clone(model).fit(dense.repeat(counts, axis=0), y.repeat(counts)).predict(dense)
    np.testing.assert_allclose(weighted, repeated, rtol=0, atol=2e-5)
    assert np.abs(clone(model).fit(dense, y).predict(dense) - weighted).max() > 1e-3


def test_patience_ends_training_and_takes_the_best_epoch(frame):
    X, y = frame
    noise = np.random.default_rng(0).permutation(y)
    keys = {"embed_dim": 4, "batch_size": 32, "lr": 0.1, "random_state": 0, "validation_fraction": 0.25}
    stopped = CTRClassifier("fm", epochs=50, patience=2, **keys).fit(X, noise)
    assert stopped.n_iter_ < 50
    best = CTRClassifier("fm", epochs=stopped.n_iter_ - 2, **keys).fit(X, noise)
    np.testing.assert_array_equal(stopped.decision_function(X), best.decision_function(X))


def test_scikit_learns_tools(frame):
    X, y = frame
    numbers = X[["price"]].assign(twice=X.price * 2)
    scores = cross_val_score(make_pipeline(StandardScaler(), CTRRegressor("fm", **SMALL)), numbers, y == "yes", cv=2)
    assert np.isfinite(scores).all()
    scaled = ColumnTransformer([("price", StandardScaler(), ["price"])], remainder="passthrough")
    search = GridSearchCV(
        make_pipeline(scaled.set_output(transform="pandas"), CTRClassifier("fm", **{**SMALL, "epochs": 10})),
        {"ctrclassifier__lr": np.array([1e-6, 0.05])},
        cv=3,
        scoring="roc_auc",
    ).fit(X, y)
    assert search.best_params_ == {"ctrclassifier__lr": 0.05} and search.best_score_ > 0.9


@pytest.mark.slow
def test_grid_search_in_two_processes(frame):
    grid = {"lr": [0.01, 0.05], "random_state": [0, 1]}
    search = GridSearchCV(CTRClassifier("fm", embed_dim=4, epochs=3, batch_size=32), grid, cv=3)
    one, two = (clone(search).set_params(n_jobs=jobs).fit(*frame) for jobs in (1, 2))
    np.testing.assert_array_equal(one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])


@pytest.mark.slow
def test_devices_and_sparse_updates(frame):
    X, y = frame[0].assign(user=[f"user {number}" for number in range(160)]), frame[1]  # each in one batch an epoch
    # No BatchNorm: biases before it have no gradient but rounding, of which Adam makes steps as large as any.
    model = CTRClassifier("deepfm", **SMALL, tables_update="sparse", model_params={"batch_norm": False})
    one, two = (clone(model).set_params(devices=devices).fit(X, y).decision_function(X) for devices in (1, 2))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-5)
    assert np.abs(clone(model).set_params(tables_update="dense").fit(X, y).decision_function(X) - one).max() > 1e-4


BAD = [  # parameters of a classifier, and what the error says
    ({"model": "deepfn"}, "unknown model 'deepfn': did you mean deepfm"),
    ({"model_params": {"mlp_dim": [3]}}, "no key 'mlp_dim'; did you mean mlp_dims"),
    ({"model": "lr", "embed_dim": 4}, "no key 'embed_dim'"),
    ({"optimizer": "adm"}, "optimizer.name=adm: .* did you mean adam"),
    ({"lr": -1.0}, "optimizer.lr=-1.0: must be above 0"),
    ({"settings": {"optimizer.clip": 1.0}}, "no key 'optimizer.clip'; did you mean optimizer.clip_norm"),
    ({"settings": {"optimizer.lr": 1.0}}, "no key 'optimizer.lr'; it is the parameter lr"),
    ({"settings": {"data.path": "x"}}, "no key 'data.path'"),
    ({"random_state": -1}, "train.seed=-1"),
    ({"patience": 2}, "patience=2 needs rows to choose by"),
    ({"validation_fraction": 1.5}, "validation_fraction=1.5"),
    ({"roles": {"usr": "shop"}}, "'usr' is no role; did you mean user"),
    ({"roles": {"user": "shp"}}, "no column 'shp' to be the user; did you mean shop"),
    ({"model": "ncf"}, "exactly one field with role 'user'"),
    ({"devices": 99}, "devices=99"),
]


@pytest.mark.parametrize("parameters, words", BAD)
def test_bad_parameters_are_named_with_what_is_allowed(frame, parameters, words):
    with pytest.raises(ValueError, match=words):
        CTRClassifier(**parameters).fit(*frame)


def test_bad_data_is_named(frame, fitted):
    X, y = frame
    with pytest.raises(ValueError, match="Only binary classification"):
        CTRClassifier("fm").fit(X, np.arange(len(y)) % 3)
    with pytest.raises(ValueError, match="y has 1 class"):
        CTRClassifier("fm").fit(X, np.ones(len(y)))
    with pytest.raises(UserError, match="column 'day' of X has the type datetime64"):
        CTRClassifier("fm").fit(X.assign(day=pd.Timestamp("2020-01-01")), y)
    with pytest.raises(ValueError, match="could not convert string to float"):
        fitted.predict(X.assign(price="dear"))
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(X.rename(columns={"price": "cost"}))
    with pytest.raises(NotFittedError):
        CTRClassifier().embeddings_.clear()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_from_frames_and_sparse_matrices(frame, matrix, name):
    (X, y), sizes = frame, {} if name == "lr" else {"embed_dim": 8}
    roles = {"user": "shop", "item": "price"} if name == "ncf" else None
    model = CTRClassifier(name, epochs=20, batch_size=32, random_state=0, roles=roles, **sizes).fit(X, y)
    assert model.score(X, y) > 0.9
    copy = pickle.loads(pickle.dumps(model)).partial_fit(X, y)
    np.testing.assert_array_equal(copy.decision_function(X), model.partial_fit(X, y).decision_function(X))
    if name == "ncf":
        assert [field.role for field in model.fields_] == ["user", "item", None]
        return
    X, y = matrix
    model = CTRRegressor(name, epochs=20, batch_size=32, random_state=0, **sizes).fit(X, y)
    assert model.fields_[0].is_pooled != MODELS[name].takes_slots and model.score(X, y) > 0.3


def test_without_scikit_learn_it_says_what_to_install():
    code = "import sys; sys.modules['sklearn'] = None; import dist_fm.estimator"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UserError: dist_fm.estimator needs scikit-learn: pip install 'dist_fm[sklearn]'" in done.stderr

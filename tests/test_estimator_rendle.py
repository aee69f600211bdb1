"""The example of Rendle 2010, "Factorization Machines", figure 1: ratings with context, as real-valued features."""

import numpy as np
import pytest
import scipy.sparse

from dist_fm.estimator import CTRRegressor

USERS, MOVIES = "ABC", ("TI", "NH", "SW", "ST")
# User, movie, months since January 2009, the movie rated before, rating; a user's other movies follow from these.
RATINGS = [
    ("A", "TI", 13, None, 5),
    ("A", "NH", 14, "TI", 3),
    ("A", "SW", 16, "NH", 1),
    ("B", "SW", 5, None, 4),
    ("B", "ST", 8, "SW", 5),
    ("C", "TI", 9, None, 1),
    ("C", "SW", 12, "TI", 5),
]


@pytest.fixture(scope="module")
def figure():
    """The 7 rows of 16 columns: user, movie, all movies the user rated (to 1 in all), time, last movie; and targets."""
    rows = []
    for user, movie, month, last, _ in RATINGS:
        rated = [sum(u == user and m == one for u, m, *_ in RATINGS) for one in MOVIES]
        rows.append(
            [
                *(float(user == one) for one in USERS),
                *(float(movie == one) for one in MOVIES),
                *(np.array(rated) / sum(rated)),
                float(month),
                *(float(last == one) for one in MOVIES),
            ]
        )
    return np.array(rows), np.array([rating for *_, rating in RATINGS], float)


@pytest.fixture(scope="module")
def fitted(figure):
    model = CTRRegressor("fm", embed_dim=3, epochs=1500, lr=0.02, unseen_rate=0.0, random_state=0)
    return model.fit(scipy.sparse.csr_matrix(figure[0]), figure[1])


def weights(model):
    """w0, w [16] and V [16, K], float64."""
    tables = {name: table[1:].astype(np.float64) for name, table in model.embeddings_.items()}  # row 0 is "unseen"
    return float(model.network_["linear.bias"][0]), tables["linear"][:, 0], tables["factors"]


def equation_1(w0, w, v, x):
    """w0 + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j, pair by pair."""
    score = w0
    for i in range(len(x)):
        score += w[i] * x[i]
        for j in range(i + 1, len(x)):
            score += float(np.dot(v[i], v[j])) * x[i] * x[j]
    return score


def test_the_rows_are_those_of_the_figure(figure):
    third = 1 / 3
    assert figure[0][1].tolist() == [1, 0, 0, 0, 1, 0, 0, third, third, third, 0, 14, 1, 0, 0, 0]
    assert figure[0][4].tolist() == [0, 1, 0, 0, 0, 0, 1, 0, 0, 0.5, 0.5, 8, 0, 0, 1, 0]
    assert figure[1].tolist() == [5, 3, 1, 4, 5, 1, 5]


def test_training_fits_the_ratings(figure, fitted):
    np.testing.assert_allclose(fitted.predict(scipy.sparse.csr_matrix(figure[0])), figure[1], atol=0.02)


def test_predictions_are_equation_1(figure, fitted):
    new = figure[0].copy()
    new[:, 11] = [1, 2, 3, 20, 21, 22, 23]  # other times, other users
    new[:, :3] = new[::-1, :3]
    for x in (figure[0], new):
        expected = [equation_1(*weights(fitted), row) for row in x]
        np.testing.assert_allclose(fitted.predict(scipy.sparse.csr_matrix(x)), expected, rtol=1e-5, atol=1e-5)


def test_a_step_is_the_gradient_of_equation_1(figure):
    X, y = scipy.sparse.csr_matrix(figure[0]), figure[1]
    lr = 1e-4
    model = CTRRegressor(
        "fm", embed_dim=3, optimizer="sgd", lr=lr, unseen_rate=0.0, random_state=1, model_params={"embed_std": 0.1}
    )
    before = weights(model.partial_fit(X, y))
    after = weights(model.partial_fit(X, y))
    flat = np.concatenate([np.ravel(part) for part in before])

    def loss(flat):
        w0, w, v = flat[0], flat[1:17], flat[17:].reshape(16, 3)
        return np.mean([(equation_1(w0, w, v, x) - target) ** 2 for x, target in zip(figure[0], y, strict=True)])

    step = np.zeros_like(flat)
    for k in range(
        len(flat)
    ):  # the loss is a polynomial of degree 4 in each weight: central differences are near exact
        h = np.zeros_like(flat)
        h[k] = 1e-4
        step[k] = -lr * (loss(flat + h) - loss(flat - h)) / 2e-4
    moved = np.concatenate([np.ravel(part) for part in after]) - flat
    assert np.abs(step).max() > 1e-3
    np.testing.assert_allclose(moved, step, rtol=1e-3, atol=3e-7)  # float32 weights near 1 are 1e-7 apart

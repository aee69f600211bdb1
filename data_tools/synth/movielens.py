"""Ratings in MovieLens 1M's format from a planted FM over user and item."""

import numpy as np

from data_tools.split import uniform

_ROWS_PER_USER = 200
_USERS_PER_ITEM = 5
_FACTORS = 2
_FIRST_TIME_S = 956_700_000
_SECONDS_PER_ROW = 30


class MovieLens:
    """logit = bias + w_user + w_item + <v_user, v_item>; a rating above 3 is a draw of its probability.

    Items are drawn by a Zipf law, users by a log-normal one. Enough rows fall on each user for the factors to be
    learnt, and first-order weights are small, so that a model without interactions stays behind.
    """

    name = "movielens"

    def __init__(self, rows: int, seed: int):
        rng = np.random.default_rng([seed, 1])
        self.users = max(100, rows // _ROWS_PER_USER)
        self.items = max(50, self.users // _USERS_PER_ITEM)
        self._user_edges = _edges(rng.lognormal(0.0, 1.0, self.users))
        self._item_edges = _edges(rng.permutation(1.0 / (10.0 + np.arange(self.items))))
        self._user_weights = rng.normal(0.0, 0.2, self.users)
        self._item_weights = rng.normal(0.0, 0.4, self.items)
        self._user_factors = rng.normal(0.0, 1.0, (self.users, _FACTORS))
        self._item_factors = rng.normal(0.0, 1.0, (self.items, _FACTORS))

    def about(self) -> dict[str, int]:
        return {"users": self.users, "items": self.items, "factors": _FACTORS}

    def draw(self, first_row: int, rows: int, rng: np.random.Generator):
        users = np.searchsorted(self._user_edges, rng.random(rows))
        items = np.searchsorted(self._item_edges, rng.random(rows))
        logits = 0.2 + self._user_weights[users] + self._item_weights[items]
        logits += np.einsum("nk,nk->n", self._user_factors[users], self._item_factors[items])
        probabilities = 1 / (1 + np.exp(-logits))
        return users, items, probabilities


def _edges(weights):
    edges = np.cumsum(weights)
    return edges / edges[-1]

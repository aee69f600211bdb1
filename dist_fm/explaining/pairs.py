"""How strongly pairs of fields interact in models that multiply the factors of two fields.

Axes: N records, F fields, S slots, K factors.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from dist_fm.data.schema import Schema
from dist_fm.explaining.rows import SomeRows, table_rows
from dist_fm.training.state import TrainState
from dist_fm.training.step import Engine

_RECORDS_AT_ONCE = 2048
_LOGIT = "root mean square of <v_i, v_j> over the rows: what the pair adds to the logit"
_NETWORK = "root mean square of the norm of v_i * v_j over the rows: what the pair brings to the network, {}"


@dataclasses.dataclass(frozen=True)
class Interaction:
    """What a model makes of the factors of two fields, and what the strength of a pair therefore is.

    ``is_summed``: a dot product; else the K products stay apart. ``is_field_aware``: a vector for each partner field.
    """

    meaning: str
    is_summed: bool = True
    is_field_aware: bool = False


INTERACTIONS: Mapping[str, Interaction] = {
    "fm": Interaction(_LOGIT),
    "deepfm": Interaction(_LOGIT + ", beside what the network adds"),
    "hofm": Interaction(_LOGIT + ", beside what larger sets of fields add"),
    "ffm": Interaction(_LOGIT, is_field_aware=True),
    "nfm": Interaction(_NETWORK.format("which gets the sum over all pairs"), is_summed=False),
    "fnfm": Interaction(_NETWORK.format("before its BatchNorm and weights"), is_summed=False, is_field_aware=True),
}
_WHY_NOT = {
    "lr": "it has first-order weights alone",
    "afm": "its attention weighs every pair anew in each row, so factors alone do not tell",
}
_OTHERS = "how strong a pair is depends on what its network makes of it, so factors alone do not tell"


@dataclasses.dataclass(frozen=True)
class Pairs:
    """``strengths`` float64 [F, F], symmetrical, of the fields ``names``; the diagonal is 0."""

    names: tuple[str, ...]
    strengths: np.ndarray
    meaning: str

    @property
    def ranked(self) -> list[tuple[int, int]]:
        """Pairs i < j, the strongest first."""
        first, second = np.triu_indices(len(self.names), k=1)
        order = np.argsort(-self.strengths[first, second], kind="stable")
        return list(zip(first[order].tolist(), second[order].tolist(), strict=True))


def no_pairs(name: str, schema: Schema) -> str | None:
    """Why a model called ``name`` has no strengths of pairs on such data; None if it has."""
    if name not in INTERACTIONS:
        known = ", ".join(INTERACTIONS)
        return f"no strengths of pairs for {name}: {_WHY_NOT.get(name, _OTHERS)}; models that have them: {known}"
    if schema.num_fields < 2:
        return f"no strengths of pairs: {schema.name!r} has one field"
    return None


def pair_strengths(engine: Engine, state: TrainState, rows: SomeRows) -> Pairs:
    """The strength of every pair of fields over ``rows``, each by its weight; not for models with ``no_pairs``.

    A field's vector is the sum over its slots of value x factors, pooled or not: a sum over the pairs of two fields'
    entries is the product of these sums. Pairs within a field are left out.
    """
    interaction = INTERACTIONS[engine.config.model_name]
    fields, weights = engine.schema.num_fields, rows.weights.astype(np.float64)
    total = np.zeros((fields, fields))
    for first in range(0, rows.rows, _RECORDS_AT_ONCE):
        part = slice(first, first + _RECORDS_AT_ONCE)
        vectors = _field_vectors(engine, state, rows.ids[part], rows.values[part])
        total += np.einsum("n,nij->ij", weights[part], _squares(interaction, vectors, fields))
    strengths = np.sqrt(total / max(weights.sum(), np.finfo(float).tiny))
    np.fill_diagonal(strengths, 0)
    return Pairs(tuple(field.name for field in engine.schema.fields), strengths, interaction.meaning)


def _field_vectors(engine: Engine, state: TrainState, ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Factors of each field, [N, F, width] of the column; of several orders' factors those of pairs."""
    known, places = np.unique(ids, return_inverse=True)
    column = engine.layout.slices["factors"]
    factors = table_rows(engine, state, np.maximum(known, 0))[:, column]  # an empty slot's value is 0
    if engine.config.model_name == "hofm":
        factors = factors[:, : dataclasses.asdict(engine.config.model)["embed_dim"]]
    entries = factors[places.reshape(ids.shape)] * values[:, :, None]
    firsts = np.unique(engine.schema.slot_fields, return_index=True)[1]
    return np.add.reduceat(entries, firsts, axis=1)


def _squares(interaction: Interaction, vectors: np.ndarray, fields: int) -> np.ndarray:
    """|v_i * v_j|^2, or <v_i, v_j>^2, of every pair in every record: [N, F, F]."""
    if interaction.is_field_aware:
        vectors = vectors.reshape(len(vectors), fields, fields, -1)
    if not interaction.is_summed:
        vectors = vectors**2
    if interaction.is_field_aware:
        products = (vectors * vectors.swapaxes(1, 2)).sum(3, dtype=np.float64)
    else:
        products = np.matmul(vectors, vectors.swapaxes(1, 2)).astype(np.float64)
    return products**2 if interaction.is_summed else products

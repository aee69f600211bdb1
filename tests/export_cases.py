"""Models and schemas that exports are tested on, and what is asked of every format."""

import dataclasses

import jax
import numpy as np
from conftest import make_engine, make_schema
from test_pool_none import schema_of

from dist_fm.data.schema import Field, Label, Schema
from dist_fm.exporting.comparison import TOLERANCE, compare, draw_rows
from dist_fm.exporting.formats import FORMATS
from dist_fm.exporting.scoring import Scoring, in_float32
from dist_fm.training.evaluation import predictions


def _lists(pool):
    """A user, an item, a list of up to three, and a number; slots that may be empty."""
    transform = {"pool": pool}
    fields = (
        Field("user", "categorical", 7, 0, role="user"),
        Field("list", "categorical", 6, 7, slots=3, transform=transform),
        Field("item", "categorical", 9, 13, role="item"),
    )
    if pool == "sum":
        return Schema("sums", fields, Label("y", "binary"))
    return Schema("means", (*fields, Field("number", "numeric", 2, 22)), Label("y", "binary"), has_values=True)


SCHEMAS = {
    "ids": lambda: make_schema((40, 30, 9, 12, 5), ("user", "item", None, None, None)),
    "sums": lambda: _lists("sum"),
    "means": lambda: _lists("mean"),
    "entries": schema_of,  # not pooled
}


def with_drawn_weights(engine):
    """A state whose every array is drawn, so that no weight hides at zero or one."""
    random, state = np.random.default_rng(3), jax.device_get(engine.init())
    table = np.zeros(state.table.shape, engine.spec.dtype)
    table[engine.spec.physical(np.arange(engine.spec.rows))] = random.normal(0, 0.4, (engine.spec.rows, table.shape[1]))
    params = jax.tree.map(lambda x: random.normal(0, 0.2, x.shape).astype(x.dtype), state.params)
    stats = jax.tree.map(lambda x: random.uniform(0.5, 1.5, x.shape).astype(x.dtype), state.stats)
    state = dataclasses.replace(state, table=table.view(engine.spec.stored), params=params, stats=stats)
    return jax.device_put(state, engine.shardings)


def agreement(name, model, kind, directory, **engine):
    """Writes ``model`` over the schema ``kind`` as format ``name``, loads it, and compares 201 drawn rows."""
    made = in_float32(make_engine(model, schema=SCHEMAS[kind](), **engine))
    state = with_drawn_weights(made)
    rows = draw_rows(made.schema, 201)
    expected = predictions(made, state, rows.ids, rows.values)
    assert np.ptp(expected) > 100 * TOLERANCE
    scoring = Scoring.of(made, state)
    path = directory / FORMATS[name].file
    FORMATS[name].write(scoring, path)
    return compare(FORMATS[name].load(path, scoring), rows, expected, path)

"""Shared by all tests: four CPU devices, a persistent compilation cache, and small data sets made by hand."""

import dataclasses
import gc
import json
import os
import pathlib

# A worker of pytest-xdist stays on a core of its own: over two, its threads take a tenth more of both. Those beyond the
# cores fill the time in which the others wait, on any.
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    cores, worker = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    os.sched_setaffinity(0, cores[worker : worker + 1] or cores)

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
CACHE = pathlib.Path(__file__).parent.parent / ".jax_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import numpy as np
import pytest

from dist_fm.data.records import RecordLayout
from dist_fm.data.schema import EMPTY, Field, Label, Schema
from dist_fm.data.shards import shard_ends, store_names
from dist_fm.data.store_writer import BlockWriter

jax.devices()  # before a test that asks for fewer devices starts the backend with those alone
SHARED = pathlib.Path(__file__).parent.parent.parent / "shared"
# Users' programs have it; `make test` compiles faster without, which JAX 0.11 no longer can.
USERS_FUSION = {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 11) else {}

# Files that take longest for the number of their tests: begun last, one would keep one worker busy alone.
LONG_FILES = {f"test_{name}" for name in ("same_answer", "elastic", "warm_start", "faults", "mesh", "hosts", "sweep")}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONG_FILES)


def pytest_collection_finish():
    # What is imported by now stays; looking through it, and so often at what JAX traces, took a twentieth of the time.
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real data and golden outputs beside the repository; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder of real data, ../shared, which is not part of the repository")
    return SHARED


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def make_schema(sizes=(40, 30, 9), roles=("user", "item", None), rule="binary", name="made") -> Schema:
    """Single-valued categorical fields of ``sizes`` rows."""
    offsets = np.cumsum([0, *sizes[:-1]])
    fields = tuple(
        Field(f"f{i}", "categorical", int(n), int(o), role=role)
        for i, (n, o, role) in enumerate(zip(sizes, offsets, roles, strict=True))
    )
    return Schema(name, fields, Label("label", rule))


def write_data_set(
    directory: pathlib.Path, schema: Schema, rows=(900, 150, 150), seed=0, shards=1, positive=False
) -> pathlib.Path:
    """A finished data set of random rows whose label depends on the ids; ``rows`` for train, valid, test.

    ``positive``: those for training have the label 1, and are of no unseen user or item.
    """
    rng = np.random.default_rng(seed)
    layout = RecordLayout.for_schema(schema)
    weights = rng.normal(0, 2, schema.num_rows)
    directory.mkdir(parents=True)
    counts = {}
    for split, n in zip(("train", "valid", "test"), rows, strict=True):
        ids = np.stack([rng.integers(0, f.rows, n) + f.offset for f in schema.fields for _ in range(f.slots)], 1)
        if schema.has_values:
            ids[rng.random(ids.shape) < 0.1] = EMPTY
        if positive and split == "train":
            ids = np.maximum(ids, schema.slot_offsets + 1)
        score = np.where(ids == EMPTY, 0, weights[ids]).sum(1)
        labels = (rng.random(n) < 1 / (1 + np.exp(-score))).astype(np.float32)
        if schema.label.rule == "value":
            labels = score.astype(np.float32)
        if positive and split == "train":
            labels[:] = 1
        values = rng.normal(1, 0.3, ids.shape).astype(np.float32) if schema.has_values else None
        sample_weights = rng.random(n).astype(np.float32) + 0.5 if schema.has_weights else None
        groups = rng.integers(0, 1 + n // 5, n) if schema.has_groups else None
        words = layout.pack(labels, ids.astype(np.int32), values, sample_weights, groups)
        write_split(directory, split, words, layout, shards, block_rows=128)
        counts[split] = {"rows": n}
    schema = dataclasses.replace(schema, counts=counts)
    (directory / "schema.json").write_text(schema.to_json(), encoding="utf-8")
    (directory / "manifest.json").write_text(json.dumps({"counts": counts}), encoding="utf-8")
    return directory


def write_split(directory, split, rows, layout, shards=1, *, block_rows, portions=()):
    """A split's stores: its ``rows`` in ``shards``, each appended in parts cut at ``portions``."""
    ends = shard_ends(len(rows), shards, block_rows)
    for name, first, end in zip(store_names(split, shards), [0, *ends], ends, strict=False):
        with BlockWriter(directory / name, layout, block_rows) as writer:
            for part in np.split(rows[first:end], [at - first for at in portions if first < at < end]):
                writer.append(part)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> pathlib.Path:
    """Three fields, 900 / 150 / 150 rows."""
    return write_data_set(tmp_path_factory.mktemp("data") / "small", make_schema())


class Steps:
    """A source whose batches are their numbers."""

    def __init__(self, steps, batch_size):
        self._steps, self.batch_size = range(steps), batch_size

    def __len__(self):
        return len(self._steps)

    def __getitem__(self, step):
        return self._steps[step]


# Settings of models whose own sizes are large, or, FiBiNET's with few fields, so small that no two gates are open.
SMALL = {
    "fibinet": {"reduction_ratio": 1},
    "autoint": {"attention_dim": 8, "attention_layers": 1, "mlp_dims": (16, 16)},
    "afn": {"log_neurons": 6, "mlp_dims": (16, 16)},
}
ONE_HIDDEN_LAYER = (16,)  # of two that are alike: a quarter less to compile


def make_config(model="deepfm", data="", sections=None, **train):
    """A configuration for tests: small networks, no randomly unseen ids, ``train`` keys by name."""
    from dist_fm.config import build_config
    from dist_fm.models import get_model

    has_mlp = hasattr(get_model(model).Config, "mlp_dims")
    small = SMALL.get(model, {}) | ({"mlp_dims": ONE_HIDDEN_LAYER} if has_mlp else {})
    small = {key: list(value) if isinstance(value, tuple) else value for key, value in small.items()}
    values = {
        "model": {"name": model, **small},
        "data": {"path": str(data), "unseen_rate": 0.0},
        "train": dict(train),
    }
    for section, keys in (sections or {}).items():
        values.setdefault(section, {}).update(keys)
    return build_config(values, "a test")


def make_engine(model="deepfm", devices=1, schema=None, sections=None, dtype=None, **train):
    """An engine on the first ``devices`` CPU devices."""
    import jax.numpy as jnp

    from dist_fm.parallel.mesh import make_mesh
    from dist_fm.training.step import Engine

    config = make_config(model, sections=sections, **train)
    mesh = make_mesh(jax.devices()[:devices])
    return Engine(config, schema or make_schema(), mesh, dtype=dtype or jnp.float32)


def keys(seed=0):
    """What a model under test takes as ``rngs``."""
    from dist_fm import hashing

    return hashing.Keys(hashing.key(seed))


def host_batch(schema: Schema, size: int, padded: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A random host batch of ``size`` real samples, as a source makes it, padded to ``padded``."""
    rng = np.random.default_rng(seed)
    batch = {name: np.zeros(padded, np.float32) for name in ("labels", "weights", "mask")}
    batch["labels"][:size] = rng.integers(0, 2, size)
    batch["weights"][:size] = rng.uniform(0.5, 1.5, size)
    batch["mask"][:size] = 1
    rows = np.stack([rng.integers(0, f.rows, size) + f.offset for f in schema.fields for _ in range(f.slots)], 1)
    batch["rows"] = np.full((padded, schema.num_slots), EMPTY, np.int32)
    batch["rows"][:size] = rows
    return batch


def pooled_rows(schema: Schema, words: np.ndarray):
    """What a model receives of the records ``words`` [N, words]: its field rows [N, F, K], and the table [R, K]."""
    from dist_fm.data.source import EvalSource, MemoryStore

    engine = make_engine("fm", schema=schema, sections={"model": {"name": "fm", "embed_dim": 3}})
    table = engine.init().table
    store = MemoryStore(words, RecordLayout.for_schema(schema))
    batch = engine.prepare(EvalSource(store, schema, len(words), padded_size=len(words))[0])
    lookup = engine.lookup

    @jax.jit
    def receive(table, batch):
        touched = lookup.read(table, lookup.requests(batch.unique))
        rows = lookup.rows(touched, batch.inverse, batch.values, schema.slot_fields)
        return rows.map(lambda rows, network, samples: rows["factors"])

    factors = engine.layout.slices["factors"]
    logical = np.asarray(table)[engine.spec.physical(np.arange(schema.num_rows))]
    return np.asarray(receive(table, engine.place(batch))), logical[:, factors]


def weights(run):
    """Step and arrays of the last checkpoint, as bytes by name: bit-equal runs have equal ones."""
    import orbax.checkpoint as ocp

    last = max(int(p.name) for p in (run / "checkpoints").iterdir())
    path, handler = (run / "checkpoints" / str(last) / "state").absolute(), ocp.PyTreeCheckpointer()
    as_numpy = lambda _: ocp.RestoreArgs(restore_type=np.ndarray)  # whatever devices it was saved from
    tree = handler.restore(path, restore_args=jax.tree.map(as_numpy, handler.metadata(path).item_metadata.tree))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return last, {jax.tree_util.keystr(path): np.asarray(array).tobytes() for path, array in leaves}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Four rows with every kind of field: rows.csv, schema.toml, and the data set in set/."""
    from raw_logs import ROWS, SCHEMA

    from data_tools.build import build
    from data_tools.plan import BuildOptions

    work = tmp_path_factory.mktemp("fields")
    (work / "rows.csv").write_text(ROWS)
    (work / "schema.toml").write_text(SCHEMA)
    options = BuildOptions("csv", str(work / "set"), (str(work / "rows.csv"),), schema=str(work / "schema.toml"))
    build(BuildOptions(**{**vars(options), "split": "none"}), say=lambda _: None)
    return work


@pytest.fixture(scope="session")
def ratings(tmp_path_factory):
    """A file of ratings in MovieLens 1M's format, and its rows of strings."""
    from raw_logs import draw_ratings

    rows = draw_ratings()
    path = tmp_path_factory.mktemp("raw") / "ratings.dat"
    path.write_text("".join("::".join(row) + "\n" for row in rows))
    return path, rows


SCRIPT = "<script>alert(1)</script>"  # a raw value
HOSTILE_SCHEMA = """label = "click"
[[field]]
name = "user"
role = "user"
[[field]]
name = "item"
role = "item"
[[field]]
name = "<b>tags</b>"
column = "tags"
split = "|"
max = 3
pool = "mean"
[[field]]
name = "noise"
[[field]]
name = "price"
kind = "numeric"
scale = "standard"
"""


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory):
    """A directory with data/, rows whose items have hostile names and decide the label, and run/, an fm on them.

    Its report was written at the end of training, by the command.
    """
    import csv

    from test_commands import command

    from data_tools.cli import main as data_tools

    work = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    items = [SCRIPT, "a\tb", "quote\"'&amp;", "$x^2$", "é" * 200, "", "back\\slash", *map(str, range(13))]
    item, user, noise = (rng.integers(0, n, 2400) for n in (20, 30, 5))
    click = rng.random(2400) < 1 / (1 + np.exp(-rng.normal(0, 2, 20)[item] - rng.normal(0, 0.5, 30)[user]))
    with open(work / "rows.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["click", "user", "item", "tags", "noise", "price"])
        for row in zip(click.astype(int), user, item, noise, strict=True):
            tags = "|".join(f"t{i}" for i in rng.integers(0, 6, rng.integers(0, 4)))
            writer.writerow([row[0], f"u{row[1]}", items[row[2]], tags, f"n{row[3]}", f"{rng.normal():.3f}"])
    (work / "schema.toml").write_text(HOSTILE_SCHEMA)
    build = ("--format=csv", f"--input={work}/rows.csv", f"--schema={work}/schema.toml", "--split=random")
    assert data_tools(["build-lmdb", *build, "--fractions=0.4,0.1,0.5", f"--output={work}/data"]) == 0
    settings = ("--model=fm", "--embed_dim=4", "--epochs=2", "--lr=0.05", "--batch_size=96", "--devices=1", "--quiet")
    report = ("--run.report=true", "--run.log_steps=4", "--train.eval_batch_size=512")
    command("train", f"--data={work}/data", *settings, *report, f"--output_dir={work}/run")
    return work

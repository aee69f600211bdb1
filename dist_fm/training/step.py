"""One training step and one evaluation step: all the maths on one page.

A step gathers the batch's unique table rows, spreads them to samples, asks the model for logits, and differentiates
the loss with respect to the unique rows and the network. The same functions run on one device and on many.
"""

import contextlib
import copy
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dist_fm import hashing
from dist_fm.config import Config
from dist_fm.data.pipeline import Batch, Unsized, place
from dist_fm.data.records import HostBatch
from dist_fm.data.schema import Schema
from dist_fm.layers.products import in_bfloat16
from dist_fm.layers.turned import turned_in_memory
from dist_fm.metrics.loss import sample_loss
from dist_fm.models import get_model
from dist_fm.models.base import Batch as ModelBatch
from dist_fm.models.base import Rows
from dist_fm.parallel.memory import CPU_COMPILER_OPTIONS
from dist_fm.tables.lookup import Lookup
from dist_fm.tables.rounding import stochastic_round
from dist_fm.tables.rules import Slots
from dist_fm.tables.unique import Found, physical_rows, unique_in_step
from dist_fm.training.optimizer import make_optimizer, make_schedule, make_table_optimizer, weights_mask
from dist_fm.training.placement import abstract_model, is_sharded, is_unique_in_step, table_spec
from dist_fm.training.state import Network, TrainState, network_of


class StepMetrics(NamedTuple):
    loss: jax.Array  # mean over the batch's real samples, without L2
    gradient_norm: jax.Array  # global, before clipping; not finite when any gradient is not


class Scored(NamedTuple):
    """A batch as the trained model sees it, [B] each, the same on every device (and so host)."""

    logits: jax.Array
    labels: jax.Array
    weights: jax.Array
    mask: jax.Array  # 0 where a sample is padding


class Engine:
    """A model on a mesh: its first state, training step and evaluation step, compiled once a batch shape."""

    def __init__(self, config: Config, schema: Schema, mesh: Mesh, *, dtype: Any = jnp.float32):
        self.config, self.schema, self.mesh, self.dtype = config, schema, mesh, dtype
        self._key = hashing.key(config.train.seed)
        self.spec = table_spec(config, schema, dtype)
        self.layout = self.spec.layout
        self.row_optimizer = make_table_optimizer(config, self.layout)
        in_step = is_unique_in_step(config, mesh)
        sharded = is_sharded(config, self.spec, self.row_optimizer, mesh)
        self.lookup = Lookup(self.spec, mesh, sharded=sharded, unique_in_step=in_step)
        self._graph, *self._variables = nnx.split(abstract_model(config, schema), nnx.Param, nnx.BatchStat)
        self.optimizer = make_optimizer(config.optimizer)
        self.schedule = make_schedule(config.optimizer)
        self._shapes = jax.eval_shape(self._init)
        self.shardings = self._shardings()
        everywhere = NamedSharding(mesh, P())
        self.init = jax.jit(self._init, out_shardings=self.shardings)
        self.train_step = jax.jit(
            self._train_step,
            donate_argnums=0,
            out_shardings=(self.shardings, everywhere),
            compiler_options=CPU_COMPILER_OPTIONS if self.lookup.is_cpu else None,
        )
        self._compiled = self.train_step
        self.eval_step = jax.jit(self._eval_step, out_shardings=everywhere)

    def lr(self, step: int) -> float:
        """The schedule's learning rate of ``step`` (from 1), before a plateau's scale."""
        return float(self.schedule(step - 1))

    def lent(self, config: Config, schema: Schema) -> "Engine":
        """This engine, with all that it has compiled, for another ``config.train.seed``.

        ``config`` and ``schema`` must be as its own in all that is compiled: in what they say of the model, of the
        table's update and the loss, and in slots; not in vocabularies, which may have fewer rows, or in batches' order.
        """
        other, key = copy.copy(self), hashing.key(config.train.seed)
        other.config, other.schema = config, schema
        other.init = functools.partial(self.init, key)  # type: ignore[assignment]
        other.train_step = functools.partial(self.train_step, key=key)  # type: ignore[assignment]
        return other

    def padded_batch(self, size: int) -> int:
        """``size`` rounded up so that the devices divide it."""
        return -(-size // self.mesh.size) * self.mesh.size

    def reads(self, size: int) -> dict[str, int]:
        """What a source of batches of ``size`` must know of the mesh: the padding, and which part this host reads."""
        return {"padded_size": self.padded_batch(size), "host": jax.process_index(), "hosts": jax.process_count()}

    def prepare(self, batch: HostBatch) -> Batch | Unsized:
        """A host batch with its logical rows turned into unique physical rows."""
        return self.prepare_all([batch])[0]

    def prepare_all(self, batches: Sequence[HostBatch]) -> list[Batch | Unsized]:
        """Host batches of one size with their rows turned into unique physical rows; runs in the loader's threads.

        With several hosts, of which each has its part of a batch, all but their padding, which they must agree on. The
        physical rows alone where the step makes the unique ids (`dist_fm.tables.unique.unique_in_step`).
        """
        if self.lookup.unique_in_step:
            return [Batch.pack(batch, None, physical_rows(batch["rows"], self.spec)) for batch in batches]

        def fill(batch: HostBatch, found: Found, need: int) -> Batch:
            return Batch.pack(batch, *self.lookup.fill(found, need))

        both = zip(batches, self.lookup.find(np.stack([batch["rows"] for batch in batches])), strict=True)
        if jax.process_count() == 1:
            return [fill(batch, found, found.need) for batch, found in both]
        return [Unsized(found.need, functools.partial(fill, batch, found)) for batch, found in both]

    def place(self, batch: Batch) -> Batch:
        """A prepared batch on the devices."""
        return place(batch, self.mesh, self.lookup.unique)

    def compiled_steps(self) -> int:
        """Training steps compiled so far: one a bucket of unique rows."""
        return self._compiled._cache_size()  # type: ignore[attr-defined]

    def _shardings(self) -> TrainState:
        """Where each array of a state lies: those of the table's rows as the table does, all others everywhere."""

        def lie(path: Any, array: jax.ShapeDtypeStruct) -> NamedSharding:
            return NamedSharding(self.mesh, self.lookup.table if self.is_of_rows(path, array) else P())

        return jax.tree_util.tree_map_with_path(lie, self._shapes)

    def is_of_rows(self, path: Any, array: Any) -> bool:
        """Whether an array of a state, at ``path`` in it, is of the table's rows: [R', ...]."""
        names = {getattr(key, "key", getattr(key, "name", None)) for key in path}
        return bool(names & {"table", "slots"}) and array.shape[:1] == (self.spec.padded_rows,)

    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings of a state, to restore a checkpoint into."""
        like = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        return jax.tree.map(like, self._shapes, self.shardings)

    def parameters(self) -> int:
        """Trained numbers: the table's true rows and the network."""
        network = sum(x.size for x in jax.tree.leaves(self._shapes.params))
        return self.spec.rows * self.layout.width + network

    def model(self, key: jax.Array | None = None) -> Any:
        """The model with its network drawn by ``key`` (None: the run's seed)."""
        model_class = get_model(self.config.model_name)
        return model_class(self.config.model, self.schema, rngs=hashing.Keys(self._key if key is None else key))

    def _init(self, key: jax.Array | None = None) -> TrainState:
        """The first state, drawn by ``key`` (None: the run's seed)."""
        table_key, network_key = jax.random.split(jax.random.fold_in(self._key if key is None else key, 2**31 - 1))
        model = self.model(network_key)
        cast = lambda x: x.astype(self.dtype)
        params, stats = jax.tree.map(cast, network_of(model))
        table = self.lookup.init(table_key)
        by_optax = {"table": table, "network": params}
        slots = None
        if self.row_optimizer is not None:
            slots = self.row_optimizer.init(self.spec.padded_rows, self.dtype)
            del by_optax["table"]
        return TrainState.create(table, slots, params, stats, self.optimizer.init(by_optax))

    def _touched(self, batch: Batch) -> tuple[jax.Array, Batch]:
        """The ids that the table's owners are asked for, and the batch, whose ``inverse`` points at them."""
        if batch.unique is not None:
            return self.lookup.requests(batch.unique), batch
        unique, inverse = unique_in_step(batch.inverse, self.spec.padded_rows)
        return unique, batch.with_inverse(inverse)

    def _logits(
        self, touched: jax.Array, params: Network, stats: Network, batch: Batch, dropout: jax.Array | None
    ) -> tuple[jax.Array, Network]:
        """Logits [B] and BatchNorm's new statistics; ``dropout`` is the step's key, None in evaluation."""
        filled = self.schema.filled_inputs(batch.values)
        rows = self.lookup.rows(touched, batch.inverse, batch.values, self.schema.slot_inputs, filled)
        return self.logits_of(rows, params, stats, batch, dropout)

    def logits_of(
        self, rows: Rows, params: Network, stats: Network, batch: ModelBatch, dropout: jax.Array | None = None
    ) -> tuple[jax.Array, Network]:
        """Logits [B] of looked-up ``rows``, and BatchNorm's new statistics; without ``dropout``'s key, evaluation's.

        Training that keeps a share r of the negatives learns odds that are 1/r times what they are: evaluation's
        logits are therefore the model's + log r.
        """
        model = self._model_of(params, stats)
        rngs = None if dropout is None else hashing.Keys(dropout)
        logits = model(rows, batch, train=dropout is not None, rngs=rngs)
        if dropout is None and self.config.data.negative_rate < 1:
            logits = logits + math.log(self.config.data.negative_rate)
        return logits, network_of(model)[1]

    def _model_of(self, *networks: Network) -> Any:
        """The model with these parameters and statistics."""
        states = []
        for variables, network in zip(self._variables, networks, strict=True):
            states.append(jax.tree.map(lambda shape: shape, variables))
            nnx.replace_by_pure_dict(states[-1], network)
        return nnx.merge(self._graph, *states)

    def _loss(
        self, trained: dict[str, Any], state: TrainState, batch: Batch, key: jax.Array | None = None
    ) -> tuple[jax.Array, Network]:
        """The mean loss over the global batch's real samples, each by its weight; dropout is drawn by ``key``."""
        dropout = jax.random.fold_in(self._key if key is None else key, state.step)
        logits, stats = self._logits(trained["table"], trained["network"], state.stats, batch, dropout)
        share = (batch.mask * batch.weights).astype(logits.dtype)
        # A masked sample's loss is replaced, not multiplied by 0: its logit may be anything, and inf x 0 is NaN.
        losses = jnp.where(batch.mask > 0, sample_loss(self.config.train.loss, logits, batch.labels), 0)
        return (losses * share).sum() / jnp.maximum(share.sum(), jnp.finfo(share.dtype).tiny), stats

    def _train_step(
        self, state: TrainState, batch: Batch, key: jax.Array | None = None
    ) -> tuple[TrainState, StepMetrics]:
        """The state after ``batch``, with dropout by ``key`` (None: the run's seed)."""
        ids, batch = self._touched(batch)
        rows = self.lookup.read(state.table, ids).astype(self.dtype)
        trained = {"table": rows, "network": state.params}
        with self._traced():
            (loss, stats), gradient = jax.value_and_grad(self._loss, has_aux=True)(trained, state, batch, key)
        ids, rows, gradient["table"] = self.lookup.merge(ids, rows, gradient["table"])

        weights = {"table": rows, "network": state.params}
        if self.row_optimizer is None:
            # Dense: optax passes over every row, touched or not, as torch's optimizers do over nn.Embedding.
            weights["table"] = state.table
            gradient["table"] = self.lookup.dense_gradient(gradient["table"], ids)
        gradient = self._add_l2(gradient, weights)
        norm = optax.tree.norm(gradient)
        gradient = self._clip(gradient, norm)
        table, slots = state.table, state.slots
        if self.row_optimizer is not None:
            del weights["table"]
            # Made once: XLA's CPU backend would make it anew for the rows and each of their slots.
            by_rows = jax.lax.optimization_barrier(gradient.pop("table"))
            table, slots = self._update_rows(state, ids, rows, by_rows)
        updates, optimizer = self.optimizer.update(gradient, state.optimizer, weights)
        weights = jax.tree.map(lambda w, u: w + u * state.lr_scale.astype(w.dtype), weights, updates)
        table = weights.get("table", table)
        state = TrainState(state.step + 1, table, slots, weights["network"], stats, optimizer, state.lr_scale)
        return state, StepMetrics(loss, norm)

    def _update_rows(
        self, state: TrainState, ids: jax.Array, rows: jax.Array, gradient: jax.Array
    ) -> tuple[jax.Array, Slots | None]:
        """Table and slots after one update of the touched rows."""
        assert self.row_optimizer is not None
        lr = jnp.asarray(self.schedule(state.step) * state.lr_scale, self.dtype)
        slots = jax.tree.map(lambda slot: self.lookup.read(slot, ids), state.slots)
        rows, slots = self.row_optimizer.update(rows, gradient, slots, lr, state.step)
        if self.spec.dtype == jnp.bfloat16:
            rows = stochastic_round(rows, self.lookup.physical(ids), self.config.train.seed, state.step)
        write = lambda old, new: self.lookup.write(old, ids, new)
        return write(state.table, rows), jax.tree.map(write, state.slots, slots)

    def _add_l2(self, gradient: Any, weights: Any) -> Any:
        """Adds l2 x weight, the gradient of (l2 / 2) |w|^2, to table and kernels, never to biases or BatchNorm."""
        l2 = self.config.optimizer
        is_weight = weights_mask(weights)

        def add(factor: float, gradient: Any, weights: Any, is_weight: Any) -> Any:
            if factor == 0:
                return gradient
            return jax.tree.map(lambda g, w, regular: g + factor * w if regular else g, gradient, weights, is_weight)

        return {
            part: add(factor, gradient[part], weights[part], is_weight[part])
            for part, factor in (("table", l2.l2_embedding), ("network", l2.l2_network))
        }

    def _clip(self, gradient: Any, norm: jax.Array) -> Any:
        limit = self.config.optimizer.clip_norm
        if limit == 0:
            return gradient
        return jax.tree.map(lambda g: g * jnp.minimum(1, limit / norm).astype(g.dtype), gradient)

    @contextlib.contextmanager
    def _traced(self) -> Iterator[None]:
        """What of the model, and of its gradient, is traced inside is as the run and its devices want it."""
        with in_bfloat16(self.config.train.bf16), turned_in_memory(self.lookup.is_cpu):
            yield

    def _eval_step(self, state: TrainState, batch: Batch) -> Scored:
        ids, samples = self._touched(batch)
        rows = self.lookup.read(state.table, ids).astype(self.dtype)
        with self._traced():
            logits = self._logits(rows, state.params, state.stats, samples, None)[0]
        return Scored(logits, batch.labels, batch.weights, batch.mask)

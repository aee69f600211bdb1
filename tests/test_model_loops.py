"""Whole models against plain loops over samples, fields, pairs and factors, in float64 with every weight drawn."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import keys, make_schema
from flax import nnx

from dist_fm.models import get_model
from dist_fm.models.base import GivenRows

SCHEMA = make_schema((11, 7, 5, 3), (None,) * 4)
B, F, K = 2, 4, 3
PAIRS = list(itertools.combinations(range(F), 2))
BY_DISTANCE = sorted(PAIRS, key=lambda pair: (pair[1] - pair[0], pair))
DEEP = {"mlp_dims": (5, 4)}


class Batch:
    mask = np.ones(B)


class Weights(dict):
    """A model's arrays by dotted path, and what the models share."""

    def first_order(self, rows):
        return self["linear.bias"][0] + sum(rows["linear"][f][0] for f in range(F))

    def dense(self, at, x):
        """W x + b, without b where there is none."""
        kernel, bias = self[f"{at}.kernel"], self.get(f"{at}.bias", np.zeros(self[f"{at}.kernel"].shape[1]))
        return np.array([bias[o] + sum(x[i] * kernel[i, o] for i in range(len(x))) for o in range(len(bias))])

    def batch_norm(self, at, x):
        """``x`` [..., H] by the running statistics."""
        scaled = (x - self[f"{at}.mean"]) / np.sqrt(self[f"{at}.var"] + 1e-5)
        return scaled * self[f"{at}.scale"] + self[f"{at}.bias"]

    def mlp(self, at, x):
        """Hidden layers with BatchNorm, and the output layer, as far as there are any."""
        for i in itertools.count():
            if f"{at}.hidden.{i}.kernel" not in self:
                break
            x = self.dense(f"{at}.hidden.{i}", x)
            if f"{at}.norms.{i}.mean" in self:
                x = self.batch_norm(f"{at}.norms.{i}", x)
            x = np.maximum(x, 0)
        return self.dense(f"{at}.output", x)[0] if f"{at}.output.kernel" in self else x


def softmax(scores):
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def dcn(w, rows, config):
    x0 = x = rows["factors"].ravel()
    for l in range(config.cross_layers):
        product = sum(x[i] * w[f"cross.layers.{l}.weight.kernel"][i, 0] for i in range(len(x)))
        x = np.array([x0[i] * product + w[f"cross.layers.{l}.bias"][i] + x[i] for i in range(len(x))])
    return w.dense("output", np.concatenate([x, w.mlp("mlp", x0)]) if config.mlp_dims else x)[0]


def dcnv2(w, rows, config):
    x0 = x = rows["factors"].ravel()
    for l in range(config.cross_layers):
        at = f"cross.layers.{l}"
        if config.num_experts == 1:
            inside = w.dense(f"{at}.project", x) if config.low_rank else x
            x = x0 * w.dense(f"{at}.expand", inside) + x
            continue
        gates = softmax(w.dense(f"{at}.gate", x))
        mixed = np.zeros_like(x)
        for e, gate in enumerate(gates):
            v, c, u = (w[f"{at}.{part}.kernel"][e] for part in ("project", "mix", "expand"))
            expert = x0 * (np.tanh(np.tanh(x @ v) @ c) @ u + w[f"{at}.bias"])
            mixed += gate * expert
        x = mixed + x
    if not config.mlp_dims:
        return w.dense("output", x)[0]
    if config.structure == "stacked":
        return w.dense("output", w.mlp("mlp", x))[0]
    return w.dense("output", np.concatenate([x, w.mlp("mlp", x0)]))[0]


def attend(w, at, x, config):
    """[F, in] -> [F, A], head by head."""
    query, key, value = (np.array([w.dense(f"{at}.{part}", row) for row in x]) for part in ("query", "key", "value"))
    width = config.attention_dim // config.num_heads
    pooled = np.zeros((F, config.attention_dim))
    for head in range(config.num_heads):
        part = slice(head * width, (head + 1) * width)
        for m in range(F):
            scores = [query[m, part] @ key[k, part] / (math.sqrt(width) if config.scale else 1) for k in range(F)]
            for k, weight in enumerate(softmax(scores)):
                pooled[m, part] += weight * value[k, part]
    return pooled


def add_residual(w, at, y, x, config):
    if config.residual == "none":
        return y
    if config.residual == "identity" and x.shape == y.shape:
        return y + x
    return y + np.array([w.dense(f"{at}.projection", row) for row in x])


def autoint(w, rows, config):
    x = rows["factors"]
    if config.variant == "torchfm":
        y = np.array([w.dense("attention.input", row) for row in x])
        for l in range(config.attention_layers):
            pooled = attend(w, f"attention.attentions.{l}", y, config)
            y = np.array([w.dense(f"attention.outputs.{l}", row) for row in pooled])
        y = np.maximum(add_residual(w, "attention.residual", y, x, config), 0)
    else:
        y = x
        for l in range(config.attention_layers):
            z = add_residual(
                w, f"attention.residuals.{l}", attend(w, f"attention.attentions.{l}", y, config), y, config
            )
            if config.layer_norm:
                for m in range(F):
                    z[m] = (z[m] - z[m].mean()) / math.sqrt(z[m].var() + 1e-5)
                z = z * w[f"attention.norms.{l}.scale"] + w[f"attention.norms.{l}.bias"]
            y = np.maximum(z, 0)
    logit = w.dense("output", y.ravel())[0]
    logit += w.first_order(rows) if config.linear else 0
    return logit + (w.mlp("mlp", x.ravel()) if config.mlp_dims else 0)


def pnn(w, rows, config):
    v = rows["factors"]
    features = list(v.ravel())
    if config.product != "outer":
        turned = [(i, (i + 1) % F) for i in range(F)] + [(0, 2), (1, 3)]  # pairs of four fields as pair_order has them
        features += [sum(v[i, k] * v[j, k] for k in range(K)) for i, j in turned]
    if config.product != "inner":
        kernel = w["outer.kernel"]
        for p, (i, j) in enumerate(BY_DISTANCE):
            full = {"mat": lambda m: m, "vec": np.diag, "num": lambda m: m[0] * np.eye(K)}[config.kernel](kernel[p])
            features.append(sum(v[i, k] * full[k, l] * v[j, l] for k in range(K) for l in range(K)))
    return w.mlp("mlp", np.array(features))


def fibinet(w, rows, config):
    v = rows["factors"]
    squeezed = np.maximum(w.dense("gates.squeeze", np.array([v[f].mean() for f in range(F)])), 0)
    gates = np.maximum(w.dense("gates.excite", squeezed), 0)
    kernel = w["products.kernel"]
    features = []
    for vectors in (v, [gates[f] * v[f] for f in range(F)]):
        for p, (i, j) in enumerate(BY_DISTANCE):
            own = {
                "field_all": kernel,
                "field_each": kernel[i % len(kernel)],
                "field_interaction": kernel[p % len(kernel)],
            }
            features.append((vectors[i] @ own[config.bilinear]) * vectors[j])
    return sum(rows["linear"][f][0] for f in range(F)) + w.mlp("mlp", np.concatenate(features))


def onn(w, rows, config):
    v = rows["factors"].reshape(F, F, K)
    products = [sum(v[i, j, k] * v[j, i, k] for k in range(K)) for i, j in PAIRS]
    return w.mlp("mlp", np.concatenate([*(v[i, i] for i in range(F)), products]))


def afn(w, rows, config):
    sizes = np.abs(rows["factors"])
    powers = w["neurons.powers.kernel"]
    neurons = range(config.log_neurons)
    if config.variant == "torchfm":
        sums = [
            [sum(powers[f, j] * math.log1p(sizes[f, k] + 1e-7) for f in range(F)) for j in neurons] for k in range(K)
        ]
        y = [[max(0, math.expm1(one)) for one in row] for row in sums]
    else:
        logs = [[math.log(max(sizes[f, k], config.log_floor)) for f in range(F)] for k in range(K)]
        logs = w.batch_norm("neurons.log_norm", np.array(logs))
        y = [[math.exp(sum(powers[f, j] * logs[k, f] for f in range(F))) for j in neurons] for k in range(K)]
        y = w.batch_norm("neurons.exp_norm", np.array(y))
    logit = w.mlp("mlp", np.ravel(y))
    if config.dnn_dims:
        logit = w.dense("ensemble", [logit, w.mlp("dnn", rows["dnn_factors"].ravel())])[0]
    return logit + (w.first_order(rows) if config.linear else 0)


def hofm(w, rows, config):
    logit = w.first_order(rows)
    for order in range(2, config.order + 1):
        own = 0 if config.reuse else order - 2
        v = rows["factors"][:, own * K : (own + 1) * K]
        for fields in itertools.combinations(range(F), order):
            logit += sum(math.prod(v[f, k] for f in fields) for k in range(K))
    return logit


PAPER = {"variant": "paper", "attention_dim": 6, "attention_layers": 2}
TORCHFM = {"attention_dim": 6, "attention_layers": 2}
CASES = {
    "dcn": (dcn, DEEP),
    "dcn cross alone, no BatchNorm": (dcn, {"mlp_dims": (), "cross_layers": 2, "batch_norm": False}),
    "dcnv2": (dcnv2, DEEP),
    "dcnv2 low rank, stacked": (dcnv2, {**DEEP, "low_rank": 2, "structure": "stacked"}),
    "dcnv2 experts": (dcnv2, {**DEEP, "low_rank": 2, "num_experts": 3, "cross_layers": 2}),
    "dcnv2 experts, stacked": (dcnv2, {**DEEP, "low_rank": 2, "num_experts": 2, "structure": "stacked"}),
    "dcnv2 cross alone": (dcnv2, {"mlp_dims": ()}),
    "autoint": (autoint, {**DEEP, **TORCHFM}),
    "autoint no residual, scale or linear": (
        autoint,
        {"mlp_dims": (), **TORCHFM, "residual": "none", "scale": False, "linear": False},
    ),
    "autoint identity": (autoint, {**DEEP, **TORCHFM, "attention_dim": K, "num_heads": 1, "residual": "identity"}),
    "autoint paper": (autoint, {"mlp_dims": (), **PAPER, "scale": False, "linear": False}),
    "autoint paper, identity, normalised": (
        autoint,
        {**DEEP, **PAPER, "num_heads": 3, "residual": "identity", "layer_norm": True},
    ),
    "autoint paper, no residual": (autoint, {"mlp_dims": (), **PAPER, "residual": "none"}),
    "pnn": (pnn, DEEP),
    "pnn outer": (pnn, {**DEEP, "product": "outer"}),
    "pnn outer vec": (pnn, {**DEEP, "product": "outer", "kernel": "vec"}),
    "pnn both num": (pnn, {**DEEP, "product": "both", "kernel": "num", "batch_norm": False}),
    "fibinet": (fibinet, DEEP),
    "fibinet all": (fibinet, {**DEEP, "bilinear": "field_all", "reduction_ratio": 2}),
    "fibinet each": (fibinet, {**DEEP, "bilinear": "field_each", "reduction_ratio": 9}),
    "onn": (onn, DEEP),
    "afn": (afn, {**DEEP, "log_neurons": 5}),
    "afn paper": (afn, {**DEEP, "log_neurons": 5, "variant": "paper", "log_floor": 0.2, "linear": False}),
    "afn paper with a DNN": (
        afn,
        {**DEEP, "log_neurons": 2, "variant": "paper", "dnn_dims": (3,), "batch_norm": False},
    ),
    "afn with a DNN": (afn, {**DEEP, "log_neurons": 2, "dnn_dims": (3,), "linear": False}),
    "hofm": (hofm, {}),
    "hofm of order 2": (hofm, {"order": 2}),
    "hofm of order 5, one more than there are fields": (hofm, {"order": 5}),
    "hofm shared": (hofm, {"order": 4, "reuse": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_model_is_the_loops_of_its_paper(case):
    loop, settings = CASES[case]
    model_class = get_model(case.split()[0])
    config = model_class.Config(embed_dim=K, **settings)
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        model = nnx.eval_shape(lambda: model_class(config, SCHEMA, rngs=keys()))
        graph, state = nnx.split(model)
        weights = Weights()
        for path, variable in nnx.to_flat_state(state):
            sign = 1 if path[-1] == "var" else rng.choice([-1, 1], variable.shape)
            weights[".".join(map(str, path))] = sign * rng.uniform(0.3, 1, variable.shape)
        arrays = [(path, x.replace(weights[".".join(map(str, path))])) for path, x in nnx.to_flat_state(state)]
        state = nnx.from_flat_state(arrays)
        columns = model.columns(SCHEMA)
        rows = {name: rng.normal(0, 0.7, (B, F, column.width)) for name, column in columns.items()}
        ours = jax.jit(lambda state, rows: nnx.merge(graph, state)(GivenRows(rows), Batch, train=False))(state, rows)
    assert ours.dtype == jnp.float64
    expected = [loop(weights, {name: row[b] for name, row in rows.items()}, config) for b in range(B)]
    np.testing.assert_allclose(ours, expected, rtol=1e-11)

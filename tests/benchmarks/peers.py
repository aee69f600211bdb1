"""One measurement of a peer's training step: the packages a user would pick instead. Prints one JSON line.

    PEER_PYTHON tests/benchmarks/peers.py --peer=torchfm --model=deepfm --shape=criteo --batch=2048 --steps=200
    PEER_PYTHON tests/benchmarks/peers.py --peer=torch-sparse --optimizer=adam       # DeepFM; or adagrad
    PEER_PYTHON tests/benchmarks/peers.py --peer=fbgemm --optimizer=rowwise_adagrad  # DeepFM; or adagrad

PEER_PYTHON has torch and NumPy, and torchfm 0.7.0 or fbgemm-gpu-cpu 1.8.0; nothing of ours but shapes.py and load.py is
imported. Each peer goes its own recommended way: torchfm as its example does (dense Adam, lr 1e-3, weight decay 1e-6,
the example's sizes, a loss read every step), torch with sparse gradients, fbgemm with TorchRec's table-batched engine
on the CPU. The last two have the same plain DeepFM. All slice their batches from ids that lie ready as tensors.
"""

import argparse
import importlib.metadata
import itertools
import json
import sys
import time

import numpy as np
import shapes
import torch
from load import WARM_UP_S, OtherLoad, available_cores
from torch.nn.functional import binary_cross_entropy_with_logits as logits_loss

EMBED_DIM, MLP_DIMS, DROPOUT = 16, (16, 16), 0.2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=PEERS, required=True)
    parser.add_argument("--model", default="deepfm")
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--shape", choices=shapes.SHAPES, default="criteo")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="stop after the step that passes this")
    parser.add_argument("--stride", type=int, default=1, help="the table is this many times larger")
    parser.add_argument("--ids", help="file of ids, so that several measurements draw them once")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(len(available_cores()))
    torch.manual_seed(0)

    batch, steps = options.batch, options.steps
    sizes = shapes.field_sizes(options.shape, options.stride)
    ids = shapes.load_ids(options.ids, options.shape, options.stride, batch, steps).astype(np.int64)
    train, optimizer, needs_offsets = PEERS[options.peer](options, sizes)
    if needs_offsets:
        ids += shapes.offsets(sizes)
    inputs = torch.from_numpy(ids).to(options.device)
    labels = torch.from_numpy(shapes.labels(batch * steps)).to(options.device)

    def step(number):
        part = slice(number * batch, (number + 1) * batch)
        return train(inputs[part], labels[part])  # reads the loss, so the step is over when it returns

    until = time.perf_counter() + WARM_UP_S
    for number in itertools.count():
        step(number % steps)
        if number > 0 and time.perf_counter() > until:
            break
    done = 0
    with OtherLoad() as others:
        began = time.perf_counter()
        while done < steps and (done == 0 or time.perf_counter() - began < options.seconds):
            step(done)
            done += 1
        seconds = time.perf_counter() - began
    record = {
        "model": options.model,
        "optimizer": optimizer,
        "step_ms": round(seconds / done * 1e3, 4),
        "samples_per_s": round(done * batch / seconds),
        "steps": done,
        "batch": batch,
        "other_cpu_cores": others.cores,
        "devices": torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device,
        "threads": torch.get_num_threads(),
        "table_rows": sum(sizes),
        "peer_versions": versions(),
    }
    print(json.dumps(record))


def versions():
    found = {"python": sys.version.split()[0]}
    for package in ("torch", "numpy", "lmdb", "torchfm", "fbgemm-gpu-cpu"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def torchfm(options, sizes):
    """A model of torchfm with its example's sizes, trained as its example trains it."""
    model = torchfm_model(options.model, sizes).to(options.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)
    criterion = torch.nn.BCELoss()

    def train(inputs, labels):
        loss = criterion(model(inputs), labels)
        model.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return train, "dense Adam", False


def torchfm_model(name, sizes):
    from torchfm.model import afi, afm, afn, dcn, dfm, ffm, fm, fnfm, fnn, lr, ncf, nfm, pnn, wd, xdfm

    network = {"embed_dim": EMBED_DIM, "mlp_dims": MLP_DIMS, "dropout": DROPOUT}
    pair_network = {"mlp_dims": (64,), "dropouts": (DROPOUT, DROPOUT)}
    users, items = np.array([0]), np.array([1])
    build = {
        "lr": lambda: lr.LogisticRegressionModel(sizes),
        "fm": lambda: fm.FactorizationMachineModel(sizes, EMBED_DIM),
        "ffm": lambda: ffm.FieldAwareFactorizationMachineModel(sizes, 4),
        "fnn": lambda: fnn.FactorizationSupportedNeuralNetworkModel(sizes, **network),
        "wide_deep": lambda: wd.WideAndDeepModel(sizes, **network),
        "afm": lambda: afm.AttentionalFactorizationMachineModel(sizes, EMBED_DIM, 16, (DROPOUT, DROPOUT)),
        "nfm": lambda: nfm.NeuralFactorizationMachineModel(sizes, 64, **pair_network),
        "ncf": lambda: ncf.NeuralCollaborativeFiltering(sizes, user_field_idx=users, item_field_idx=items, **network),
        "fnfm": lambda: fnfm.FieldAwareNeuralFactorizationMachineModel(sizes, 4, **pair_network),
        "deepfm": lambda: dfm.DeepFactorizationMachineModel(sizes, **network),
        "xdeepfm": lambda: xdfm.ExtremeDeepFactorizationMachineModel(
            sizes, cross_layer_sizes=(16, 16), split_half=False, **network
        ),
        "dcn": lambda: dcn.DeepCrossNetworkModel(sizes, num_layers=3, **network),
        "autoint": lambda: afi.AutomaticFeatureInteractionModel(
            sizes, EMBED_DIM, atten_embed_dim=64, num_heads=2, num_layers=3, mlp_dims=(400, 400), dropouts=(0, 0, 0)
        ),
        "pnn": lambda: pnn.ProductNeuralNetworkModel(sizes, EMBED_DIM, mlp_dims=(16,), dropout=DROPOUT),
        "afn": lambda: afn.AdaptiveFactorizationNetwork(
            sizes, EMBED_DIM, LNN_dim=1500, mlp_dims=(400, 400, 400), dropouts=(0, 0, 0)
        ),
    }
    return build[name]()


def torch_sparse(options, sizes):
    """A plain DeepFM on nn.Embedding(sparse=True), first-order weight and factors in one row of 17 floats."""
    table = torch.nn.Embedding(sum(sizes), EMBED_DIM + 1, sparse=True)
    torch.nn.init.normal_(table.weight, 0, 0.01)
    rule = {"adam": torch.optim.SparseAdam, "adagrad": torch.optim.Adagrad}[options.optimizer]
    network = plain_mlp(len(sizes)).to(options.device)
    table = table.to(options.device)
    optimizers = [rule(table.parameters(), lr=1e-3), torch.optim.Adam(network.parameters())]
    return plain_deepfm(table, network, optimizers), rule.__name__, True


def fbgemm(options, sizes):
    """A plain DeepFM on FBGEMM's table-batched embeddings, the engine of TorchRec."""
    import fbgemm_gpu  # noqa: F401
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        EmbeddingLocation,
        OptimType,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    width = EMBED_DIM + 4  # it wants a multiple of 4: 16 factors, the first-order weight, 3 floats to spare
    rule = {"rowwise_adagrad": OptimType.EXACT_ROWWISE_ADAGRAD, "adagrad": OptimType.EXACT_ADAGRAD}[options.optimizer]
    tables = [(size, width, EmbeddingLocation.HOST, ComputeDevice.CPU) for size in sizes]
    engine = SplitTableBatchedEmbeddingBagsCodegen(tables, optimizer=rule, learning_rate=1e-2)
    engine.init_embedding_weights_uniform(-0.01, 0.01)
    bags = torch.arange(options.batch * len(sizes) + 1)

    def lookup(inputs):
        by_field = inputs.t().reshape(-1).contiguous()
        return engine(by_field, bags).view(-1, len(sizes), width)

    network = plain_mlp(len(sizes))
    return plain_deepfm(lookup, network, [torch.optim.Adam(network.parameters())]), rule.name, False


def plain_mlp(fields):
    """Neither BatchNorm nor dropout."""
    hidden, layers = fields * EMBED_DIM, []
    for width in MLP_DIMS:
        layers += [torch.nn.Linear(hidden, width), torch.nn.ReLU()]
        hidden = width
    return torch.nn.Sequential(*layers, torch.nn.Linear(hidden, 1))


def plain_deepfm(lookup, network, optimizers):
    """A step of DeepFM over ``lookup(ids [B, F])`` [B, F, 17 or more]: factors, first-order weight, floats unused."""

    def train(inputs, labels):
        rows = lookup(inputs)
        factors, first_order = rows[..., :EMBED_DIM], rows[..., EMBED_DIM].sum(1)
        total = factors.sum(1)
        pairs = 0.5 * (total.square().sum(1) - factors.square().sum((1, 2)))
        loss = logits_loss(first_order + pairs + network(factors.flatten(1))[:, 0], labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    return train


PEERS = {"torchfm": torchfm, "torch-sparse": torch_sparse, "fbgemm": fbgemm}

if __name__ == "__main__":
    main()

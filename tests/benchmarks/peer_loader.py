"""One measurement of torchfm's loader: CriteoDataset, one row a key in an LMDB, behind torch's DataLoader.

    PEER_PYTHON tests/benchmarks/peer_loader.py --ids=ids.npy --folder=DIR --rows=300000 --workers=0

Prints one JSON line. PEER_PYTHON has torch, torchfm 0.7.0, lmdb and NumPy; nothing of ours but shapes.py, load.py and
peers.py is imported. The LMDB is written as torchfm's converter writes it, and read in shuffled batches, as they are
trained on; the first pass over it, which warms the page cache, is not timed.
"""

import argparse
import json
import pathlib
import struct
import time

import lmdb
import numpy as np
import shapes
import torch
from load import OtherLoad
from peers import versions
from torchfm.dataset.criteo import CriteoDataset

BATCH = 2048
WRITE_ROWS = 10_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", required=True, help="file of ids of the criteo shape")
    parser.add_argument("--folder", required=True, help="where the LMDB is, or will be written")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30.0, help="stop after the batch that passes this")
    options = parser.parse_args()
    path = pathlib.Path(options.folder) / "torchfm.lmdb"
    if not path.exists():
        write(path, np.load(options.ids, mmap_mode="r")[: options.rows])
    dataset = CriteoDataset(cache_path=str(path))
    for index in range(len(dataset)):
        dataset[index]
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=BATCH, shuffle=True, num_workers=options.workers, drop_last=True
    )
    batches = iter(loader)
    next(batches)  # which the start of the workers is part of
    rows = 0
    with OtherLoad() as others:
        began = time.perf_counter()
        for fields, _ in batches:
            rows += len(fields)
            if time.perf_counter() - began > options.seconds:
                break
        seconds = time.perf_counter() - began
        del batches  # ends the workers, so that what they used counts as ours
    record = {
        "batch": BATCH,
        "rows_per_s": round(rows / seconds),
        "rows": rows,
        "store_rows": len(dataset),
        "other_cpu_cores": others.cores,
        "peer_versions": versions(),
    }
    print(json.dumps(record))


def write(path, ids):
    """Keys are row numbers, values the label and the fields, uint32."""
    rows = np.concatenate([shapes.labels(len(ids))[:, None], ids], 1).astype(np.uint32)
    with lmdb.open(str(path), map_size=int(1e11)) as env:
        with env.begin(write=True) as txn:
            txn.put(b"field_dims", np.array(shapes.CRITEO, np.uint32).tobytes())
        for start in range(0, len(rows), WRITE_ROWS):
            with env.begin(write=True) as txn:
                for number in range(start, min(start + WRITE_ROWS, len(rows))):
                    txn.put(struct.pack(">I", number), rows[number].tobytes())


if __name__ == "__main__":
    main()

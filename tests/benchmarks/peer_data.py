"""torchfm 0.7.0's own way from raw Criteo text: run by a Python that has it.

PEER_PYTHON tests/benchmarks/peer_data.py convert RAW CACHE    # its converter: raw text into its LMDB
"""

import sys

from torchfm.dataset.criteo import CriteoDataset

if __name__ == "__main__":
    what, raw, cache = sys.argv[1:]
    assert what == "convert"
    CriteoDataset(raw, cache, rebuild_cache=True)

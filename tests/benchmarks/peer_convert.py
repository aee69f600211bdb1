"""torchfm 0.7.0's converter of Criteo text, run by a Python that has it.

    PEER_PYTHON tests/benchmarks/peer_convert.py --input=RAW --output=DIR

The LMDB, one row a key, is what `CriteoDataset` makes when there is none; convert.py times the whole process.
"""

import argparse

from torchfm.dataset.criteo import CriteoDataset


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="Criteo text")
    parser.add_argument("--output", required=True, help="the LMDB's directory")
    options = parser.parse_args()
    CriteoDataset(options.input, options.output, rebuild_cache=True)


if __name__ == "__main__":
    main()

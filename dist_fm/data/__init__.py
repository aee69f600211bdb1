"""Data sets of block records: schema, records, LMDB store, Grain source and batches."""

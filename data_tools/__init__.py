"""Raw click logs and ratings into LMDB data sets: build-lmdb, inspect, verify, synth. Works without JAX."""

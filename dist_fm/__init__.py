"""dist_fm: factorization-machine-family click models in JAX, the same answer on every mesh."""

__version__ = "0.1.0"

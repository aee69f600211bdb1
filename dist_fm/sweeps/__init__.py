"""Sweeps: which runs a grid asks for, their processes, their tables."""

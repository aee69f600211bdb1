"""Metrics over all rows of a split, computed on the host in float64."""

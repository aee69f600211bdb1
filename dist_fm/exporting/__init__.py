"""A run's model as files that other runtimes load, one file here a format."""

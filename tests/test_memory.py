"""Freed memory is kept for the next step, unless the user has settings of malloc's."""

import os
import platform
import subprocess
import sys
from statistics import median

import pytest

IS_GLIBC = platform.libc_ver()[0] == "glibc"
IMPORTS = "from dist_fm.parallel.memory import CPU_COMPILER_OPTIONS, keep_freed_memory\n"
# A thread, as XLA's and the loader's: page faults of taking and freeing 30 MB, 20 times, after a first time.
SCRIPT = """
import resource, threading
import numpy as np

print(keep_freed_memory())
def work():
    for turn in range(21):
        np.full(30_000_000, turn, np.int8)
        if turn == 0:
            first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""

# Page faults of each of 41 runs of a program with six arrays of 16 MiB at a time.
STEPS = """
import resource
import jax, jax.numpy as jnp
keep_freed_memory()

def step(x):
    parts = [x @ jnp.full((4, 4), i) for i in range(6)]
    return sum((a.T @ b)[0, 0] for a, b in zip(parts, reversed(parts)))

run, x = jax.jit(step, compiler_options=CPU_COMPILER_OPTIONS), jnp.ones((1 << 20, 4))
for _ in range(41):
    first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run(x).block_until_ready()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)
"""


def said(script, **environment):
    """What ``script`` prints where the user has no settings of malloc's but ``environment``."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | environment
    script = IMPORTS + script
    return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not IS_GLIBC, reason="about glibc's malloc")
def test_a_steps_temporary_arrays_are_reused_though_together_they_are_more_than_glibc_keeps():
    faults = [int(count) for count in said(STEPS).split()]
    # In one block they are 24,576 pages of nearly every run. Each of XLA's threads takes its own for the first time,
    # some of them late where the machine is busy: the median, not the sum, tells whether they are kept.
    assert median(faults) < 1_000, faults


def test_freed_arrays_are_reused_without_page_faults():
    faults = {}
    for own in (True, False):
        # A setting of the user's own is left alone.
        taken, count = said(SCRIPT, **({} if own else {"MALLOC_TRIM_THRESHOLD_": "131072"})).split()
        assert taken == str(own and IS_GLIBC)
        faults[own] = int(count)
    if IS_GLIBC:
        assert faults[True] < 1_000 < faults[False], faults

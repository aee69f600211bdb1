"""Freed memory is kept for the next step, unless the user has settings of malloc's."""

import os
import platform
import subprocess
import sys

IS_GLIBC = platform.libc_ver()[0] == "glibc"
# A thread, as XLA's and the loader's: page faults of taking and freeing 30 MB, 20 times, after a first time.
SCRIPT = """
import resource, threading
import numpy as np
from dist_fm.parallel.memory import keep_freed_memory

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


def test_freed_arrays_are_reused_without_page_faults():
    faults = {}
    for own in (True, False):
        env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        if not own:
            env["MALLOC_TRIM_THRESHOLD_"] = "131072"  # a setting of the user's own is left alone
        said = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True)
        taken, count = said.stdout.split()
        assert taken == str(own and IS_GLIBC)
        faults[own] = int(count)
    if IS_GLIBC:
        assert faults[True] < 1_000 < faults[False], faults

"""How busy other processes keep our cores: what they take is missing from a timing, and inflates ratios several-fold.

The standard library alone, so that the peers' Python can import it.
"""

import os
import resource
import sys
import time

LOUD_ABOVE_CORES = 0.1
SHORTEST_S = 1.0  # the kernel counts in ticks of 10 ms: over less, they say too little
_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)  # of /proc/stat: user, nice, system, irq, softirq, steal


def available_cores() -> set[int]:
    """The numbers of the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


class OtherLoad:
    """Over a ``with`` block, ``cores`` is the mean number of our cores that were kept busy, but not by us.

    Us: this process and the children it has waited for. None where there is no /proc/stat. Ends a second after it began
    at the earliest, so that a short timing, which must have been taken inside, is watched for long enough.
    """

    cores: float | None = None

    def __enter__(self) -> "OtherLoad":
        self._busy_s, self._own_s, self._began = _busy_seconds(), _own_seconds(), time.perf_counter()
        return self

    def __exit__(self, *_) -> None:
        time.sleep(max(0.0, self._began + SHORTEST_S - time.perf_counter()))
        busy_s = _busy_seconds()
        if busy_s is None or self._busy_s is None:
            return
        others_s = (busy_s - self._busy_s) - (_own_seconds() - self._own_s)
        self.cores = round(max(0.0, others_s / (time.perf_counter() - self._began)), 3)


def warn(cores: float | None, when: str) -> None:
    """Says loudly that others used more than a tenth of a core."""
    if cores is not None and cores > LOUD_ABOVE_CORES:
        print(
            f"\n*** WARNING: {when}, other processes kept {cores:.2f} cores busy (more than {LOUD_ABOVE_CORES}):\n"
            f"*** these timings and ratios mean nothing; stop the other work and measure again.\n",
            file=sys.stderr,
            flush=True,
        )


def _busy_seconds() -> float | None:
    try:
        with open("/proc/stat", encoding="ascii") as file:
            lines = [line.split() for line in file if line.startswith("cpu")]
    except OSError:
        return None
    ours = {f"cpu{number}" for number in available_cores()}
    ticks = sum(int(words[1 + field]) for words in lines if words[0] in ours for field in _BUSY_FIELDS)
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)

"""What is missing from a timing: how busy other processes keep our cores, and how much of a core each of them is.

The first inflates ratios several-fold. The second is a virtual machine's: at times its host runs two of its cores as
hyper-threads of one, which costs what computes (our step) more than what waits for memory (dense updates). The standard
library alone, so that the peers' Python can import it.
"""

import hashlib
import os
import resource
import sys
import threading
import time

LOUD_ABOVE_CORES = 0.1
LOUD_BELOW_TOGETHER = 0.9
PROBE_S = 0.1
WARM_UP_S = 1.0  # of untimed steps: a process's first hundred take memory that later ones have, and up to twice as long
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


def cores_together() -> float | None:
    """What our cores compute at once, as a share of what each does alone; None where threads cannot be pinned to cores.

    1 of cores that share nothing, 0.6 to 0.8 of hyper-threads. Takes ``PROBE_S`` a core and once more.
    """
    cores = sorted(available_cores())
    if len(cores) == 1 or not hasattr(os, "sched_setaffinity"):
        return None
    alone = sum(_hashed([core]) for core in cores)
    return round(_hashed(cores) / alone, 2)


def are_whole(together: float | None) -> bool:
    """Whether `cores_together` is as of cores that share nothing; unknown counts as such."""
    return together is None or together >= LOUD_BELOW_TOGETHER


def wait_for_whole_cores(limit_s: float) -> float | None:
    """`cores_together`, once that is a whole core for each; after ``limit_s`` what it is then."""
    until = time.perf_counter() + limit_s
    while not are_whole(together := cores_together()) and time.perf_counter() < until:
        pass
    return together


def _hashed(cores: list[int]) -> float:
    """Blocks a second that threads hash, one pinned to each of ``cores``."""
    speeds = []

    def work(core: int) -> None:
        os.sched_setaffinity(0, {core})  # of this thread alone
        block, blocks, began = bytes(1 << 16), 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < PROBE_S:
            hashlib.blake2b(block).digest()  # without the interpreter's lock, and without memory to wait for
            blocks += 1
        speeds.append(blocks / passed)

    threads = [threading.Thread(target=work, args=(core,)) for core in cores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(speeds)


def warn_of_shared(together: float | None, when: str) -> None:
    """Says loudly that our cores are not whole ones."""
    if not are_whole(together):
        print(
            f"\n*** WARNING: {when}, our cores together did {together:.2f} of what each does alone: they are\n"
            f"*** hyper-threads of one, or their host is busy. Ratios are off by up to a half; measure again.\n",
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

"""Trains with several processes ("hosts") on this machine, and starts them again when one fails.

    python launch/local.py --hosts=2 --devices=2 --data=data/ml-1m --model=deepfm [any flag of dist_fm.train]

Each process has ``--devices`` devices. When one dies, all are ended and, after a pause that doubles each time, started
again, up to ``--restarts`` times: training goes on from the last checkpoint. SIGTERM and Ctrl-C are passed on: all save
and end. No process outlives this one. Exit codes: 0 finished; 2 the command is wrong (not tried again); 75 asked to
stop, and saved; else that of the process that failed last.
"""

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

FINISHED, WRONG_COMMAND, PREEMPTED = 0, 2, 75
_LONGEST_PAUSE_S = 60.0
_POLL_S = 0.05
_PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None)


def main(arguments: Sequence[str]) -> int:
    own, flags = parse(arguments)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    pause_s = own.backoff_s
    for restart in range(own.restarts + 1):
        code, reason = run_once(own, flags, stopping)
        if code in (FINISHED, WRONG_COMMAND, PREEMPTED) or stopping.is_set() or restart == own.restarts:
            break
        say(f"{reason}; all were ended, and start again in {pause_s:g} s (restart {restart + 1} of {own.restarts})")
        if stopping.wait(pause_s):
            return PREEMPTED
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    if reason:
        say(reason)
    return code


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's own flags, and those for training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--hosts", type=int, default=2, help="processes")
    parser.add_argument("--devices", type=int, default=1, help="devices a process")
    parser.add_argument("--restarts", type=int, default=3, help="how often all are started again after a failure")
    parser.add_argument("--backoff_s", type=float, default=1.0, help="pause before the first restart")
    parser.add_argument("--grace_s", type=float, default=60.0, help="time to save and end when asked to stop")
    own, flags = parser.parse_known_args(arguments)
    if own.hosts < 1 or own.devices < 1 or own.restarts < 0:
        parser.error("--hosts and --devices must be at least 1, --restarts at least 0")
    return own, flags


def run_once(own: argparse.Namespace, flags: list[str], stopping: threading.Event) -> tuple[int, str]:
    """Runs all processes until they end, or one fails: its exit code, and what happened ("" when they finished)."""
    port = free_port()
    processes = [start(host, own, flags, port) for host in range(own.hosts)]
    asked_at = None
    try:
        while True:
            codes = [process.poll() for process in processes]
            failed = [host for host, code in enumerate(codes) if code not in (None, FINISHED, PREEMPTED)]
            failed.sort(key=lambda host: codes[host] != WRONG_COMMAND)  # what the others fail of
            if failed:
                return _exit_code(codes[failed[0]]), f"host {failed[0]} {_describe(codes[failed[0]])}"
            if None not in codes:
                return (PREEMPTED, "asked to stop: saved") if PREEMPTED in codes else (FINISHED, "")
            if stopping.is_set() or PREEMPTED in codes:  # one host that was asked tells the others by itself
                if asked_at is None:
                    asked_at = time.monotonic()
                    if stopping.is_set():
                        signal_all(processes, signal.SIGTERM)
                elif time.monotonic() - asked_at > own.grace_s:
                    return 1, f"asked to stop, but not ended in {own.grace_s:g} s"
            time.sleep(_POLL_S)
    finally:
        signal_all(processes, signal.SIGKILL)
        for process in processes:
            process.wait()


def start(host: int, own: argparse.Namespace, flags: list[str], port: int) -> subprocess.Popen:
    """One process; the first writes as it is, lines of the others begin with their number."""
    command = [sys.executable, "-m", "dist_fm.train", *flags, f"--devices={own.devices}"]
    if own.hosts > 1:
        command += [f"--hosts={own.hosts}", f"--host={host}", f"--coordinator=127.0.0.1:{port}"]
    output = None if host == 0 else subprocess.PIPE
    process = subprocess.Popen(
        command,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        process_group=0,
        preexec_fn=die_with_parent,
    )
    if output:
        threading.Thread(target=copy_lines, args=(process.stdout, f"[{host}] "), daemon=True).start()
    return process


def own_gpus(host: int, devices: int) -> dict[str, str]:
    """The environment of a process that sees its own GPUs alone; without GPUs this changes nothing."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = given.split(",") if given else [str(number) for number in range((host + 1) * devices)]
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(visible[host * devices : (host + 1) * devices])}


def die_with_parent() -> None:
    """Asks Linux to kill this process when the launcher dies, however it does."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def copy_lines(source, prefix: str) -> None:
    for line in source:
        sys.stderr.write(prefix + line.decode(errors="replace"))


def signal_all(processes: list[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, number)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def say(text: str) -> None:
    print(f"launch: {text}", file=sys.stderr, flush=True)


def _describe(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"


def _exit_code(code: int) -> int:
    return 128 - code if code < 0 else code  # as shells say it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Builds that are killed, crowded out of the disk, met by others, or spread over processes: whole or not there."""

import filecmp
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from raw_logs import make

from data_tools.build import build
from data_tools.counting import NumberCounter, TokenCounter
from data_tools.errors import DataError
from data_tools.inspect import inspect
from data_tools.plan import BuildOptions
from data_tools.synth import synth
from data_tools.verify import verify
from dist_fm.data.schema import SchemaError, read_schema
from dist_fm.data.store import StoreError


def command(raw, output, *flags, format="movielens-1m"):
    flags = [f"--format={format}", f"--input={raw}", f"--output={output}", *flags]
    return [sys.executable, "-m", "data_tools", "build-lmdb", *flags]


def run_build(raw, output, **options):
    """Builds in a process of its own, as workers that fork should not in this one, which has JAX's threads."""
    given = {"format": "movielens-1m", "output": str(output), "inputs": (str(raw),), **options}
    program = (
        f"from data_tools.build import build; from data_tools.plan import BuildOptions; build(BuildOptions(**{given}))"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def same_files(left, right):
    """Whether two data sets are byte-equal."""
    names = sorted(str(path.relative_to(left)) for path in left.rglob("*") if path.is_file())
    others = sorted(str(path.relative_to(right)) for path in right.rglob("*") if path.is_file())
    return names == others and filecmp.cmpfiles(left, right, names, shallow=False)[1:] == ([], [])


@pytest.mark.parametrize("split, shards", [("random", 1), ("leave_one_out", 1), ("random", 3)])
def test_workers_memory_and_pieces_do_not_change_a_byte(tmp_path, ratings, split, shards):
    path, _ = ratings
    given = {"split": split, "shards": shards, "block_rows": 100}
    make(path, tmp_path / "alone", **given)
    for workers, memory_bytes, chunk_bytes in ((3, 1 << 30, 500), (2, 1, 3000)):
        options = {"workers": workers, "memory_bytes": memory_bytes, "chunk_bytes": chunk_bytes}
        done = run_build(path, tmp_path / "spread", **given, **options)
        assert done.returncode == 0, done.stderr
        assert same_files(tmp_path / "alone", tmp_path / "spread")
        shutil.rmtree(tmp_path / "spread")


@pytest.mark.slow
def test_ray_gives_the_same_bytes_and_errors(tmp_path, ratings):
    pytest.importorskip("ray", reason="needs the extra ray")
    path, _ = ratings
    given = {"split": "user", "block_rows": 100, "shards": 2}
    make(path, tmp_path / "alone", **given)
    done = run_build(path, tmp_path / "ray", **given, chunk_bytes=3000, engine="ray", workers=2)
    assert done.returncode == 0, done.stderr
    assert same_files(tmp_path / "alone", tmp_path / "ray")
    done = run_build(path, tmp_path / "strict", format="criteo", engine="ray", workers=2)
    assert "DataError: none of the rows is good; the first: " in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["alone", "ray"]


def test_a_killed_worker_ends_the_build(tmp_path, ratings):
    path, _ = ratings
    program = f"""
import multiprocessing, os, signal
from data_tools import raw_rows
from data_tools.build import build
from data_tools.errors import DataError
from data_tools.inspect import inspect
from data_tools.plan import BuildOptions
parse = raw_rows._parse
def die(shared, task):
    os.kill(os.getpid(), signal.SIGKILL)
raw_rows._parse = die
try:
    build(BuildOptions("movielens-1m", {str(tmp_path / "set")!r}, ({str(path)!r},), workers=2, chunk_bytes=500))
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "a worker process was killed" in done.stdout and os.listdir(tmp_path) == []


def test_workers_end_with_a_killed_build(tmp_path, ratings):
    path, _ = ratings
    raw = tmp_path / "big.dat"
    raw.write_text(path.read_text() * 400)  # two pieces and more
    process = subprocess.Popen(command(raw, tmp_path / "set", "--workers=2"), stdout=subprocess.DEVNULL)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (workers := children.read_text().split()):
        assert process.poll() is None, "the build ended before its workers were seen"
        time.sleep(0.01)
    process.kill()
    process.wait()
    gone = time.monotonic() + 10
    while alive := [pid for pid in workers if pathlib.Path(f"/proc/{pid}").exists() and not _is_zombie(pid)]:
        assert time.monotonic() < gone, f"{alive} outlived the build"
        time.sleep(0.05)


def _is_zombie(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_counts_on_disk_are_those_in_memory(tmp_path):
    rng = random.Random(3)
    held, put_away, numbers = TokenCounter(tmp_path / "a"), TokenCounter(tmp_path / "b"), NumberCounter()
    total, of_numbers = {}, {}
    for _ in range(50):
        tokens = list({f"t{int(rng.paretovariate(0.3))}" for _ in range(200)})
        counts = [rng.randint(1, 3) for _ in tokens]
        for token, count in zip(tokens, counts, strict=True):
            total[token] = total.get(token, 0) + count
            of_numbers[float(len(token))] = of_numbers.get(float(len(token)), 0) + count
        held.add(tokens, counts)
        put_away.add(tokens, counts)
        put_away.put_away()
        numbers.add(np.array([len(token) for token in tokens], float), np.array(counts), 1)
    assert not (tmp_path / "a").exists() and put_away.num_bytes == 0
    for least, also in ((1, ()), (5, ()), (5, {"t1", next(t for t, n in total.items() if n == 1)})):
        expected = {token: count for token, count in total.items() if count >= least or token in also}
        for counter in (held, put_away):
            found, counts = counter.often(least, also)
            assert dict(zip(found, counts.tolist(), strict=True)) == expected and len(found) == len(expected)
    values, counts = numbers.all()
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == of_numbers and numbers.empty == 50


def test_a_full_map_or_disk_leaves_nothing(tmp_path, ratings):
    path, _ = ratings
    with pytest.raises(StoreError, match=r"map of 20,000 bytes is full .*--map_size"):
        make(path, tmp_path / "set", map_size=20_000)
    assert os.listdir(tmp_path) == []
    arguments = ["build-lmdb", "--format=movielens-1m", f"--input={path}", f"--output={tmp_path / 'set'}"]
    for most_bytes, reason in ((2_000, "File too large"), (15_000, "train.lmdb: writing failed")):  # rows, then blocks
        program = (
            "import resource, signal, sys; from data_tools.cli import main\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, {most_bytes}))\n"
            "sys.exit(main(sys.argv[1:]))"
        )
        ended = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
        assert ended.returncode == 1 and "Traceback" not in ended.stderr
        assert ended.stderr.count("\n") == 1 and reason in ended.stderr and os.listdir(tmp_path) == []


def test_a_killed_build_leaves_nothing_that_opens_and_runs_again(tmp_path, ratings):
    path, _ = ratings
    big = tmp_path / "big.dat"
    big.write_text(path.read_text() * 40)
    arguments = [sys.executable, "-m", "data_tools", "build-lmdb", "--format=movielens-1m", f"--input={big}"]
    output = tmp_path / "set"
    undisturbed = make(big, tmp_path / "undisturbed", block_rows=8192)
    started = time.perf_counter()
    subprocess.run([*arguments, f"--output={tmp_path / 'timed'}"], check=True, capture_output=True)
    whole_s = time.perf_counter() - started
    for moment in (0.55, 0.7, 0.8, 0.9):
        process = subprocess.Popen([*arguments, f"--output={output}"], stdout=subprocess.DEVNULL)
        time.sleep(moment * whole_s)
        process.kill()
        process.wait()
        if output.exists():  # it was faster this time: then it is whole
            assert verify(output) == []
            shutil.rmtree(output)
        with pytest.raises(SchemaError):
            read_schema(tmp_path / ".set.building")
    assert make(big, output, block_rows=8192) == undisturbed
    assert not (tmp_path / ".set.building").exists() and verify(output) == []


def test_what_lacks_only_its_last_rename_is_no_data_set(tmp_path, ratings):
    make(ratings[0], tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / ".set.building")
    with pytest.raises(SchemaError, match="not a finished data set"):
        read_schema(tmp_path / ".set.building")
    with pytest.raises(SchemaError, match="not a finished data set"):
        list(inspect(tmp_path / ".set.building"))
    assert verify(tmp_path / ".set.building") != []
    make(ratings[0], tmp_path / "set")
    assert os.listdir(tmp_path) == ["set"]


def test_two_builds_of_one_output_do_not_meet(tmp_path, ratings):
    path, _ = ratings

    def intrude(message):
        with pytest.raises(DataError, match="another process is building it"):
            make(path, tmp_path / "set")

    options = BuildOptions("movielens-1m", str(tmp_path / "set"), (str(path),))
    build(options, intrude)
    assert verify(tmp_path / "set") == []


@pytest.fixture(scope="module")
def criteo(tmp_path_factory):
    """60,000 rows in Criteo's format, 15 MB, so that builds have several pieces; and an undisturbed build's seconds."""
    work = tmp_path_factory.mktemp("criteo")
    synth("criteo", 60_000, str(work / "raw"))
    began = time.perf_counter()
    subprocess.run(command(work / "raw", work / "set", "--workers=2", format="criteo"), check=True)
    return work / "raw", work / "set", time.perf_counter() - began


@pytest.mark.slow
def test_forty_kills_at_random_instants(tmp_path, criteo):
    raw, undisturbed, whole_s = criteo
    rng = random.Random(11)
    output, building = tmp_path / "set", tmp_path / ".set.building"
    killed = 0
    while killed < 40:
        process = subprocess.Popen(command(raw, output, "--workers=2", format="criteo"), stdout=subprocess.DEVNULL)
        try:
            process.wait(rng.random() * whole_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
        if output.exists():  # the last rename was done
            assert same_files(undisturbed, output)
            shutil.rmtree(output)
        elif building.exists():
            refused(building)
    subprocess.run(command(raw, output, "--workers=2", format="criteo"), check=True)
    assert same_files(undisturbed, output) and os.listdir(tmp_path) == ["set"]


def refused(directory):
    """Train, inspect and verify do not take ``directory`` for a data set."""
    for module, *arguments in (("dist_fm.train", f"--data={directory}", "--model=lr", f"--output_dir={directory}.run"),
                               ("data_tools", "inspect", directory), ("data_tools", "verify", directory)):  # fmt: skip
        done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode and "Traceback" not in done.stderr and not os.path.exists(f"{directory}.run"), (
            done.stderr
        )


@pytest.mark.slow
@pytest.mark.parametrize("room", [2, 6, 14, 20])
def test_a_full_disk_leaves_nothing_that_opens(tmp_path, criteo, room):
    """Real disks of ``room`` MB, full while rows are kept, or while blocks are written."""
    raw, undisturbed, _ = criteo
    disk, left = tmp_path / "disk", tmp_path / "left"
    disk.mkdir()
    # In a mount namespace of its own, which needs no root, and which takes the disk with it when it ends.
    alone = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    script = (
        'mount -t tmpfs -o size="$1" none "$2" || exit 9; disk=$2; left=$3; shift 3\n'
        '"$@"; code=$?; cp -r "$disk" "$left"; exit $code'
    )
    build = command(raw, disk / "set", "--workers=2", format="criteo")
    full = [*alone, "sh", "-c", script, "sh", f"{room}m", disk, left, *build]
    done = subprocess.run(full, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    if done.returncode:
        assert "Traceback" not in done.stderr and ("space" in done.stderr) and os.listdir(left) == []
    else:
        assert same_files(undisturbed, left / "set")

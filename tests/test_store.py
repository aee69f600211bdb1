"""The LMDB store of blocks: what is written is read, from anywhere, and nothing unfinished or damaged is."""

import os
import pathlib
import pickle
import resource
import signal
import subprocess
import sys
import threading

import lmdb
import numpy as np
import pytest

from dist_fm.data.records import RecordLayout, encode_block
from dist_fm.data.store import BlockStore, StoreError
from dist_fm.data.store_map import INDEX_KEY, block_key
from dist_fm.data.store_writer import BlockWriter

LAYOUT = RecordLayout(4)


def make_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 1000, (count, 4)).astype("i4")
    return LAYOUT.pack(rng.integers(0, 2, count).astype("f4"), ids)


def write(path, rows, portions=(), **options):
    with BlockWriter(path, LAYOUT, **options) as writer:
        for part in np.split(rows, portions):
            writer.append(part)
    return path


@pytest.fixture
def store_and_rows(tmp_path):
    rows = make_rows(1050)
    return BlockStore(write(tmp_path / "a.lmdb", rows, block_rows=100)), rows


@pytest.mark.parametrize("portions", [(), (1, 2, 3), (50, 250, 999), (100, 200), tuple(range(7, 1000, 7))])
def test_blocks_do_not_depend_on_how_rows_arrive(tmp_path, portions):
    rows = make_rows(1000)
    one = write(tmp_path / "one", rows, block_rows=64)
    other = write(tmp_path / "other", rows, portions, block_rows=64)
    assert (one / "data.mdb").read_bytes() == (other / "data.mdb").read_bytes()
    store = BlockStore(other)
    assert [len(store.block(i)) for i in range(store.num_blocks)] == [64] * 15 + [40]
    np.testing.assert_array_equal(np.concatenate([store.block(i) for i in range(16)]), rows)


def test_gather_and_slice_equal_plain_indexing(store_and_rows):
    store, rows = store_and_rows
    rng = np.random.default_rng(1)
    for size in (1, 7, 1050, 3000):
        indices = rng.integers(0, 1050, size)
        np.testing.assert_array_equal(store.gather(indices), rows[indices])
    for start, stop in rng.integers(0, 1051, (200, 2)):
        if start <= stop:
            np.testing.assert_array_equal(store.slice(start, stop), rows[start:stop])
    assert store.gather(np.array([], np.int64)).shape == (0, LAYOUT.words)
    assert store.meta.positives == int(LAYOUT.labels(rows).sum())


@pytest.mark.parametrize("call", [lambda s: s.gather([1050]), lambda s: s.gather([-1]), lambda s: s.slice(0, 1051)])
def test_rows_outside_are_an_error_not_a_crash(store_and_rows, call):
    with pytest.raises(IndexError, match="1050 rows"):
        call(store_and_rows[0])


def test_empty_store(tmp_path):
    store = BlockStore(write(tmp_path / "e", make_rows(0)))
    assert (store.rows, store.num_blocks) == (0, 0)
    assert store.gather([]).shape == store.slice(0, 0).shape == (0, LAYOUT.words)


def test_one_file_opens_many_times_and_arrays_outlive_close(store_and_rows):
    store, rows = store_and_rows
    second = BlockStore(store.path)
    block = store.block(3)
    store.close()
    second.close()
    with pytest.raises(StoreError, match="closed"):
        store.block(0)
    del store, second
    np.testing.assert_array_equal(block, rows[300:400])


def test_a_rebuilt_store_is_read_anew(tmp_path):
    write(tmp_path / "s", make_rows(10, seed=1))
    old = BlockStore(tmp_path / "s")
    (tmp_path / "s").rename(tmp_path / "old")
    write(tmp_path / "s", make_rows(20, seed=2))
    assert (old.rows, BlockStore(tmp_path / "s").rows) == (10, 20)


def test_pickle_and_fork_and_threads(store_and_rows):
    store, rows = store_and_rows
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).gather([5, 4]), rows[[5, 4]])
    pid = os.fork()
    if pid == 0:
        try:
            good = (store.gather([1049, 3]) == rows[[1049, 3]]).all() and BlockStore(store.path).rows == 1050
            store.close()
            os._exit(0 if good else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    results = []

    def read(seed):
        indices = np.random.default_rng(seed).integers(0, 1050, 500)
        results.append(all((store.gather(indices) == rows[indices]).all() for _ in range(50)))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4


def test_a_flipped_bit_is_named_by_file_and_block(tmp_path):
    path = write(tmp_path / "s", make_rows(1000), block_rows=500)
    data = bytearray((path / "data.mdb").read_bytes())
    at = data.index(make_rows(1000)[500:].tobytes()[:200])
    data[at + 77] ^= 4
    (path / "data.mdb").write_bytes(data)
    store = BlockStore(path)
    assert len(store.block(0)) == 500
    for read in (lambda: store.block(1), lambda: store.gather([3, 700]), lambda: store.slice(400, 600)):
        with pytest.raises(StoreError, match=r"s: block 1: the checksum does not match"):
            read()


def test_a_cut_file_is_an_error_not_a_crash(tmp_path):
    path = write(tmp_path / "s", make_rows(5000), block_rows=500)
    data = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match="cut short"):
        BlockStore(path)


def mapped_bytes(path):
    """How much of a file's mapping this process has touched."""
    lines = iter(pathlib.Path("/proc/self/smaps").read_text().splitlines())
    return sum(int(next(line for line in lines if line.startswith("Rss:")).split()[1]) << 10
               for line in lines if line.endswith(str(path / "data.mdb")))  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs Linux's /proc")
@pytest.mark.parametrize("count", [200_000, 195_001])  # the last block is whole, or so short that it is in the B-tree
def test_opening_reads_few_blocks(tmp_path, count):
    rows = make_rows(count)
    path = write(tmp_path / "s", rows, block_rows=5000)
    store = BlockStore(path)
    assert mapped_bytes(path) < 0.3 * (path / "data.mdb").stat().st_size
    np.testing.assert_array_equal(store.slice(0, count), rows)
    assert mapped_bytes(path) > 0.9 * (path / "data.mdb").stat().st_size


def test_blocks_that_lie_elsewhere_than_noted_are_found(tmp_path):
    rows = make_rows(20_000)
    path = write(tmp_path / "s", rows, block_rows=1500)
    rows[18_000:19_500] = make_rows(1500, seed=1)
    with lmdb.open(str(path), map_size=1 << 30) as env, env.begin(write=True) as transaction:
        transaction.put(block_key(12), encode_block(rows[18_000:19_500]))  # to other pages than before
    np.testing.assert_array_equal(BlockStore(path).gather(np.arange(20_000)), rows)


def test_a_damaged_note_of_where_blocks_lie_is_not_followed(tmp_path):
    rows = make_rows(20_000)
    path = write(tmp_path / "s", rows, block_rows=1500)
    data = bytearray((path / "data.mdb").read_bytes())
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        noted = transaction.get(INDEX_KEY)
    data[data.rindex(noted) + 4 + 8 * 3 + 2] ^= 1
    (path / "data.mdb").write_bytes(data)
    np.testing.assert_array_equal(BlockStore(path).gather(np.arange(20_000)), rows)


def test_a_missing_block_is_an_error(tmp_path):
    path = write(tmp_path / "s", make_rows(20_000), block_rows=1500)
    with lmdb.open(str(path), map_size=1 << 30) as env, env.begin(write=True) as transaction:
        transaction.delete(block_key(3))
    with pytest.raises(StoreError, match="13 of 14 blocks are there"):
        BlockStore(path)


def test_absent_and_foreign_stores(tmp_path):
    with pytest.raises(StoreError, match="no such store"):
        BlockStore(tmp_path / "none")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "data.mdb").write_bytes(b"hello" * 10000)
    with pytest.raises(StoreError, match="cannot be opened"):
        BlockStore(tmp_path / "x")
    write(tmp_path / "s", make_rows(10))
    with pytest.raises(StoreError, match="cannot create"):
        write(tmp_path / "s", make_rows(10))
    assert BlockStore(tmp_path / "s").rows == 10


def test_full_map_leaves_nothing(tmp_path):
    with pytest.raises(StoreError, match=r"map of 1,000,000 bytes is full .*--map_size"):
        write(tmp_path / "s", make_rows(200_000), block_rows=1000, map_size=1_000_000)
    assert not (tmp_path / "s").exists()


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), BlockWriter(tmp_path / "s", LAYOUT, block_rows=10) as writer:
        writer.append(make_rows(25))
        raise ZeroDivisionError
    assert not (tmp_path / "s").exists()


def test_full_disk_leaves_nothing(tmp_path):
    """A file size limit stands in for a full disk: to LMDB both are a failed write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(StoreError, match="writing failed .*free some disk space"):
            write(tmp_path / "s", make_rows(100_000), block_rows=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not (tmp_path / "s").exists()


def test_a_killed_writer_leaves_nothing_that_opens(tmp_path):
    program = (
        "import sys, numpy as np; from dist_fm.data.store_writer import BlockWriter, RecordLayout\n"
        "writer = BlockWriter(sys.argv[1], RecordLayout(4), block_rows=100000)\n"
        "for i in range(10**9):\n"
        "    writer.append(np.zeros((100000, 5), '<i4'))\n"
        "    if i == 60: print('go', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path / "s"], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.kill()
    process.wait()
    with pytest.raises(StoreError, match="not a finished store"):
        BlockStore(tmp_path / "s")

"""Which rows are for training, validation and test. Axes: N rows."""

import hashlib
from collections.abc import Sequence

import numpy as np

from data_tools.errors import DataError

SPLITS = ("train", "valid", "test")
KINDS = ("random", "time", "order", "user", "leave_one_out", "none", "files")
NEEDS_TIMES = ("time", "leave_one_out")
NEEDS_USERS = ("user", "leave_one_out")
_CHUNK = 1 << 20


def parse_fractions(text: str) -> tuple[float, float, float]:
    """``0.8,0.1,0.1`` as three numbers that sum to 1; raises ``DataError``."""
    try:
        train, valid, test = (float(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"--fractions={text}: needs three numbers, as in --fractions=0.8,0.1,0.1") from None
    if min(train, valid, test) < 0 or not train or abs(train + valid + test - 1) > 1e-6:
        raise DataError(f"--fractions={text}: fractions of train, valid and test must sum to 1, and train not be 0")
    return train, valid, test


def assign(
    kind: str,
    num_rows: int,
    fractions: tuple[float, float, float],
    seed: int,
    times: np.ndarray | None = None,
    user_codes: np.ndarray | None = None,
    users: Sequence[str] = (),
) -> np.ndarray:
    """The split of each row, an index into ``SPLITS``: uint8 [N].

    ``times`` [N] are needed by ``NEEDS_TIMES``, ``user_codes`` [N] into ``users`` by ``NEEDS_USERS``.
    """
    if kind == "none":
        return np.zeros(num_rows, np.uint8)
    if kind == "random":
        parts = [
            _cut(uniform(np.arange(start, min(start + _CHUNK, num_rows)), seed), fractions)
            for start in range(0, num_rows, _CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    if kind == "order":
        return _by_rank(np.arange(num_rows), fractions)
    if kind == "time":
        assert times is not None
        return _by_rank(np.argsort(times, kind="stable"), fractions)  # ties by row number
    assert user_codes is not None
    if kind == "user":
        keys = [hashlib.blake2b(user.encode(), digest_size=8).digest() for user in users]
        return _cut(uniform(np.frombuffer(b"".join(keys), "<u8"), seed), fractions)[user_codes]
    assert kind == "leave_one_out" and times is not None
    return _leave_one_out(user_codes, times)


def uniform(keys: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each integer key and the seed, by splitmix64: float64, the same on every machine."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    start = _mix(np.array([seed % 2**64], np.uint64) + golden)
    mixed = _mix(start + (keys.astype(np.uint64) + np.uint64(1)) * golden)
    return (mixed >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _cut(numbers: np.ndarray, fractions: tuple[float, float, float]) -> np.ndarray:
    return np.searchsorted(np.cumsum(fractions[:2]), numbers, side="right").astype(np.uint8)


def _by_rank(order: np.ndarray, fractions: tuple[float, float, float]) -> np.ndarray:
    """The rows in ``order``: the first fraction to train, the next to valid, the rest to test."""
    splits = np.full(len(order), 2, np.uint8)
    train, valid = np.rint(np.cumsum(fractions[:2]) * len(order)).astype(int)
    splits[order[:valid]] = 1
    splits[order[:train]] = 0
    return splits


def _leave_one_out(user_codes: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Each user's last row by time to test, the one before to valid; users with fewer than 3 rows stay in train."""
    splits = np.zeros(len(times), np.uint8)
    order = np.lexsort((times, user_codes))  # stable: ties by row number
    codes = user_codes[order]
    last = np.flatnonzero(np.append(codes[1:] != codes[:-1], len(codes) > 0))
    last = last[np.diff(last, prepend=-1) >= 3]
    splits[order[last]] = 2
    splits[order[last - 1]] = 1
    return splits

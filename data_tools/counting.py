"""How often training rows hold each token or number, within a given memory. Axes: U distinct ones."""

import pathlib
import pickle
from collections.abc import Container, Iterable, Iterator, Sequence

import numpy as np
import xxhash

PARTITIONS = 64
_TOKEN_BYTES = 180  # a short string, its count and their place in a dictionary


class TokenCounter:
    """Counts tokens. Told to, it puts the counts so far into ``directory``, cut into parts by a hash of the token.

    A token is always in the same part, so that in the end one part at a time is added up: memory holds the tokens that
    occur often enough, and not all those that occur once.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        self._counts: dict[str, int] = {}
        self._on_disk = False

    @property
    def num_bytes(self) -> int:
        """Of memory, about."""
        return len(self._counts) * _TOKEN_BYTES

    def add(self, tokens: Iterable[str], counts: Iterable[int]) -> None:
        held = self._counts
        for token, count in zip(tokens, counts, strict=True):
            held[token] = held.get(token, 0) + count

    def often(self, min_count: int, also: Container[str] = ()) -> tuple[list[str], np.ndarray]:
        """The tokens counted ``min_count`` times or more, and those in ``also``, with their counts int64 [U]."""
        found: list[str] = []
        counts: list[int] = []
        for part in self._parts():
            kept = [(token, count) for token, count in part.items() if count >= min_count or token in also]
            found += [token for token, _ in kept]
            counts += [count for _, count in kept]
        return found, np.array(counts, np.int64)

    def put_away(self) -> None:
        """Empties the memory."""
        self._directory.mkdir(parents=True, exist_ok=True)
        parts: list[dict[str, int]] = [{} for _ in range(PARTITIONS)]
        for token, count in self._counts.items():
            parts[xxhash.xxh64_intdigest(token.encode()) % PARTITIONS][token] = count
        for number, part in enumerate(parts):
            with open(self._directory / f"{number:03}", "ab") as file:
                pickle.dump(part, file, protocol=5)
        self._counts, self._on_disk = {}, True

    def _parts(self) -> Iterator[dict[str, int]]:
        if not self._on_disk:
            yield self._counts
            return
        self.put_away()
        for path in sorted(self._directory.iterdir()):
            total: dict[str, int] = {}
            with open(path, "rb") as file:
                while file.peek(1):
                    for token, count in pickle.load(file).items():
                        total[token] = total.get(token, 0) + count
            yield total


class NumberCounter:
    """Counts numbers, 16 bytes for each distinct one, and empty cells."""

    def __init__(self) -> None:
        self.empty = 0
        self._numbers, self._counts = np.zeros(0), np.zeros(0, np.int64)
        self._added: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(self, numbers: np.ndarray, counts: np.ndarray, empty: int) -> None:
        self.empty += empty
        self._added.append((numbers, counts))
        self._waiting += len(numbers)
        if self._waiting > max(len(self._numbers), 1 << 16):  # so that each number is sorted in a few times
            self._merge()

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct numbers, ascending, float64 [U], and how often each was counted, int64 [U]."""
        self._merge()
        return self._numbers, self._counts

    def _merge(self) -> None:
        numbers = np.concatenate([self._numbers, *(part for part, _ in self._added)])
        counts = np.concatenate([self._counts, *(part for _, part in self._added)])
        self._numbers, inverse = np.unique(numbers, return_inverse=True)
        self._counts = np.bincount(inverse, counts, len(self._numbers)).astype(np.int64)
        self._added, self._waiting = [], 0


def count_tokens(lists: Sequence[Sequence[str | None]], counts: np.ndarray) -> dict[str, int]:
    """How often each token occurs in lists that occur ``counts`` times each; None is no token."""
    totals: dict[str, int] = {}
    for tokens, count in zip(lists, counts.tolist(), strict=True):
        for token in tokens:
            if token is not None:
                totals[token] = totals.get(token, 0) + count
    return totals

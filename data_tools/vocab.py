"""A vocabulary: the values of a field in the order of their ids, from 1 on; id 0 is every value not in it.

On disk it is ``vocab/<name>.tsv``: line number = id, then the value (escaped) and how often training rows hold it.
"""

import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np

from data_tools.errors import DataError

UNSEEN = 0
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_TRANSLATION = str.maketrans(_ESCAPES)


class Vocabulary:
    """``values[i]`` and ``counts[i]`` belong to id ``i + 1``."""

    def __init__(self, values: Sequence[str], counts: np.ndarray):
        self.values = list(values)
        self.counts = np.asarray(counts, np.int64)
        self._ids: dict[str | None, int] = {value: number + 1 for number, value in enumerate(self.values)}

    def __contains__(self, value: object) -> bool:
        return value in self._ids

    @property
    def rows(self) -> int:
        """Table rows it needs: one a value, and one for the unseen."""
        return len(self.values) + 1

    @classmethod
    def choose(cls, values: Sequence[str], counts: np.ndarray, min_count: int) -> "Vocabulary":
        """The vocabulary of distinct ``values`` [U] by their training ``counts`` [U].

        A value seen less than ``min_count`` times (or never) is left out. Ids go by count, ties by value.
        """
        counts = np.asarray(counts, np.int64)
        kept = np.flatnonzero(counts >= max(min_count, 1))
        order = sorted(kept.tolist(), key=lambda index: (-counts[index], values[index]))
        return cls([values[index] for index in order], counts[order])

    def grown(self, values: Sequence[str], counts: np.ndarray, min_count: int) -> "Vocabulary":
        """This one, and behind it the ``values`` [U] it lacks that ``counts`` [U] says occur ``min_count`` times.

        Counts are those of the new rows.
        """
        now = dict(zip(values, np.asarray(counts).tolist(), strict=True))
        new = {value: count for value, count in now.items() if value not in self._ids}
        added = Vocabulary.choose(list(new), np.array(list(new.values()), np.int64), min_count)
        old = np.array([now.get(value, 0) for value in self.values], np.int64)
        return Vocabulary([*self.values, *added.values], np.concatenate([old, added.counts]))

    def ids(self, tokens: Sequence[str | None]) -> np.ndarray:
        """The id of each token, 0 for one that it does not hold (or None): int32 [N]."""
        get = self._ids.get
        return np.fromiter((get(token, UNSEEN) for token in tokens), np.int32, len(tokens))

    def to_bytes(self) -> bytes:
        pairs = zip(self.values, self.counts.tolist(), strict=True)
        return "".join(f"{escape(value)}\t{count}\n" for value, count in pairs).encode()

    def save(self, path: pathlib.Path) -> str:
        """Writes the file; returns its SHA-256."""
        data = self.to_bytes()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    @classmethod
    def load(cls, path: pathlib.Path, sha256: str | None) -> "Vocabulary":
        """Reads the file; raises ``DataError`` if it is absent, or not the one whose SHA-256 is given."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: the vocabulary cannot be read: {error.strerror}") from error
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise DataError(f"{path}: the vocabulary was changed: it is not the one that the schema was made with")
        values, counts = [], []
        for number, line in enumerate(data.decode().split("\n")[:-1], start=1):
            value, tab, count = line.rpartition("\t")
            if not tab or not count.isdigit():
                raise DataError(f"{path}:{number}: not a value, a tab and a count: {line[:80]!r}")
            values.append(unescape(value))
            counts.append(int(count))
        return cls(values, np.array(counts, np.int64))


def escape(text: str) -> str:
    """``text`` without tabs and line breaks."""
    return text.translate(_TRANSLATION)


def unescape(text: str) -> str:
    if "\\" not in text:
        return text
    parts = text.split("\\\\")
    for escaped, plain in (("\\t", "\t"), ("\\n", "\n"), ("\\r", "\r")):
        parts = [part.replace(escaped, plain) for part in parts]
    return "\\".join(parts)

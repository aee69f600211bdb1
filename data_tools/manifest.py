"""The manifest: written last, it makes a directory a data set and says what it was built from."""

import dataclasses
import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

from data_tools.errors import DataError
from dist_fm.data.schema import FORMAT_VERSION, is_finished

MANIFEST = "manifest.json"
QUARANTINE = "quarantine.tsv"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """``rows_in`` = the rows of all splits + ``rows_quarantined``; of inputs that were cut, only what was read, and
    sampled negatives are rows too.

    ``files`` has ``bytes`` and ``crc32`` of every other file; of LMDBs only the bytes, as each block has its checksum.
    """

    fingerprint: str
    options: Mapping[str, Any]
    inputs: list[dict[str, Any]]
    rows_in: int
    rows_quarantined: int
    splits: Mapping[str, Mapping[str, int]]
    files: Mapping[str, Mapping[str, int]]
    version: int = FORMAT_VERSION

    def save(self, directory: pathlib.Path) -> None:
        path = directory / MANIFEST
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        sync_file(path)

    @classmethod
    def load(cls, directory: pathlib.Path) -> "Manifest":
        """Raises ``DataError`` if there is none, or one that cannot be read."""
        path = directory / MANIFEST
        if not is_finished(directory):
            raise DataError(f"{directory} has no {MANIFEST}, so it is not a finished data set")
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            if about["version"] != FORMAT_VERSION:
                raise DataError(f"{path}: version {about['version']}; this data_tools reads version {FORMAT_VERSION}")
            return cls(**about)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path} is damaged: {error}") from error


def describe_files(directory: pathlib.Path) -> dict[str, dict[str, int]]:
    """What a manifest says of the files below ``directory``: by relative path, sorted."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(directory).as_posix(): _describe(path) for path in paths}


def _describe(path: pathlib.Path) -> dict[str, int]:
    if path.suffix == ".mdb":
        return {"bytes": path.stat().st_size}
    size, crc32 = sum_file(path)
    return {"bytes": size, "crc32": crc32}


def sum_file(path: str | os.PathLike) -> tuple[int, int]:
    """The size and CRC-32 of a file; raises ``DataError`` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            crc32 = 0
            while data := file.read(1 << 20):
                crc32 = zlib.crc32(data, crc32)
            return file.tell(), crc32
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def sync_file(path: pathlib.Path) -> None:
    """Waits until a file's content is on disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())

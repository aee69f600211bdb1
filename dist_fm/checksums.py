"""Checksums of a checkpoint's files, taken once it is whole, so that damage to it is noticed before it is used."""

import json
import os
import pathlib

import xxhash

NAME = "checksums.json"
_AT_ONCE = 1 << 22  # bytes


def record_missing(directory: pathlib.Path) -> None:
    """Writes checksums.json (file: bytes, xxh3-64) into every checkpoint below ``directory`` that has none."""
    for checkpoint in directory.iterdir():
        if checkpoint.name.isdigit() and not (checkpoint / NAME).exists():
            found = {str(path.relative_to(checkpoint)): _describe(path) for path in _files(checkpoint)}
            beside = checkpoint / f".{NAME}.{os.getpid()}"
            beside.write_text(json.dumps(found, indent=1), encoding="utf-8")
            os.replace(beside, checkpoint / NAME)


def damage(checkpoint: pathlib.Path) -> str | None:
    """What is wrong with ``checkpoint``'s files by its checksums; None when nothing is, or it has none."""
    try:
        expected = json.loads((checkpoint / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:  # the run was killed before they were taken
        return None
    except ValueError:
        return f"{checkpoint / NAME} is not JSON"
    for name, about in expected.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{path} is missing"
        found = _describe(path)
        if found["bytes"] != about["bytes"]:
            return f"{path} has {found['bytes']} bytes, not {about['bytes']}"
        if found["xxh3"] != about["xxh3"]:
            return f"{path} was changed after it was written (checksum {found['xxh3']}, not {about['xxh3']})"
    return None


def _files(checkpoint: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and NAME not in path.name)


def _describe(path: pathlib.Path) -> dict[str, int | str]:
    digest, size = xxhash.xxh3_64(), 0
    with open(path, "rb") as file:
        while part := file.read(_AT_ONCE):
            digest.update(part)
            size += len(part)
    return {"bytes": size, "xxh3": digest.hexdigest()}

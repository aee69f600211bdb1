"""Checksums of a checkpoint's files, taken just before Orbax gives it its name, so that later damage is noticed."""

import json
import pathlib

import xxhash

NAME = "checksums.json"
_AT_ONCE = 1 << 22  # bytes
_WRITING = ".orbax-checkpoint-tmp"
_NOT_SUMMED = (NAME, "_CHECKPOINT_METADATA", "commit_success.txt")  # which Orbax writes when it renames


def record(directory: pathlib.Path) -> None:
    """Writes checksums.json (file: bytes, xxh3-64) into every checkpoint below ``directory`` that is being written."""
    for checkpoint in directory.glob(f"*{_WRITING}"):
        found = {str(path.relative_to(checkpoint)): _describe(path) for path in _files(checkpoint)}
        (checkpoint / NAME).write_text(json.dumps(found, indent=1), encoding="utf-8")


def damage(checkpoint: pathlib.Path) -> str | None:
    """What is wrong with ``checkpoint``'s files by its checksums; None when nothing is."""
    try:
        expected = json.loads((checkpoint / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{checkpoint / NAME} is missing"
    except (OSError, ValueError) as error:
        return f"{checkpoint / NAME} cannot be read: {error}"
    for name, about in expected.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{path} is missing"
        try:
            found = _describe(path)
        except OSError as error:
            return f"{path} cannot be read: {error}"
        if found["bytes"] != about["bytes"]:
            return f"{path} has {found['bytes']} bytes, not {about['bytes']}"
        if found["xxh3"] != about["xxh3"]:
            return f"{path} was changed after it was written (checksum {found['xxh3']}, not {about['xxh3']})"
    return None


def _files(checkpoint: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name not in _NOT_SUMMED)


def _describe(path: pathlib.Path) -> dict[str, int | str]:
    digest, size = xxhash.xxh3_64(), 0
    with open(path, "rb") as file:
        while part := file.read(_AT_ONCE):
            digest.update(part)
            size += len(part)
    return {"bytes": size, "xxh3": digest.hexdigest()}

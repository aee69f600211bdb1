"""Checksums of a checkpoint's files, taken just before Orbax gives it its name, so that later damage is noticed."""

import json
import pathlib

from data_tools.errors import DataError
from data_tools.manifest import sum_file

NAME = "checksums.json"
_WRITING = ".orbax-checkpoint-tmp"
_NOT_SUMMED = (NAME, "_CHECKPOINT_METADATA", "commit_success.txt")  # which Orbax writes when it renames


def record(directory: pathlib.Path) -> None:
    """Writes checksums.json (file: bytes, CRC-32) into every checkpoint below ``directory`` that is being written."""
    for checkpoint in directory.glob(f"*{_WRITING}"):
        found = {str(path.relative_to(checkpoint)): sum_file(path) for path in _files(checkpoint)}
        (checkpoint / NAME).write_text(json.dumps(found, indent=1), encoding="utf-8")


def damage(checkpoint: pathlib.Path) -> str | None:
    """What is wrong with ``checkpoint``'s files by its checksums; None when nothing is."""
    try:
        expected = json.loads((checkpoint / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{checkpoint / NAME} is missing"
    except (OSError, ValueError) as error:
        return f"{checkpoint / NAME} cannot be read: {error}"
    for name, (size, crc32) in expected.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{path} is missing"
        try:
            found_size, found_crc32 = sum_file(path)
        except DataError as error:
            return str(error)
        if found_size != size:
            return f"{path} has {found_size} bytes, not {size}"
        if found_crc32 != crc32:
            return f"{path} was changed after it was written (CRC-32 {found_crc32:08x}, not {crc32:08x})"
    return None


def _files(checkpoint: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name not in _NOT_SUMMED)

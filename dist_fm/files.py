"""Files and directories that are whole or not there."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path beside ``path`` to write to, of the same suffix; it takes ``path``'s place when the block ends well.

    A reader never sees half of a file. When the block raises, what it wrote is removed, and ``path`` is as it was.
    """
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def new_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory beside ``path`` to write to, which becomes ``path`` when the block ends well; else it is removed.

    Of ``path``, which is to be empty or absent, the directory that it lies in must be there.
    """
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    beside.mkdir()
    try:
        yield beside
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes ``text`` to ``path`` and to the disk, whole or not at all."""
    with replacing(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())

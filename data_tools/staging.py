"""A directory that appears whole or not at all: made beside its place, renamed into it at the end."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator

from data_tools.errors import DataError
from data_tools.manifest import MANIFEST
from dist_fm.data.schema import BUILDING
from dist_fm.data.store_writer import sync_directory


@contextlib.contextmanager
def staged(output: pathlib.Path, *, overwrite: bool) -> Iterator[pathlib.Path]:
    """Yields an empty directory that becomes ``output`` when the block ends well, and is removed when it does not.

    What a killed process left is removed first. Raises ``DataError`` if another process is building ``output``, or if
    ``output`` exists and is not an empty directory or, with ``overwrite``, a data set.
    """
    check_output(output, overwrite=overwrite)
    staging = output.with_name(f".{output.name}{BUILDING}")
    staging.mkdir(parents=True, exist_ok=True)
    with _locked(staging, output):
        try:
            _empty(staging)
            yield staging
            sync_directory(staging)
            _replace(output, staging)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


@contextlib.contextmanager
def _locked(staging: pathlib.Path, output: pathlib.Path) -> Iterator[None]:
    """Holds a lock that ends with the process, however it ends."""
    descriptor = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.stat(staging)):  # renamed by its builder meanwhile
            raise BlockingIOError
        yield
    except (BlockingIOError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError) and error.filename != os.fspath(staging):
            raise
        raise DataError(f"{output}: another process is building it") from None
    finally:
        os.close(descriptor)


def _empty(directory: pathlib.Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def check_output(output: pathlib.Path, *, overwrite: bool) -> None:
    """Raises ``DataError`` unless ``output`` can be written."""
    if not output.name:
        raise DataError(f"--output={output}: needs a directory of its own")
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} exists and is not a directory")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not (output / MANIFEST).is_file():
        raise DataError(f"{output} exists and is not a data set; remove it, or give another --output")
    if not overwrite:
        raise DataError(f"{output} exists and was built with other options; --overwrite replaces it")


def _replace(output: pathlib.Path, staging: pathlib.Path) -> None:
    if output.exists():
        old = output.with_name(f".{output.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        output.rename(old)
        staging.rename(output)
        shutil.rmtree(old)
    else:
        staging.rename(output)
    sync_directory(output.parent)

"""Raw files as bytes, plain or compressed (.gz, .zst), with the size and checksum of what lies on disk."""

import gzip
import io
import os
import zlib
from typing import BinaryIO, cast

import zstandard

from data_tools.errors import DataError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_PORTION = 1 << 17  # bytes of a compressed file read at a time


class RawFile:
    """Reads the text of the file at ``path``; ``crc32`` is that of its bytes on disk, once all is read.

    How it is compressed is told by its first bytes. Raises ``DataError`` if it cannot be read or is damaged.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            self._disk = _Summed(path)
            first = self._disk.peek()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        self.total_bytes = os.fstat(self._disk.file.fileno()).st_size
        self.compressed = first.startswith((_GZIP, _ZSTD))
        self._text: io.RawIOBase | gzip.GzipFile | _Zstd = self._disk
        if first.startswith(_GZIP):
            self._text = gzip.GzipFile(fileobj=cast(BinaryIO, self._disk), mode="rb")
        elif first.startswith(_ZSTD):
            self._text = _Zstd(self._disk)

    @property
    def crc32(self) -> int:
        return self._disk.crc32

    def read(self, num_bytes: int) -> bytes:
        """Up to ``num_bytes`` of text; empty at its end."""
        try:
            return self._text.read(num_bytes) or b""
        except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            raise DataError(f"{self.path}: the compressed file is damaged or cut short: {error}") from error
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from error

    def close(self) -> None:
        self._disk.close()

    def __enter__(self) -> "RawFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Summed(io.RawIOBase):
    """The bytes of a file, summed up as they are read."""

    def __init__(self, path: str):
        self.file = open(path, "rb")
        self.crc32 = 0

    def peek(self) -> bytes:
        first = self.file.read(4)
        self.file.seek(0)
        return first

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = self.file.readinto(buffer)
        self.crc32 = zlib.crc32(memoryview(buffer)[:count], self.crc32)
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


class _Zstd:
    """The text of consecutive zstd frames. (The library's own reader ends without an error where a file is cut.)"""

    def __init__(self, disk: io.RawIOBase):
        self._disk, self._text = disk, b""
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def read(self, num_bytes: int) -> bytes:
        while len(self._text) < num_bytes:
            data = self._frame.unused_data if self._frame is not None and self._frame.eof else b""
            data = data or self._disk.read(_PORTION) or b""
            if not data:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("it ends within a frame")
                break
            if self._frame is None or self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._text += self._frame.decompress(data)
        text, self._text = self._text[:num_bytes], self._text[num_bytes:]
        return text

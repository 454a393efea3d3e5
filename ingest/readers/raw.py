"""Raw bytes: counted and hashed as they pass, unpacked when they are gzip or zstd.

Compression is told by the first bytes, never by the name. A stream that breaks half-way hands on
everything before the break, ends, and keeps the reason as `fault`.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import xxhash
import zstandard

from ...schemas.errors import InputError

CHUNK_BYTES = 1 << 18
ZSTD_STEP_BYTES = 512  # at most 128 KB out for 4 bytes in, so one step stays under 16 MB
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE = tuple(bytes([low, 0x2A, 0x4D, 0x18]) for low in range(0x50, 0x60))
FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"%PDF": "a PDF",
    b"\x89PNG": "a PNG image",
    b"\x7fELF": "a program",
}


class HashedFile:
    """A binary file read from start to end: `bytes_read` and the hash of what passed so far."""

    def __init__(self, handle: BinaryIO | Any, size: int | None) -> None:
        self._handle, self.size, self.bytes_read = handle, size, 0
        self._hash = xxhash.xxh3_64()
        self._ahead = b""

    def peek(self, count: int) -> bytes:
        """The next `count` bytes (fewer at the end), left to be read again."""
        while len(self._ahead) < count and (more := self._handle.read(count - len(self._ahead))):
            self._ahead += more
        return self._ahead[:count]

    def read(self, count: int = CHUNK_BYTES) -> bytes:
        """Up to `count` bytes, b"" at the end."""
        if self._ahead:
            data, self._ahead = self._ahead[:count], self._ahead[count:]
        else:
            data = self._handle.read(count)
        self._hash.update(data)
        self.bytes_read += len(data)
        return data

    def drain(self) -> str:
        """Read what is left and give the xxh3 (64 bits, hexadecimal) of the whole file."""
        while self.read(CHUNK_BYTES):
            continue
        return self._hash.hexdigest()

    def close(self) -> None:
        """Close the file underneath."""
        self._handle.close()


class ByteStream:
    """The unpacked bytes of a file in chunks of at most 256 KB."""

    def __init__(self, raw: HashedFile, file: str) -> None:
        self.raw, self.file = raw, file
        self.unpacked = 0
        self.fault: InputError | None = None
        head = raw.peek(8)
        for magic, name in FOREIGN.items():
            if head.startswith(magic):
                raise InputError(file, f"it is {name}", "Unpack or convert it first")
        if head.startswith(GZIP_MAGIC):
            self.compression = "gzip"
        elif head.startswith((ZSTD_MAGIC, *ZSTD_SKIPPABLE)):
            self.compression = "zstd"
        else:
            self.compression = ""

    def fail(self, problem: str) -> None:
        """Note why the file ends early; the first reason stays."""
        if self.fault is None:
            self.fault = InputError(
                self.file,
                problem,
                "What was read before is kept; fetch the file again and repeat the ingestion",
            )

    def __iter__(self) -> Iterator[bytes]:
        unpack = {"gzip": self._gunzip, "zstd": self._unzstd, "": self._plain}[self.compression]
        for chunk in unpack():
            self.unpacked += len(chunk)
            yield chunk

    def _plain(self) -> Iterator[bytes]:
        while chunk := self.raw.read(CHUNK_BYTES):
            yield chunk

    def _gunzip(self) -> Iterator[bytes]:
        # read1 makes one raw read, so nothing decoded before an error is lost with it.
        archive = gzip.GzipFile(fileobj=cast(Any, self.raw), mode="rb")
        try:
            while chunk := archive.read1(CHUNK_BYTES):
                yield chunk
        except EOFError:
            self.fail("the gzip archive is cut off")
        except gzip.BadGzipFile as error:
            self.fail(f"the gzip archive is damaged ({error})")
        except zlib.error as error:
            self.fail(f"the gzip archive is damaged ({error})")

    def _unzstd(self) -> Iterator[bytes]:
        frame = zstandard.ZstdDecompressor().decompressobj()
        fed = False
        try:
            while data := self.raw.read(ZSTD_STEP_BYTES):
                while data:
                    if frame.eof:
                        frame, fed = zstandard.ZstdDecompressor().decompressobj(), False
                    chunk = frame.decompress(data)
                    for start in range(0, len(chunk), CHUNK_BYTES):
                        yield chunk[start : start + CHUNK_BYTES]
                    fed, data = True, frame.unused_data if frame.eof else b""
        except zstandard.ZstdError as error:
            self.fail(f"the zstd archive is damaged ({error})")
            return
        if fed and not frame.eof:
            self.fail("the zstd archive is cut off")

"""The bytes of a file as UTF-8 text and lines: hashed, decompressed, decoded, split.

Compression (gzip, zstd, xz, bzip2) is recognised by the first bytes, never by the name. A stream
that breaks half-way yields everything before the break and keeps the reason as `fault`. UTF-8
passes untouched; UTF-16 and UTF-32 are recognised by a byte order mark or by their zeros. No other
encoding is guessed: bytes that are not UTF-8 stay, so that the record that holds them is rejected
with its line; `--encoding` names the encoding of a file.

Readers turn the lines into rows `(line, value)`. The line is counted from 1: the physical line in
line-based files, the number of the record in arrays and tables. The value is JSON, or a
`BadRecord`.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, cast

import xxhash
import zstandard

from ...schemas.errors import InputError, UsageError

MAX_RECORD_BYTES = 8_000_000
"""A single record over this many bytes is rejected before it is parsed."""

EXCERPT_CHARACTERS = 200
CUT_OFF = "cut off: the file ends inside this record"
NOT_UTF8 = "not UTF-8: --encoding latin-1 reads it if it is ISO-8859-1"


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that could not be read; reasons are counted up to their first colon."""

    reason: str
    excerpt: str = ""


Row = tuple[int, Any]


def excerpt_of(raw: bytes | str) -> str:
    """The first 200 characters of `raw`, with escapes for what is not UTF-8."""
    if isinstance(raw, str):
        raw = raw[:EXCERPT_CHARACTERS].encode("utf-8", "backslashreplace")
    text = raw[: 4 * EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace")
    return text[:EXCERPT_CHARACTERS].strip()


def oversize_record(size: int, head: bytes | str) -> BadRecord:
    """Why a record of `size` bytes is rejected."""
    return BadRecord(f"record over 8 MB: {size:,} bytes", excerpt_of(head))


CHUNK_BYTES = 1 << 18
ZSTD_STEP_BYTES = 512  # at most 128 KB out for 4 bytes in, so one step stays under 16 MB
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE = tuple(bytes([low, 0x2A, 0x4D, 0x18]) for low in range(0x50, 0x60))
XZ_MAGIC = b"\xfd7zXZ\x00"
BZIP2_MAGIC = b"BZh"
FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"%PDF": "a PDF",
    b"\x89PNG": "a PNG image",
    b"\x7fELF": "a program",
}
WORKBOOKS = (".xlsx", ".xlsm", ".ods")


class HashedFile:
    """A binary file read from start to end, with the number and the hash of the bytes so far."""

    def __init__(self, handle: BinaryIO | Any, size: int | None) -> None:
        self._handle, self.size, self.bytes_read = handle, size, 0
        self._hash = xxhash.xxh3_64()
        self._ahead = b""

    def peek(self, count: int) -> bytes:
        """The next `count` bytes (fewer at the end), which `read` still gives."""
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
        """Read what is left; return the xxh3 (64 bits, hexadecimal) of the whole file."""
        while self.read(CHUNK_BYTES):
            continue
        return self._hash.hexdigest()

    def close(self) -> None:
        """Close the file."""
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
                if file.lower().endswith(WORKBOOKS):
                    raise InputError(file, "it is a workbook", "Save its sheet as CSV first")
                raise InputError(file, f"it is {name}", "Unpack or convert it first")
        if head.startswith(GZIP_MAGIC):
            self.compression = "gzip"
        elif head.startswith((ZSTD_MAGIC, *ZSTD_SKIPPABLE)):
            self.compression = "zstd"
        elif head.startswith(XZ_MAGIC):
            self.compression = "xz"
        elif head.startswith(BZIP2_MAGIC) and head[3:4].isdigit():
            self.compression = "bzip2"
        else:
            self.compression = ""

    def fail(self, problem: str) -> None:
        """Note why the file ends early; of several reasons, the first counts."""
        if self.fault is None:
            self.fault = InputError(
                self.file,
                problem,
                "What was read before is kept; fetch the file again and repeat the ingestion",
            )

    def __iter__(self) -> Iterator[bytes]:
        unpack = {
            "gzip": self._gunzip,
            "zstd": self._unzstd,
            "xz": lambda: self._decompressed(lzma.LZMADecompressor),
            "bzip2": lambda: self._decompressed(bz2.BZ2Decompressor),
            "": self._plain,
        }[self.compression]
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

    def _decompressed(self, new: Callable[[], Any]) -> Iterator[bytes]:
        """Unpack xz or bzip2, which may consist of several streams one after another."""
        stream, rest = new(), b""
        try:
            while True:
                if stream.eof:
                    rest = stream.unused_data.lstrip(b"\0") or self.raw.read(CHUNK_BYTES)
                    if not rest.strip(b"\0"):  # xz may be padded with zeros
                        return
                    stream = new()
                elif stream.needs_input:
                    rest = self.raw.read(CHUNK_BYTES)
                    if not rest:
                        self.fail(f"the {self.compression} archive is cut off")
                        return
                else:
                    rest = b""
                if chunk := stream.decompress(rest, CHUNK_BYTES):
                    yield chunk
        except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
            self.fail(f"the {self.compression} archive is damaged ({error})")


MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
ZEROS_SHARE = 0.3
"""Without a mark: this share of zeros on one side of the byte pairs and none on the other."""


@dataclass(frozen=True)
class Encoding:
    """A codec, the length of its mark in bytes, and words for the user ("" for plain UTF-8)."""

    codec: str
    mark: int = 0
    words: str = ""


def codec_named(encoding: str) -> str:
    """Python's name for an encoding.

    Raises:
        UsageError: Python does not know it, or it is not one of text.
    """
    try:
        info = codecs.lookup(encoding)
        "".encode(info.name)
    except (LookupError, ValueError, TypeError) as error:
        raise UsageError(
            f"--encoding {encoding}: no such text encoding; try utf-8, utf-16, latin-1 or cp1252"
        ) from error
    return info.name


def detect(head: bytes, name: str | None) -> Encoding:
    """The encoding of a file that begins with `head`; the one that a user named comes first."""
    if name is not None:
        codec = codec_named(name)
        mark = next((len(m) for m, own in MARKS if head.startswith(m) and own == codec), 0)
        if codec in ("utf-8", "utf-8-sig"):
            return Encoding("utf-8", 3 if head.startswith(codecs.BOM_UTF8) else 0)
        return Encoding(codec, mark, name)
    for mark, codec in MARKS:
        if head.startswith(mark):
            return Encoding(codec, len(mark), f"{codec.upper()} with BOM")
    even, odd = head[0:4096:2], head[1:4096:2]
    if odd and even.count(0) > ZEROS_SHARE * len(even) and odd.count(0) == 0:
        return Encoding("utf-16-be", 0, "UTF-16-BE without BOM")
    if odd and odd.count(0) > ZEROS_SHARE * len(odd) and even.count(0) == 0:
        return Encoding("utf-16-le", 0, "UTF-16-LE without BOM")
    return Encoding("utf-8")


def to_utf8(chunks: Iterator[bytes], encoding: Encoding) -> Iterator[bytes]:
    """The same text as UTF-8 without its mark; lone surrogates stay, and are rejected later.

    What the codec cannot decode becomes the byte 0xFF, which is never UTF-8: the record that it
    stands in is rejected as badly encoded.
    """
    first = next(chunks, b"")
    while len(first) < encoding.mark and (more := next(chunks, b"")):
        first += more
    chunks = chain([first[encoding.mark :]], chunks)
    if encoding.codec == "utf-8":
        yield from chunks
        return
    errors = "surrogatepass" if encoding.codec.startswith("utf") else "coresetdb-undecodable"
    decoder = codecs.getincrementaldecoder(encoding.codec)(errors)
    for chunk in chunks:
        yield _bytes_of(decoder.decode(chunk))
    try:
        yield _bytes_of(decoder.decode(b"", final=True))
    except UnicodeDecodeError:
        yield b"\xff"


def _bytes_of(text: str) -> bytes:
    """UTF-8 of `text`, with the stand-in for undecodable bytes turned into 0xFF."""
    return text.encode("utf-8", "surrogatepass").replace(_STAND_IN_BYTES, b"\xff")


_STAND_IN = "\udcff"
_STAND_IN_BYTES = _STAND_IN.encode("utf-8", "surrogatepass")
codecs.register_error(
    "coresetdb-undecodable",
    lambda error: (_STAND_IN, error.end if isinstance(error, UnicodeError) else 0),  # type: ignore[attr-defined]
)


class Unfinished(bytes):
    """The last line of a file that does not end in a newline: it may be cut off."""


def split_lines(
    chunks: Iterator[bytes], limit: int = MAX_RECORD_BYTES
) -> Iterator[tuple[int, bytes | BadRecord]]:
    """Number and content of every line, without its \\n; one over `limit` bytes is a `BadRecord`.

    U+2028, U+2029 and U+0085 break no line. Numbers count from 1.
    """
    number, rest = 1, b""
    head, dropped = b"", 0
    for chunk in chunks:
        if dropped:
            end = chunk.find(b"\n")
            dropped += len(chunk) if end < 0 else end
            if end < 0:
                continue
            yield number, oversize_record(dropped, head)
            number, dropped, chunk = number + 1, 0, chunk[end + 1 :]
        lines = chunk.split(b"\n")
        lines[0] = rest + lines[0]
        rest = lines.pop()
        for line in lines:
            yield number, line if len(line) <= limit else oversize_record(len(line), line)
            number += 1
        if len(rest) > limit:
            head, dropped, rest = rest[:1000], len(rest), b""
    if dropped:
        yield number, oversize_record(dropped, head)
    elif rest:
        yield number, Unfinished(rest)

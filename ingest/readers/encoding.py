"""Text encodings: UTF-8 passes untouched, UTF-16 and UTF-32 are told by a mark or by their zeros.

Nothing else is guessed. Bytes that are not UTF-8 stay as they are, so that the record that holds
them can be refused by line; `--encoding` names what a file really is.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from ...schemas.errors import UsageError

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
    """A codec's name, the bytes of its mark, and words for the decision ("" for plain UTF-8)."""

    codec: str
    mark: int = 0
    words: str = ""


def named(encoding: str) -> str:
    """The codec's own name for `encoding`.

    Raises:
        UsageError: Python knows no such text encoding.
    """
    try:
        info = codecs.lookup(encoding)
        "".encode(info.name)
    except (LookupError, ValueError, TypeError) as error:
        raise UsageError(
            f"--encoding {encoding}: no such text encoding; try utf-8, utf-16, latin-1 or cp1252"
        ) from error
    return info.name


def detect(head: bytes, asked: str | None) -> Encoding:
    """The encoding of a file that begins with `head`; `asked` overrules the look of it."""
    if asked is not None:
        codec = named(asked)
        mark = next((len(m) for m, name in MARKS if head.startswith(m) and name == codec), 0)
        if codec in ("utf-8", "utf-8-sig"):
            return Encoding("utf-8", 3 if head.startswith(codecs.BOM_UTF8) else 0)
        return Encoding(codec, mark, asked)
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
    """The same text as UTF-8 without its mark; half surrogates stay half, for the record's judge.

    What the codec cannot decode becomes the byte 0xFF, which no UTF-8 holds: the record that it
    stands in is refused as badly encoded.
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

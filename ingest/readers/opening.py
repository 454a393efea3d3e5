"""From any file to numbered rows: the container is detected by content, names only break ties."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pyarrow as pa

from ...schemas.errors import InputError
from . import delimited, json_rows, tables
from .arrow_values import distinct_names
from .decoding import (
    NOT_UTF8,
    BadRecord,
    ByteStream,
    HashedFile,
    Row,
    detect,
    excerpt_of,
    split_lines,
    to_utf8,
)
from .folders import NAMES, is_table_folder, without_packing
from .hints import Hints
from .json_layouts import WINDOW_BYTES, Layout, find_layout
from .json_records import as_records
from .json_rows import CountingDecoder, JsonScanner
from .locations import LOCAL_ERRORS, REMOTE_ERRORS, STDIN, is_remote, open_binary, open_random
from .remarks import Remarks

HEAD_BYTES = 1 << 16
MARKUP = (b"<!doctype", b"<html", b"<?xml")
DELIMITED_NAMES = (".csv", ".tsv", ".tab")
JSON_NAMES = tuple(name for name in NAMES if name.startswith((".j", ".nd")))


@dataclass
class Opened:
    """An open source: its rows, and how far they have been read.

    Attributes:
        words: the container in words, for the user.
        streams: of the bytes of its files; none for data in memory.
        fault: why the rows ended early.
        remarks: what could not be read of the values.
        text: how much of its text was read; None for a table, and when it is closed.
    """

    file: str
    rows: Iterator[Row]
    words: list[str]
    streams: list[ByteStream]
    size: int | None
    table: tables.Table | None = None
    fault: InputError | None = field(default=None)
    remarks: Remarks = field(default_factory=Remarks)
    text: TextPosition | None = None

    @property
    def bytes_read(self) -> int:
        """Raw bytes of the rows so far; for a table, which is not read in order, its share of them.

        What was read ahead of the rows counts once they come.
        """
        read = sum(stream.raw.bytes_read for stream in self.streams)
        if self.text is not None:
            return int(read * self.text.share)
        share = int(self.table.share * self.size) if self.table and self.size else 0
        return max(read, share)

    @property
    def unpacked(self) -> int:
        """Bytes read so far, after decompression."""
        return sum(stream.unpacked for stream in self.streams)

    def numbers_are_text(self, column: str) -> bool:
        """Whether numbers of a column come as text: all of CSV and TSV, and decimals of tables."""
        if self.table is None:
            return bool(self.words) and self.words[0].startswith(tuple(delimited.NAMES.values()))
        names = list(distinct_names(self.table.schema.names))
        return column in names and pa.types.is_decimal(
            self.table.schema.field(names.index(column)).type
        )

    def finish(self) -> str:
        """Close the source; the xxh3 of all its raw bytes, in the order of its files.

        "" for data in memory.
        """
        self.text = None
        digests = []
        for stream in self.streams:
            digests.append(stream.raw.drain())
            self.fault = self.fault or stream.fault
        self.close()
        return tables.digest_of_digests(digests) if len(digests) > 1 else "".join(digests)

    def close(self) -> None:
        """Close the files, read to their end or not; standard input stays open."""
        for stream in self.streams:
            if stream.file != STDIN:
                stream.raw.close()


PIECE_BYTES = 1 << 15
PIECES_UP_TO = 1 << 24
"""Text is handed over in pieces of 32 KB up to 16 MB, for the progress over small files."""


class TextPosition:
    """How much of a text its reader has, of what was unpacked so far."""

    def __init__(self) -> None:
        self._unpacked = self._handed_over = 0

    @property
    def share(self) -> float:
        """Bytes handed over of those unpacked; 1 where there are none."""
        return self._handed_over / self._unpacked if self._unpacked else 1.0

    def unpacked(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks, counted as they are unpacked."""
        for chunk in chunks:
            self._unpacked += len(chunk)
            yield chunk

    def handed_over(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same bytes, counted as they are taken."""
        for chunk in chunks:
            small = self._handed_over < PIECES_UP_TO
            size = PIECE_BYTES if small else max(len(chunk), 1)
            for start in range(0, len(chunk), size):
                piece = chunk[start : start + size]
                self._handed_over += len(piece)
                yield piece


def open_rows(file: str, hints: Hints) -> Opened:
    """Open `file`: a path, an address, "-", or the folder of a table.

    Raises:
        InputError: nothing in it can be rows; the message says what it looks like.
    """
    if os.path.isdir(file):
        if not is_table_folder(file):
            raise InputError(
                file, "it is a folder of files, not one source", "Find its files with find_files"
            )
        table, files = tables.open_folder(file)
        streams = [_stream(part) for part in files]
        size = sum(stream.raw.size or 0 for stream in streams)
        return open_table_rows(file, table, streams, size)
    stream = _stream(file)
    head, whole, chunks = look_ahead(iter(stream), HEAD_BYTES)
    if tables.is_table(head):
        return _open_table(file, head, chunks, stream)
    opened = Opened(file, iter(()), [], [stream], stream.raw.size)
    encoding = detect(head, hints.encoding)
    opened.text = TextPosition()
    unpacked = opened.text.unpacked(to_utf8(chunks, encoding))
    head, whole, chunks = look_ahead(unpacked, WINDOW_BYTES)
    chunks = opened.text.handed_over(chunks)
    if head.strip() or not whole:
        opened.rows, words = _text_rows(opened, head, whole, chunks, hints)
    elif stream.fault is not None:  # not a byte of the archive can be unpacked
        raise stream.fault
    else:
        words = "empty"
    opened.words = [word for word in (words, stream.compression, encoding.words) if word]
    return _guarded(opened)


def look_ahead(chunks: Iterator[bytes], size: int) -> tuple[bytes, bool, Iterator[bytes]]:
    """The first `size` bytes or more, whether that is all, and all chunks from the start."""
    taken: list[bytes] = []
    held = 0
    while held < size:
        chunk = next(chunks, None)
        if chunk is None:
            return b"".join(taken), True, iter(taken)
        taken.append(chunk)
        held += len(chunk)
    return b"".join(taken), False, chain(taken, chunks)


def _stream(file: str) -> ByteStream:
    handle, size = open_binary(file)
    return ByteStream(HashedFile(handle, size), file)


def _guarded(opened: Opened) -> Opened:
    """The same, but an error in the middle of the rows ends them and is kept as the fault."""
    rows = opened.rows
    breaking = REMOTE_ERRORS if is_remote(opened.file) else LOCAL_ERRORS

    def until_it_breaks() -> Iterator[Row]:
        begun = False
        try:
            for row in rows:
                begun = True
                yield row
        except InputError as error:
            if not begun:  # it is not what it looks like
                raise
            opened.fault = error
        except breaking as error:
            problem = str(error).strip().splitlines() or [type(error).__name__]
            opened.fault = InputError(
                opened.file,
                f"it breaks off while being read ({problem[0][:300]})",
                "What was read before is kept; fetch or write the file again",
            )

    opened.rows = until_it_breaks()
    return opened


def _open_table(file: str, head: bytes, chunks: Iterator[bytes], stream: ByteStream) -> Opened:
    """Open Parquet or Arrow in place where that is possible, else as a temporary copy."""
    if tables.is_seekable_here(file, stream.compression):
        source: Any = open_random(file)
    else:
        copy = tempfile.TemporaryFile()
        for chunk in chunks:
            copy.write(chunk)
        copy.seek(0)
        source = pa.PythonFile(copy, mode="r")
        if stream.fault is not None:
            raise stream.fault
    return open_table_rows(
        file, tables.open_table(head, source, file), [stream], stream.raw.size, stream.compression
    )


def open_table_rows(
    file: str,
    table: tables.Table,
    streams: list[ByteStream],
    size: int | None,
    compression: str = "",
) -> Opened:
    """The rows of a table that consists of the bytes of `streams`, or is in memory."""
    table.leave_out_vectors()
    remarks = Remarks()
    vectors = f"without the vectors {', '.join(table.left_out)}" if table.left_out else ""
    words = [word for word in (table.words, vectors, compression) if word]
    rows = tables.table_rows(table, remarks)
    return _guarded(Opened(file, rows, words, streams, size, table, remarks=remarks))


def _text_rows(
    opened: Opened, head: bytes, whole: bool, chunks: Iterator[bytes], hints: Hints
) -> tuple[Iterator[Row], str]:
    """The rows of a text file that is not empty, and its container in words."""
    file = opened.file
    name = without_packing(file.lower().partition("?")[0])
    if not name.endswith(DELIMITED_NAMES) and not (hints.plain_text and name.endswith(".txt")):
        layout = find_layout(head, whole, hints.list_key, hints.is_record, hints.are_turns)
        if layout is not None:
            rows, words = _json_rows(opened, layout, chunks, hints)
            return rows, layout.words + words
    beginning = head.lstrip()[:20].lower()
    if beginning.startswith(MARKUP):
        raise InputError(
            file, "it is a web page or XML, not data", "Perhaps the download failed; fetch it again"
        )
    if b"\0" in head[:4096]:
        raise InputError(file, "it is binary data of an unknown kind", "Convert it first")
    if name.endswith(JSON_NAMES):
        raise InputError(
            file, "there is no JSON object in it", "Check that it is what its name says"
        )
    if hints.plain_text and not name.endswith(DELIMITED_NAMES):
        return _plain_rows(chunks), "text, a record a line"
    dialect = delimited.find_dialect(head)
    if dialect is None:
        if not name.endswith(DELIMITED_NAMES):
            raise InputError(
                file,
                "it is neither JSON nor a table with columns",
                "Read plain text with --format text",
            )
        dialect = delimited.Dialect(",")
    return _delimited_rows(file, chunks, dialect, hints)


def _json_rows(
    opened: Opened, layout: Layout, chunks: Iterator[bytes], hints: Hints
) -> tuple[Iterator[Row], str]:
    """The rows of a JSON file, and what its lists were taken for, in words."""
    file = opened.file
    if layout.choices:
        raise InputError(
            file,
            f"it holds several lists ({', '.join(layout.choices)})",
            f"Name one with --map records={layout.choices[0]}",
        )
    fail, decoder = opened.streams[0].fail, CountingDecoder(opened.remarks)
    scanner = JsonScanner(chunks, decoder=decoder)
    rows = {
        "lines": lambda: json_rows.line_rows(chunks, decoder),
        "array": lambda: json_rows.array_rows(scanner, fail),
        "objects": lambda: json_rows.object_rows(scanner),
        "nested": lambda: json_rows.nested_rows(scanner, layout.key, fail),
        "by id": lambda: json_rows.named_rows(scanner, fail),
        "split": lambda: json_rows.split_rows(scanner, file, fail),
        "columns": lambda: json_rows.column_rows(scanner, file, fail),
    }[layout.kind]()
    return as_records(file, rows, hints)


def _plain_rows(chunks: Iterator[bytes]) -> Iterator[Row]:
    for number, line in split_lines(chunks):
        if isinstance(line, BadRecord):
            yield number, line
        elif line.strip():
            try:
                yield number, {"text": line.decode("utf-8").removesuffix("\r")}
            except UnicodeDecodeError:
                yield number, BadRecord(NOT_UTF8, excerpt_of(line))


def _delimited_rows(
    file: str, chunks: Iterator[bytes], dialect: delimited.Dialect, hints: Hints
) -> tuple[Iterator[Row], str]:
    rows = delimited.cut_rows(chunks, dialect)
    first = next(rows)
    second = next(rows, None)
    if isinstance(first[1], BadRecord):
        raise InputError(
            file, f"its first row cannot be read ({first[1].reason})", "Correct that row"
        )
    again = [first] if second is None else [first, second]
    sample = second[1] if second is not None and isinstance(second[1], list) else []
    columns = hints.header(first[1], sample)
    words = dialect.words
    if columns is None:
        columns = hints.names(len(first[1]))
        words += ", no header"
    else:
        again = again[1:]
    keyed = delimited.keyed_rows(chain(again, rows), columns)
    if hints.unescape:
        keyed, words = delimited.unescaped_rows(keyed), f"{words}, backslashes unescaped"
    return keyed, words

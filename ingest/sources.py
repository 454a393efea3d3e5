"""Reading: any file to records of one conversation each, or to rejects that say why not.

for file in find_files(["pools/", "more/*.jsonl.gz"]):
    source = open_source(file, ReadOptions())
    print(source.decision)
    for item in source:      # Record or Reject
        ...
    source.xxh3, source.fault

What the ingestion job asks of a source of records.

A look at every file before the first is ingested, so that a question comes before the work.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

from ..schemas.canonical import canonical_json
from ..schemas.errors import AmbiguousFormatError, InputError, UsageError
from ..schemas.instruction import Instruction, Record, Reject, unusable
from ..schemas.progress import Progress, Silence
from .importers.detection import (
    DetectedFormat,
    detect_format,
    header_of,
    importer_named,
    is_record,
    names_without_header,
)
from .importers.importer import Parsed, Rejected, kind_of
from .readers.decoding import Bad, Row, excerpt_of
from .readers.json_rows import why_invalid
from .readers.locations import NAMES, PACKED, STDIN, can_be_read_again, copy_of, find_files
from .readers.opening import Hints, Opened, open_rows
from .readers.options import ReadOptions


class Source(Protocol):
    """Records of one file, read once from its beginning.

    `decision` says in words how the file is read. `size` is that of the file in bytes (None where
    it cannot be known), `bytes_read` how much of it has been read so far; `xxh3` and `fault` (why
    a file broke half-way) hold after the last record.
    """

    @property
    def file(self) -> str: ...
    @property
    def corpus(self) -> str: ...
    @property
    def decision(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def options(self) -> ReadOptions: ...
    @property
    def size(self) -> int | None: ...
    @property
    def bytes_read(self) -> int: ...
    @property
    def xxh3(self) -> str: ...
    @property
    def fault(self) -> InputError | None: ...

    def __iter__(self) -> Iterator[Record | Reject]: ...
    def finish(self) -> None:
        """Close the file, whether or not it was read to its end; `xxh3` and `fault` hold then."""
        ...


__all__ = ["ReadOptions", "SourceFile", "find_files", "open_source"]

SAMPLE_RECORDS = 50
SAMPLE_ROWS = 1000
SAMPLE_BYTES = 32_000_000


class SourceFile:
    """One source, opened and understood; iterate once for its records and rejects.

    Attributes:
        file: absolute path, address, or "-".
        corpus: `--corpus`, or the file's name without its endings.
        options: how it is read.
        decision: what was found, in words, for the user.
        format: name of the importer ("none" for a file without any record).
        size: raw bytes, None where unknown (standard input).
        xxh3: of all raw bytes (64 bits, hexadecimal); "" until the iteration is over.
        fault: why the file ended early; None until the iteration is over, and if it is whole.
    """

    def __init__(self, file: str, options: ReadOptions, opened: Opened) -> None:
        self.file = file
        self.corpus = options.corpus or stem_of(file)
        self.size = opened.size
        self.xxh3 = ""
        self.fault: InputError | None = None
        self.options, self._opened = options, opened
        self._started = False
        sample = _sample(file, opened)
        objects = [value for _, value in sample if isinstance(value, dict)][:SAMPLE_RECORDS]
        self._rows = chain(sample, opened.rows)
        self._choice: DetectedFormat | None = None
        if options.format not in ("auto", "map"):
            self.format = importer_named(options.format).name
        if objects:
            self._choice = detect_format(file, objects, options)
            self.format = self._choice.importer.name
            shape = self._choice.words
        else:
            self.format = "none"
            shape = "no usable record" if sample else "no records"
        self.decision = ", ".join([shape, *opened.words])

    @property
    def bytes_read(self) -> int:
        """Raw bytes read so far, for progress against `size`."""
        return self._opened.bytes_read

    def __iter__(self) -> Iterator[Record | Reject]:
        """Records and rejects in the file's order.

        Raises:
            UsageError: the source was iterated before.
        """
        if self._started:
            raise UsageError(f"{self.file} has been read already; open it again")
        self._started = True
        for line, value in self._rows:
            yield from self._judge(line, value)
        self.xxh3 = self._opened.finish()
        self.fault = self._opened.fault
        if self.fault and self.fault.file == self._opened.file:
            self.fault = _named(self.fault, self.file)

    def finish(self) -> None:
        """Close the source; one that was not read to its end keeps no hash."""
        self._started = True
        self._opened.close()

    def _judge(self, line: int, value: Any) -> Iterator[Record | Reject]:
        """The records of one row, or why there is none."""
        if isinstance(value, Bad):
            yield Reject(self.corpus, self.file, line, value.reason, value.excerpt)
            return
        if not isinstance(value, dict) or self._choice is None:
            yield self._refuse(line, f"not an object: {kind_of(value)}", value)
            return
        choice = self._choice
        value = choice.renamed(value)
        try:
            for item in choice.importer.read(value, self.options):
                if isinstance(item, Rejected):
                    yield self._refuse(line, item.reason, value)
                else:
                    yield self._admit(line, item, value)
        except Rejected as refusal:
            yield self._refuse(line, refusal.reason, value)
        except RecursionError:
            yield self._refuse(line, "nested too deeply", "")
        except ValueError as error:
            yield self._refuse(line, f"unreadable value: {error}", value)

    def _admit(self, line: int, parsed: Parsed, value: Any) -> Record | Reject:
        instruction = parsed.instruction
        empty_ok = self.options.allow_empty_answer
        if empty_ok:
            instruction = _without_empty_answer(instruction)
        reason = unusable(instruction, allow_empty_answer=empty_ok)
        if reason is not None:
            return self._refuse(line, reason, value)
        metadata = "{}"
        if parsed.metadata:
            try:
                metadata = canonical_json(parsed.metadata)
            except ValueError:
                return self._refuse(line, "number out of range in the metadata", value)
        if not _has_utf8(metadata) or not _has_utf8(parsed.source_id or ""):
            return self._refuse(line, "lone surrogate: the metadata has no UTF-8 form", value)
        return Record(instruction, self.corpus, self.file, line, parsed.source_id, metadata)

    def _refuse(self, line: int, reason: str, value: Any) -> Reject:
        return Reject(self.corpus, self.file, line, reason, excerpt_of(_as_text(value)))


def open_source(
    path: str, options: ReadOptions | None = None, copy: str | None = None
) -> SourceFile:
    """Open a file, find out what it holds, and be ready to read it.

    `copy` is where its bytes lie, for one that cannot be read twice; it keeps its own name.

    Raises:
        InputError: it cannot be opened, or holds nothing that could be records.
        AmbiguousFormatError: its shape is not plain; the message says what to type.
        UsageError: the options name a format, column or encoding that does not exist.
    """
    options = options or ReadOptions()
    file = path if path == STDIN or "://" in path else os.path.abspath(path)
    plain = options.format not in ("auto", "map") and importer_named(options.format).name == "text"
    hints = Hints(
        encoding=options.encoding,
        list_key=options.mapping.get("records"),
        plain_text=plain,
        unescape=options.unescape,
        is_record=lambda record: is_record(record, options),
        header=lambda first, second: header_of(file, first, second, options),
        names=lambda width: names_without_header(width, options),
    )
    if copy is None:
        return SourceFile(file, options, open_rows(file, hints))
    try:
        opened = open_rows(copy, hints)
    except InputError as error:
        raise _named(error, file) from error
    return SourceFile(file, options, opened)


def _named(fault: InputError, file: str) -> InputError:
    """The same fault, of the file itself rather than of its copy."""
    return type(fault)(file, fault.problem, fault.advice)


def stem_of(file: str) -> str:
    """The name of a file without folder, packing and ending; "stdin" for standard input."""
    if file == STDIN:
        return "stdin"
    name = file.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
    for ending in PACKED:
        name = name.removesuffix(ending)
    for ending in (*NAMES, ".txt", ".tab", ".lance"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name


def _sample(file: str, opened: Opened) -> list[Row]:
    """The first rows, until 50 objects are among them.

    Raises:
        InputError: none of the first 1,000 rows is an object, and the file goes on.
    """
    rows: list[Row] = []
    objects = 0
    for row in opened.rows:
        rows.append(row)
        objects += isinstance(row[1], dict)
        if objects == SAMPLE_RECORDS or (objects and opened.unpacked > SAMPLE_BYTES):
            break
        if not objects and len(rows) == SAMPLE_ROWS:
            first = next((value for _, value in rows if isinstance(value, Bad)), None)
            reason = first.reason if first else "they are no objects"
            raise InputError(
                file,
                f"none of its first {SAMPLE_ROWS:,} records can be read ({reason})",
                "Check that it is what its name says",
            )
    return rows


def _without_empty_answer(instruction: Instruction) -> Instruction:
    """The same without a last assistant turn that says nothing."""
    if instruction.messages:
        last = instruction.messages[-1]
        if last.role == "assistant" and not last.content and not last.tool_calls:
            return Instruction(instruction.messages[:-1], instruction.tools)
    return instruction


def _has_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _as_text(value: Any) -> str:
    """A refused value as it may have stood in the file."""
    if isinstance(value, str):
        return value
    try:
        return canonical_json(value)
    except (ValueError, RecursionError) as error:
        return why_invalid(error)


@dataclass(frozen=True)
class SourceList:
    """Files that can be read, and why others cannot.

    Attributes:
        paths: readable files, in order.
        bytes: of all of them; None where a size is not known.
        unreadable: what is wrong with the others.
        held: sources that cannot be opened twice (standard input, pipes), by path.
        copies: where the bytes of such sources lie instead, if they were copied.
    """

    paths: list[str]
    options: ReadOptions
    bytes: int | None
    unreadable: list[InputError]
    held: dict[str, SourceFile]
    copies: dict[str, str] = field(default_factory=dict)

    def sources(self) -> Iterator[SourceFile]:
        """The files, each opened when its turn comes; twice, if copies were asked for."""
        for path in self.paths:
            yield self.held.get(path) or open_source(path, self.options, self.copies.get(path))


def open_sources(
    named: Sequence[str],
    options: ReadOptions,
    copies: str | None = None,
    progress: Progress | None = None,
) -> SourceList:
    """Find the files and open each once.

    Args:
        copies: a folder to copy sources into that can be read only once.
        progress: is told of every copy.

    Raises:
        InputError: nothing is found, or the only file cannot be read.
        AmbiguousFormatError: a file's shape is not plain; nothing has been ingested yet.
        UsageError: the options name a format, column or encoding that does not exist.
    """
    found = find_files(named)
    paths: list[str] = []
    unreadable: list[InputError] = []
    sizes: list[int | None] = []
    held: dict[str, SourceFile] = {}
    copied: dict[str, str] = {}
    for path in found:
        if copies and not can_be_read_again(path):
            what = "standard input" if path == STDIN else path
            (progress or Silence()).say(f"{what}: copied to {copies} first, to be read twice")
            copied[path] = copy_of(path, copies)
        try:
            source = open_source(path, options, copied.get(path))
        except AmbiguousFormatError:
            raise
        except InputError as error:
            if len(found) == 1:
                raise
            unreadable.append(error)
            continue
        paths.append(path)
        sizes.append(source.size)
        if source.size is None:
            held[path] = source
        else:
            source.finish()
    total = None if None in sizes else sum(size or 0 for size in sizes)
    return SourceList(paths, options, total, unreadable, held, copied)

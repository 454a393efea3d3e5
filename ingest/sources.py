"""Sources: from what a user names to records of one conversation each, or rejects that say why not.

    for entry in find_sources(["pools/", "more/*.jsonl.gz"]):
        source = open_source(entry, ReadOptions())
        print(source.decision)
        for item in source:  # Record or Reject
            ...
        source.xxh3, source.fault

A source is a file, or data in memory. `open_sources` looks at all of them before the first is read,
so that a question to the user comes before the work.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

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
from .importers.end_markers import EndMarkers, is_nothing_else
from .importers.importer import Parsed, Rejected, kind_of
from .importers.media import media_of
from .importers.roles import UnknownRoles
from .importers.turns import are_marked_turns
from .importers.unread import UnreadColumns
from .readers.dataset_names import corpora_of, corpus_of
from .readers.decoding import BadRecord, Row, excerpt_of
from .readers.folders import passed_over_sentences
from .readers.hints import Hints
from .readers.in_memory import InMemory, sources_in
from .readers.json_rows import why_invalid
from .readers.locations import STDIN, can_be_read_again, copy_of, look_up
from .readers.opening import Opened, open_rows
from .readers.options import ReadOptions
from .readers.remarks import NO_UTF8, NOT_FINITE

if TYPE_CHECKING:
    import datasets
    import polars as pl
    import pyarrow as pa

    SourceData = (
        str
        | os.PathLike[str]
        | Sequence[str | os.PathLike[str]]
        | Sequence[Mapping[str, Any]]
        | pa.Table
        | pa.RecordBatch
        | pa.RecordBatchReader
        | pl.DataFrame
        | datasets.Dataset
    )
    """What can be read: files, folders, globs and addresses, or data in memory."""

SAMPLE_RECORDS = 50
SAMPLE_ROWS = 1000
SAMPLE_BYTES = 32_000_000
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)
"""What an importer may raise over a value that nobody expected."""


class Source(Protocol):
    """Records of one file, or of data in memory, read once from the beginning: what jobs take.

    `decision` says in words how it is read. `size` is in bytes (None where it cannot be known),
    `bytes_read` how much of it has been read so far; `xxh3`, `fault` (why a file broke half-way)
    and `remarks` (what to say about its records and values) hold after the last record. `notices`
    are what its first records say already. `vectors` are columns that were left out because they
    hold vectors.
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
    @property
    def notices(self) -> list[str]: ...
    @property
    def remarks(self) -> list[str]: ...
    @property
    def vectors(self) -> list[str]: ...

    def __iter__(self) -> Iterator[Record | Reject]: ...
    def finish(self) -> None:
        """Close the file, whether or not it was read to its end; `xxh3` and `fault` hold then."""
        ...


class SourceFile:
    """One opened source, whose format is known; iterate once for its records and rejects.

    Attributes:
        file: absolute path, address, "-", or a name such as `<list>` for data in memory.
        corpus: `--corpus`, or the name of the file's data set (readers/dataset_names.py).
        options: how it is read.
        decision: the format and the container in words, for the user.
        format: name of the importer ("none" for a file without any record).
        size: raw bytes, None where unknown (standard input, a list).
        xxh3: of all raw bytes (64 bits, hexadecimal); "" until the iteration is over.
        fault: why the file ended early; None until the iteration is over, and if it is whole.
    """

    def __init__(self, file: str, options: ReadOptions, opened: Opened) -> None:
        self.file = file
        self.corpus = options.corpus or corpus_of(file)
        self.size = opened.size
        self.xxh3 = ""
        self.fault: InputError | None = None
        self.options, self._opened = options, opened
        self._named = {n for names in options.columns_in(()).values() for n in names}
        self._started = False
        sample = _sample(file, opened)
        objects = [value for _, value in sample if isinstance(value, dict)][:SAMPLE_RECORDS]
        self._rows = chain(sample, opened.rows)
        self._ends = EndMarkers(options.strip_end)
        self._unknown_roles = UnknownRoles()
        self._detected: DetectedFormat | None = None
        if options.format not in ("auto", "map"):
            self.format = importer_named(options.format).name
        if objects:
            self._detected = detect_format(file, objects, options)
            self.format = self._detected.importer.name
            shape = self._detected.words
        else:
            self.format = "none"
            shape = "no usable record" if sample else "no records"
        self._unread: UnreadColumns | None = None
        if self._detected and self._detected.importer.is_pair and options.format == "auto":
            read = {*self._detected.columns, *self._detected.importer.beside}
            self._unread = UnreadColumns(read)
        self.decision = ", ".join([shape, *opened.words])
        self.notices = self._look_at(objects)

    @property
    def bytes_read(self) -> int:
        """Raw bytes read so far, for progress against `size`."""
        return self._opened.bytes_read

    @property
    def remarks(self) -> list[str]:
        """What to say about the records that were read so far, and which values were lost."""
        return [
            *self._ends.sentences(),
            *self._unknown_roles.sentences(),
            *(self._unread.sentences() if self._unread else ()),
            *self._opened.remarks.sentences(),
        ]

    @property
    def vectors(self) -> list[str]:
        """Columns that are left out because they hold vectors."""
        return list(self._opened.table.left_out) if self._opened.table else []

    def _look_at(self, objects: list[dict[str, Any]]) -> list[str]:
        """What the first records say about all of them."""
        if self._detected is None:
            return []
        ends = EndMarkers(self.options.strip_end)
        for value in objects:
            try:
                for item in self._detected.importer.read(
                    self._detected.renamed(value), self.options
                ):
                    if isinstance(item, Parsed):
                        ends.admit(item.instruction)
            except (Rejected, RecursionError, *UNREADABLE):
                continue  # it is rejected when its turn comes
        return ends.sentences("first ")

    def __iter__(self) -> Iterator[Record | Reject]:
        """Records and rejects in the order of the source.

        Raises:
            UsageError: the source was iterated before.
        """
        if self._started:
            raise UsageError(f"{self.file} has been read already; open it again")
        self._started = True
        for line, value in self._rows:
            yield from self._records_of(line, value)
        self.xxh3 = self._opened.finish()
        self.fault = self._opened.fault
        if self.fault and self.fault.file == self._opened.file:
            self.fault = _of_file(self.fault, self.file)

    def numbers_are_text(self, column: str) -> bool:
        """Whether numbers of a column outside the conversation come as text."""
        return self._opened.numbers_are_text(column)

    def finish(self) -> None:
        """Close the source; one that was not read to its end keeps no hash."""
        self._started = True
        self._opened.close()

    def _records_of(self, line: int, value: Any) -> Iterator[Record | Reject]:
        """The records of one row, or why there is none."""
        if isinstance(value, BadRecord):
            yield Reject(self.corpus, self.file, line, value.reason, value.excerpt)
            return
        if not isinstance(value, dict) or self._detected is None:
            yield self._reject(line, f"not an object: {kind_of(value)}", value)
            return
        value = self._detected.renamed(value)
        try:
            for item in self._detected.importer.read(value, self.options):
                if isinstance(item, Rejected):
                    self._unknown_roles.add(item)
                    yield self._reject(line, item.reason, value)
                else:
                    if self._unread:
                        self._unread.add(value)
                    yield self._admit(line, item, value)
        except Rejected as rejected:
            self._unknown_roles.add(rejected)
            yield self._reject(line, rejected.reason, value)
        except RecursionError:
            yield self._reject(line, "nested too deeply", "")
        except UNREADABLE as error:
            yield self._reject(line, f"unreadable value: {error}", value)

    def _admit(self, line: int, parsed: Parsed, value: Any) -> Record | Reject:
        about = media_of(value, parsed.instruction, self._named)
        if about is not None:
            return self._reject(line, about, value)
        instruction = _without_bare_ends(self._ends.admit(parsed.instruction))
        empty_ok = self.options.allow_empty_answer
        if empty_ok:
            instruction = _without_empty_answer(instruction)
        reason = unusable(instruction, allow_empty_answer=empty_ok)
        if reason is not None:
            return self._reject(line, reason, value)
        source_id = parsed.source_id
        if source_id is not None and not _has_utf8(source_id):
            self._opened.remarks.value_lost(NO_UTF8, "id")
            source_id = None
        metadata = self._metadata_text(parsed.metadata)
        return Record(instruction, self.corpus, self.file, line, source_id, metadata)

    def _metadata_text(self, metadata: dict[str, Any]) -> str:
        """Canonical JSON; a value that has no form in it becomes null and is counted."""
        try:
            text = canonical_json(metadata)
            if _has_utf8(text):
                return text
        except ValueError:  # NaN or an infinity
            pass
        return canonical_json(
            {
                _in_utf8(name): self._sayable(value, _in_utf8(name))
                for name, value in metadata.items()
            }
        )

    def _sayable(self, value: Any, column: str) -> Any:
        if isinstance(value, dict):
            return {_in_utf8(name): self._sayable(each, column) for name, each in value.items()}
        if isinstance(value, list):
            return [self._sayable(each, column) for each in value]
        if isinstance(value, float) and not math.isfinite(value):
            self._opened.remarks.value_lost(NOT_FINITE, column)
            return None
        if isinstance(value, str) and not _has_utf8(value):
            self._opened.remarks.value_lost(NO_UTF8, column)
            return None
        return value

    def _reject(self, line: int, reason: str, value: Any) -> Reject:
        return Reject(self.corpus, self.file, line, reason, excerpt_of(_as_text(value)))


def open_source(
    entry: str | os.PathLike[str] | InMemory,
    options: ReadOptions | None = None,
    copy: str | None = None,
) -> SourceFile:
    """Open a file or data in memory, detect its format, and be ready to read it.

    Args:
        copy: where its bytes lie, for one that cannot be read twice; it keeps its own name.

    Raises:
        InputError: it cannot be opened, or holds nothing that could be records.
        AmbiguousFormatError: its format is not clear; the message says what to type.
        UsageError: the options name a format, column or encoding that does not exist.
    """
    options = options or ReadOptions()
    if isinstance(entry, InMemory):
        return SourceFile(entry.name, options, entry.open())
    path = os.fspath(entry)
    file = path if path == STDIN or "://" in path else os.path.abspath(path)
    plain = options.format not in ("auto", "map") and importer_named(options.format).name == "text"
    hints = Hints(
        encoding=options.encoding,
        list_key=options.mapping.get("records"),
        plain_text=plain,
        unescape=options.unescape,
        is_record=lambda record: is_record(record, options),
        are_turns=are_marked_turns,
        header=lambda first, second: header_of(file, first, second, options),
        names=lambda width: names_without_header(width, options),
    )
    if copy is None:
        return SourceFile(file, options, open_rows(file, hints))
    try:
        opened = open_rows(copy, hints)
    except InputError as error:
        raise _of_file(error, file) from error
    return SourceFile(file, options, opened)


def _of_file(fault: InputError, file: str) -> InputError:
    """The same fault, with the name of the file instead of that of its copy."""
    if isinstance(fault, AmbiguousFormatError):
        return AmbiguousFormatError(file, fault.problem, fault.advice, fault.options)
    return type(fault)(file, fault.problem, fault.advice)


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
            first = next((value for _, value in rows if isinstance(value, BadRecord)), None)
            reason = first.reason if first else "they are not objects"
            raise InputError(
                file,
                f"none of its first {SAMPLE_ROWS:,} records can be read ({reason})",
                "Check that it is what its name says",
            )
    return rows


def _without_empty_answer(instruction: Instruction) -> Instruction:
    """The same without a last assistant turn that is empty."""
    if instruction.messages:
        last = instruction.messages[-1]
        if last.role == "assistant" and not last.content and not last.answers:
            return Instruction(instruction.messages[:-1], instruction.tools)
    return instruction


def _without_bare_ends(instruction: Instruction) -> Instruction:
    """The same with an answer that is nothing but an end marker made empty."""
    if not any(
        turn.role == "assistant" and is_nothing_else(turn.content) for turn in instruction.messages
    ):
        return instruction
    messages = tuple(
        replace(turn, content="")
        if turn.role == "assistant" and is_nothing_else(turn.content)
        else turn
        for turn in instruction.messages
    )
    return replace(instruction, messages=messages)


def _has_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _in_utf8(text: str) -> str:
    """The same text, with escapes for what UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _as_text(value: Any) -> str:
    """A rejected value as it may have stood in the file."""
    if isinstance(value, str):
        return value
    try:
        return canonical_json(value)
    except (ValueError, RecursionError) as error:
        return why_invalid(error)


def find_sources(data: SourceData) -> list[str | InMemory]:
    """The files that are named, each once and in order, and the data in memory.

    Raises:
        NoSuchFileError: a name matches nothing.
        UsageError: something is neither a path nor rows; the message says what is accepted.
    """
    return _find_sources(data)[0]


def _find_sources(data: SourceData) -> tuple[list[str | InMemory], dict[str, str]]:
    """As `find_sources`; and what was passed over in folders, path -> reason."""
    named = sources_in(data)
    paths = [source for source in named if isinstance(source, str)]
    entries: dict[str | InMemory, None] = {}
    passed_over: dict[str, str] = {}
    for source in named:
        if isinstance(source, InMemory):
            entries[source] = None
            continue
        found = look_up([source], alone=len(paths) == 1)
        entries.update(dict.fromkeys(found.files))
        passed_over.update(found.passed_over)
    return list(entries), passed_over


@dataclass(frozen=True)
class SourceList:
    """Sources that can be read, and why others cannot.

    Attributes:
        entries: readable files and data in memory, in order.
        options: how they are read.
        bytes: of all of them; None where a size is not known.
        unreadable: what is wrong with the others; one that breaks later is added.
        held: sources that cannot be opened twice (standard input, pipes), by path.
        copies: where the bytes of such sources lie instead, if they were copied.
        corpora: of files, where they are named after others that are read with them.
        passed_over: files in folders that hold no data: path -> reason.
    """

    entries: list[str | InMemory]
    options: ReadOptions
    bytes: int | None
    unreadable: list[InputError]
    held: dict[str, SourceFile]
    copies: dict[str, str] = field(default_factory=dict)
    corpora: dict[str, str] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)

    def sources(self) -> Iterator[SourceFile]:
        """The sources, each opened when its turn comes; again and again, if copies were made."""
        for entry in self.entries:
            if isinstance(entry, InMemory):
                yield open_source(entry, self.options)
                continue
            held = self.held.get(entry)
            try:
                options = replace(self.options, corpus=self.corpora.get(entry, self.options.corpus))
                source = held or open_source(entry, options, self.copies.get(entry))
            except InputError as error:  # it has changed since it was looked at
                if str(error) not in map(str, self.unreadable):
                    self.unreadable.append(error)
                continue
            yield source


def open_sources(
    data: SourceData,
    options: ReadOptions,
    copies: str | None = None,
    progress: Progress | None = None,
) -> SourceList:
    """Find the sources and open each once; of several, one that cannot be read is left out.

    Args:
        data: files, folders, globs, addresses, or data in memory.
        copies: a folder to copy files into that can be read only once.
        progress: is told of every copy, of what is passed over and of what cannot be read.

    Raises:
        InputError: nothing is found, or no source can be read.
        AmbiguousFormatError: the format of the only source is not clear.
        UsageError: the options name a format, column or encoding that does not exist, or `data` is
            nothing that can be read.
    """
    progress = progress or Silence()
    found, passed_over = _find_sources(data)
    for sentence in passed_over_sentences(passed_over):
        progress.say(sentence)
    entries: list[str | InMemory] = []
    unreadable: list[InputError] = []
    sizes: list[int | None] = []
    held: dict[str, SourceFile] = {}
    copied: dict[str, str] = {}
    for entry in found:
        copy = None
        if copies and isinstance(entry, str) and not can_be_read_again(entry):
            name = "standard input" if entry == STDIN else entry
            progress.say(f"{name}: copied to {copies} first, to be read twice")
            copy = copied[entry] = copy_of(entry, copies)
        try:
            source = open_source(entry, options, copy)
        except InputError as error:
            if len(found) == 1:
                raise
            progress.say(f"NOT read: {error}")
            unreadable.append(error)
            continue
        entries.append(entry)
        sizes.append(source.size)
        if source.size is None and isinstance(entry, str):
            held[entry] = source
        else:
            source.finish()
    if not entries:
        raise unreadable[0]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    corpora: dict[str, str] = {}
    if options.corpus is None:
        named = corpora_of([entry for entry in entries if isinstance(entry, str)])
        corpora = {file: name for file, name in named.items() if name != corpus_of(file)}
    return SourceList(entries, options, total, unreadable, held, copied, corpora, passed_over)


@dataclass(frozen=True)
class Examples:
    """A few records that were read as a whole, such as the examples of a target.

    Attributes:
        records: distinct ones, in reading order.
        read: how many records there were, duplicates and rejects included.
        rejected: those that cannot be used.
        decisions: how each source was read, in words.
        remarks: what is to be said about the records, in words.
        rows: which row of the sources each record was, from 0; a row may hold several.
        rows_read: how many rows there were.
    """

    records: list[Record]
    read: int
    rejected: list[Reject]
    decisions: list[str]
    remarks: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    rows_read: int = 0


def read_examples(data: SourceData, options: ReadOptions, advice: str) -> Examples:
    """Read sources to their end; an example may lack its answer.

    Args:
        advice: what to do where there is no usable example.

    Raises:
        InputError: nothing is found, a file cannot be read to its end, or no example is usable.
        UsageError: as `open_sources`.
    """
    options = replace(options, allow_empty_answer=True)
    records: dict[str, Record] = {}
    rows: dict[str, int] = {}
    examples = Examples([], 0, [], [])
    read, row = 0, -1
    names: list[str] = []
    found, passed_over = _find_sources(data)
    examples.decisions.extend(passed_over_sentences(passed_over))
    for entry in found:
        source = open_source(entry, options)
        names.append(source.file)
        examples.decisions.append(f"{source.file}: {source.decision}")
        line = None
        for item in source:
            read += 1
            row, line = row + (item.line != line), item.line
            if isinstance(item, Reject):
                examples.rejected.append(item)
            else:
                records.setdefault(item.instruction.id, item)
                rows.setdefault(item.instruction.id, row)
        if source.fault:
            raise source.fault
        examples.remarks.extend(f"{source.file}: {remark}" for remark in source.remarks)
    if not records:
        reasons = sorted({reject.reason for reject in examples.rejected}) or ["it is empty"]
        raise InputError(", ".join(names), f"no usable example ({'; '.join(reasons)})", advice)
    return replace(
        examples,
        records=list(records.values()),
        read=read,
        rows=list(rows.values()),
        rows_read=row + 1,
    )

"""Which importer reads a file: its registry, `--map`, and how a shape is recognised.

The rules look at the first 50 records. A shape is a candidate when it fits at least half of them. A
candidate whose columns all belong to another one gives way to it (question/answer gives way to a
shape that also explains a third column). If one is left, it is taken. A shape that is read on
request only is never taken by itself, and it stops a candidate whose columns it contains:
preference pairs are not silently read as chats. Where nothing fits, names are compared without case
and outer blanks. Where the rules do not decide, an error says what to type.

With `--map` the user says which column is what: `messages=COLUMN` is a list of turns; otherwise
`assistant=COLUMN` (mostly with `user=COLUMN`) makes the turns, with `input`, `system`, `history`
and `tools` as in Alpaca and ShareGPT. `a.b` reaches into objects.

Another package adds an importer with an entry point of the group `coresetdb.importers`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

from ...schemas.errors import AmbiguousFormatError, MappingError, UsageError
from ..readers.options import ReadOptions
from .chat import MESSAGES, OASST, SGD, SHAREGPT, Chat, are_turns
from .importer import MISSING, Fields, Importer, Parsed, Rejected, reach
from .preference import KTO, PREFERENCE
from .single_turn import (
    ALPACA,
    DOLLY,
    FLAN,
    NATURAL_INSTRUCTIONS,
    PAIRS,
    SELF_INSTRUCT,
    SQUAD,
    TEXT,
    SingleTurn,
)

GROUP = "coresetdb.importers"

BUILT_IN = (
    MESSAGES,
    SHAREGPT,
    ALPACA,
    DOLLY,
    FLAN,
    NATURAL_INSTRUCTIONS,
    SELF_INSTRUCT,
    OASST,
    SGD,
    *PAIRS,
    PREFERENCE,
    KTO,
    SQUAD,
    TEXT,
)


@cache
def importers() -> dict[str, Importer]:
    """Every importer by its name, the built-in ones first.

    Raises:
        UsageError: an entry point loads something else, or uses a name that is taken.
    """
    found = {importer.name: importer for importer in BUILT_IN}
    for entry in entry_points(group=GROUP):
        importer = entry.load()
        if not isinstance(importer, Importer):
            raise UsageError(
                f"the entry point {entry.name} of {GROUP} is not an Importer: {entry.value}"
            )
        if importer.name in found:
            raise UsageError(f"two importers are named {importer.name!r}; see {entry.value}")
        found[importer.name] = importer
    return found


def importer_named(name: str) -> Importer:
    """The importer with this name or alias.

    Raises:
        UsageError: there is none; the message lists the known names.
    """
    known = importers()
    names = {alias: each for each in known.values() for alias in (each.name, *each.aliases)}
    lower = name.lower()
    if lower not in names:
        close = difflib.get_close_matches(lower, names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UsageError(f"--format {name}: unknown{hint}; formats are {', '.join(known)}")
    return names[lower]


def mapped_importer(mapping: Mapping[str, str]) -> Importer:
    """An importer for the columns that a user has named.

    Raises:
        UsageError: the mapping names neither `messages` nor `assistant`, or both.
    """
    if ("messages" in mapping) == ("assistant" in mapping):
        raise UsageError(
            "--map needs assistant=COLUMN (mostly with user=COLUMN) or messages=COLUMN, not both"
        )

    def names(role: str) -> tuple[str, ...]:
        return (mapping[role],) if role in mapping else ()

    if "messages" in mapping:
        shape = Chat(turns=names("messages"), system=names("system"), tools=names("tools"))
    else:
        shape = SingleTurn(
            user=names("user"),
            context=names("input"),
            answer=names("assistant"),
            system=names("system"),
            history=names("history"),
            tools=names("tools"),
        )

    def fits(record: Fields) -> list[str] | None:
        columns = mapping.values()
        return [column for column in columns if reach(record, column) is not MISSING] or None

    def read(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
        own_id = reach(record, mapping["id"]) if "id" in mapping else MISSING
        if own_id is not MISSING:
            others = {name: value for name, value in record.items() if name != mapping["id"]}
            record = {**others, "id": own_id}
        return [shape.read(record, options)]

    reads = ", ".join(f"{role}={column}" for role, column in mapping.items())
    return Importer(name="map", reads=reads, fits=fits, read=read)


MAP_ADVICE = "Name the columns with --map user=COLUMN,assistant=COLUMN"
SHOWN_COLUMNS = 12


@dataclass(frozen=True)
class DetectedFormat:
    """How a file is read.

    Attributes:
        importer: the importer of its shape.
        rename: names of its columns -> the importer's names for them, where they differ.
        columns: those that the importer uses, in its own order.
    """

    importer: Importer
    rename: dict[str, str]
    columns: tuple[str, ...]

    def renamed(self, record: Fields) -> Fields:
        """The record with the importer's names for its columns."""
        if not self.rename:
            return record
        return {self.rename.get(name, name): value for name, value in record.items()}

    @property
    def words(self) -> str:
        """The shape in words, such as `alpaca (instruction, output)`."""
        words = f"{self.importer.name} ({', '.join(self.columns) or self.importer.reads})"
        if self.rename:
            words += ", reading " + ", ".join(f"{a!r} as {b}" for a, b in self.rename.items())
        return words


def detect_format(file: str, records: Sequence[Fields], options: ReadOptions) -> DetectedFormat:
    """How to read a file whose first records are `records` (at least one).

    Raises:
        AmbiguousFormatError: several shapes fit, or none; the message says what to type.
        UsageError: the format is unknown, or a mapped column is not in the file.
    """
    if options.format not in ("auto", "map"):
        importer = importer_named(options.format)
        rename = {column: name for name, column in options.columns.items()}
        _check_mapped(file, records, list(rename))
        renamed = [{rename.get(k, k): v for k, v in record.items()} for record in records]
        return DetectedFormat(importer, rename, _columns(importer, renamed))
    if options.columns:
        importer = mapped_importer(options.columns)
        _check_mapped(file, records, list(options.columns.values()))
        return DetectedFormat(importer, {}, ())
    if options.format == "map":
        raise UsageError("--format map needs --map user=COLUMN,assistant=COLUMN")
    detected = _by_rules(file, records)
    if detected is not None:
        return detected
    folded = {name: name.strip().lower() for record in records for name in record}
    rename = {name: plain for name, plain in folded.items() if name != plain}
    if rename and len(set(folded.values())) == len(folded):
        renamed = [{rename.get(k, k): v for k, v in record.items()} for record in records]
        detected = _by_rules(file, renamed)
        if detected is not None:
            return DetectedFormat(detected.importer, rename, detected.columns)
    raise AmbiguousFormatError(
        file,
        f"no known shape fits its columns ({_shown(records)})",
        f"{MAP_ADVICE} (also input, system, messages, tools, history, id), "
        f"or give --format one of {', '.join(importers())}",
    )


def header_of(
    file: str, first: Sequence[str], second: Sequence[str], options: ReadOptions
) -> list[str] | None:
    """The column names of a delimited file, from its first two rows; None if it has no header.

    The first row is a header when it names the columns of --map, or those of the format (of any
    format, when none is given). Without header the columns get the format's own names if it has as
    many, and the names 1, 2, 3, ... if --map counts them.

    Raises:
        AmbiguousFormatError: neither is the case.
        MappingError: it is a header that has some columns of --map and lacks others.
    """
    names = [name.strip() for name in first]
    mapped = list(options.columns.values())
    if mapped and all(column in names for column in mapped):
        return names
    if mapped and all(column.isdigit() and 0 < int(column) <= len(names) for column in mapped):
        return None
    if any(column in names for column in mapped):  # so it is a header, without the others
        _check_mapped(file, [dict.fromkeys(names, "")], mapped)
    cells = [*second, *[""] * len(names)]
    folded = {name.lower(): cell for name, cell in zip(names, cells, strict=False)}
    named = options.format not in ("auto", "map")
    shapes = [importer_named(options.format)] if named else list(importers().values())
    if len(set(names)) == len(names) and any(shape.fits(folded) is not None for shape in shapes):
        return names
    if named and any(len(own) == len(names) for own in shapes[0].positional):
        return None
    shown = ", ".join(repr(name[:40]) for name in names[:SHOWN_COLUMNS])
    hints = f"{MAP_ADVICE} (or by number without a header: --map user=1,assistant={len(names)})"
    formats = [n for n, i in importers().items() if any(len(p) == len(names) for p in i.positional)]
    if formats and not named:
        hints += f", or say --format {' or '.join(formats)} if it has no header"
    raise AmbiguousFormatError(file, f"its first row names no known columns ({shown})", hints)


def names_without_header(width: int, options: ReadOptions) -> list[str]:
    """The names of the columns of a table without header."""
    if options.format not in ("auto", "map") and not options.mapping:
        for names in importer_named(options.format).positional:
            if len(names) == width:
                return list(names)
    return [str(number) for number in range(1, width + 1)]


def is_record(record: Fields, options: ReadOptions) -> bool:
    """Whether an object is a record by itself, of any shape that the options allow."""
    mapping = options.columns
    if options.format in ("auto", "map") and mapping:
        if "messages" in mapping:
            return are_turns(reach(record, mapping["messages"]))
        answer = reach(record, mapping.get("assistant", ""))
        return answer is not MISSING and not isinstance(answer, list | dict)
    renamed = {**record, **{n: record[c] for n, c in mapping.items() if c in record}}
    return any(importer.fits(renamed) is not None for importer in importers().values())


def _by_rules(file: str, records: Sequence[Fields]) -> DetectedFormat | None:
    """The one shape that the rules leave; None where no shape fits.

    Raises:
        AmbiguousFormatError: several are left, or one that is read on request only.
    """
    known = importers()
    candidates: dict[str, set[str]] = {}
    for importer in known.values():
        fitting = [used for record in records if (used := importer.fits(record)) is not None]
        if 2 * len(fitting) >= len(records):
            candidates[importer.name] = {column for used in fitting for column in used}
    free = {name: used for name, used in candidates.items() if not known[name].on_request}
    best = [name for name, used in free.items() if not any(used < own for own in free.values())]
    stopping = [
        name
        for name, used in candidates.items()
        if known[name].on_request and (not best or any(used > free[other] for other in best))
    ]
    if not best and not stopping:
        return None
    if len(best) == 1 and not stopping:
        return DetectedFormat(known[best[0]], {}, _columns(known[best[0]], records))
    raise _ambiguous(file, {name: candidates[name] for name in (*best, *stopping)})


def _ambiguous(file: str, fitting: dict[str, set[str]]) -> AmbiguousFormatError:
    known = importers()
    shapes = "; ".join(
        f"{name} ({', '.join(sorted(used))})"
        + (f", on request because {known[name].on_request}" if known[name].on_request else "")
        for name, used in fitting.items()
    )
    problem = "several shapes fit" if len(fitting) > 1 else "its shape is only read on request"
    formats = " or ".join(f"--format {name}" for name in fitting)
    return AmbiguousFormatError(
        file, f"{problem}: {shapes}", f"Type {formats}, or name columns with --map"
    )


def _columns(importer: Importer, records: Sequence[Fields]) -> tuple[str, ...]:
    """The columns that an importer uses of records, in its own order."""
    used: dict[str, None] = {}
    for record in records:
        used.update(dict.fromkeys(importer.fits(record) or ()))
    return tuple(used)


def _check_mapped(file: str, records: Sequence[Fields], columns: Sequence[str]) -> None:
    for column in columns:
        first = column.split(".")[0]
        if not any(column in record or first in record for record in records):
            raise MappingError(
                file,
                f"--map names the column {column!r}, but its columns are {_shown(records)}",
                "Correct --map",
            )


def _shown(records: Sequence[Fields]) -> str:
    names = list(dict.fromkeys(name for record in records for name in record))
    shown = ", ".join(str(name)[:40] for name in names[:SHOWN_COLUMNS])
    more = len(names) - SHOWN_COLUMNS
    return f"{shown}, and {more} more" if more > 0 else shown or "none"

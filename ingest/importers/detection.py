"""Which importer reads a file: the rules, and the question asked when they do not decide.

Over the first 50 objects: a shape is a candidate when it fits at least half of them. A candidate
whose columns all belong to another candidate gives way to it (question/answer gives way to a shape
that also explains a third column). One candidate left is taken. Shapes read on request only never
win by themselves, and they stop a shape whose columns they contain: preference pairs are not
silently read as chats. Where nothing fits, names are compared without case and outer blanks.

`--map`: the user says which column is what.

`messages=COL` reads a chat list; otherwise `assistant=COL` (and mostly `user=COL`) make the turns,
with `input`, `system`, `history` and `tools` as in Alpaca and ShareGPT. `a.b` reaches into objects.

Every importer by name: the built-in ones, and those that other packages bring.

A package adds one with an entry point of group `coresetdb.importers` that loads an `Importer`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from ...schemas.errors import AmbiguousFormatError, MappingError, UsageError
from ..readers.options import ReadOptions
from .chat import MESSAGES, OASST, SGD, SHAREGPT, are_turns, read_list
from .importer import (
    Fields,
    Importer,
    Parsed,
    Rejected,
    answer_of,
    as_canonical,
    dialogue,
    parsed,
    required,
    text_of,
    with_input,
)
from .preference import KTO, PREFERENCE
from .single_turn import (
    ALPACA,
    DOLLY,
    FLAN,
    NATURAL_INSTRUCTIONS,
    PAIR_IMPORTERS,
    SELF_INSTRUCT,
    SQUAD,
    TEXT,
    history_of,
)

MISSING = object()


def mapped_importer(mapping: dict[str, str]) -> Importer:
    """An importer for the columns a user has named.

    Raises:
        UsageError: the mapping names neither `messages` nor `assistant`.
    """
    columns = {key: column for key, column in mapping.items() if key != "records"}
    if ("messages" in columns) == ("assistant" in columns):
        raise UsageError(
            "--map needs assistant=COLUMN (mostly with user=COLUMN) or messages=COLUMN, not both"
        )

    def fits(record: Fields) -> list[str] | None:
        there = [column for column in columns.values() if reach(record, column) is not MISSING]
        return there or None

    def read(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
        given = {key: reach(record, column) for key, column in columns.items()}
        given = {key: value for key, value in given.items() if value is not MISSING}
        for key in ("messages", "user"):
            if key in columns and key not in given:
                raise Rejected(f"missing field: {columns[key]}")
        if "assistant" in columns and "assistant" not in given and not options.allow_empty_answer:
            raise Rejected(f"missing field: {columns['assistant']}")
        outside = {name: record[name] for name in record if name not in columns.values()}
        own_id = {"id": given.pop("id")} if "id" in given else {}
        if "messages" in given:
            conversation = read_list(given, ("messages",))
            rest = {**outside, **conversation.metadata, **own_id}
            instruction = conversation.instruction
            return [parsed(rest, (), instruction.messages, instruction.tools)]
        turns = history_of(given.get("history"))
        if "user" in columns:
            user = with_input(required(given, "user"), text_of(given.get("input"), "input"))
            turns.append(("user", user))
        turns.append(("assistant", answer_of({"assistant": None, **given}, "assistant", options)))
        system = text_of(given.get("system"), "system")
        tools = as_canonical(given.get("tools"), "tools")
        return [parsed({**outside, **own_id}, (), dialogue(system, *turns), tools)]

    reads = ", ".join(f"{key}={column}" for key, column in columns.items())
    return Importer(name="map", reads=reads, fits=fits, read=read)


def reach(record: Fields, column: str) -> Any:
    """The value of a column, or of a field inside objects named by dots; MISSING where absent."""
    if column in record:
        return record[column]
    value: Any = record
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            return MISSING
        value = value[part]
    return value


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
    *PAIR_IMPORTERS,
    PREFERENCE,
    KTO,
    SQUAD,
    TEXT,
)


@cache
def importers() -> dict[str, Importer]:
    """Every importer by its name, built-in ones first.

    Raises:
        UsageError: an entry point loads something else, or takes a name that is taken.
    """
    found = {importer.name: importer for importer in BUILT_IN}
    for entry in entry_points(group=GROUP):
        importer = entry.load()
        if not isinstance(importer, Importer):
            raise UsageError(f"entry point {entry.name} of {GROUP} is no Importer: {entry.value}")
        if importer.name in found:
            raise UsageError(f"two importers are called {importer.name!r}; see {entry.value}")
        found[importer.name] = importer
    return found


def importer_named(name: str) -> Importer:
    """The importer that `--format` calls `name` (or one of its aliases).

    Raises:
        UsageError: there is none; the message names those there are.
    """
    every = importers()
    names = {alias: each for each in every.values() for alias in (each.name, *each.aliases)}
    asked = name.lower()
    if asked not in names:
        close = difflib.get_close_matches(asked, names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UsageError(f"--format {name}: unknown{hint}; formats are {', '.join(every)}")
    return names[asked]


MAP_ADVICE = "Name the columns with --map user=COLUMN,assistant=COLUMN"
SHOWN_COLUMNS = 12


@dataclass(frozen=True)
class DetectedFormat:
    """The importer, the file's names for its columns ({file's: importer's}), and the columns."""

    importer: Importer
    rename: dict[str, str]
    columns: tuple[str, ...]

    def renamed(self, record: Fields) -> Fields:
        """The record under the importer's names."""
        if not self.rename:
            return record
        return {self.rename.get(name, name): value for name, value in record.items()}

    @property
    def words(self) -> str:
        """For the decision."""
        said = f"{self.importer.name} ({', '.join(self.columns) or self.importer.reads})"
        if self.rename:
            said += ", reading " + ", ".join(f"{a!r} as {b}" for a, b in self.rename.items())
        return said


def detect_format(file: str, records: Sequence[Fields], options: ReadOptions) -> DetectedFormat:
    """The importer for a file whose first objects are `records` (at least one).

    Raises:
        AmbiguousFormatError: several shapes fit, or none; the message says what to type.
        UsageError: the format is unknown, or a mapped column is not in the file.
    """
    if options.format not in ("auto", "map"):
        importer = importer_named(options.format)
        rename = {column: name for name, column in options.mapping.items() if name != "records"}
        _check_mapped(file, records, list(rename))
        renamed = [{rename.get(k, k): v for k, v in record.items()} for record in records]
        return DetectedFormat(importer, rename, _columns(importer, renamed))
    mapping = {key: column for key, column in options.mapping.items() if key != "records"}
    if mapping:
        importer = mapped_importer(mapping)
        _check_mapped(file, records, list(mapping.values()))
        return DetectedFormat(importer, {}, ())
    if options.format == "map":
        raise UsageError("--format map needs --map user=COLUMN,assistant=COLUMN")
    choice = _by_rules(file, records)
    if choice is not None:
        return choice
    folded = {name: name.strip().lower() for record in records for name in record}
    rename = {name: plain for name, plain in folded.items() if name != plain}
    if rename and len(set(folded.values())) == len(folded):
        choice = _by_rules(
            file, [{rename.get(k, k): v for k, v in record.items()} for record in records]
        )
        if choice is not None:
            return DetectedFormat(choice.importer, rename, choice.columns)
    raise AmbiguousFormatError(
        file,
        f"no known shape fits its columns ({_shown(records)})",
        f"{MAP_ADVICE} (also input, system, messages, tools, history, id), "
        f"or give --format one of {', '.join(importers())}",
    )


def header_of(
    file: str, first: Sequence[str], second: Sequence[str], options: ReadOptions
) -> list[str] | None:
    """The column names of a delimited file, from its first two rows; None when the first is data.

    A first row is a header when it names the columns asked for with --map, or those of the format
    (of any format, when none is given). Without header the columns are called by the format's own
    names if their number fits, and 1, 2, 3, ... if --map counts them.

    Raises:
        AmbiguousFormatError: neither is the case.
        MappingError: it is a header that has some columns of --map and lacks others.
    """
    names = [name.strip() for name in first]
    mapped = [column for key, column in options.mapping.items() if key != "records"]
    if mapped and all(column in names for column in mapped):
        return names
    if mapped and all(column.isdigit() and 0 < int(column) <= len(names) for column in mapped):
        return None
    if any(column in names for column in mapped):  # so it is a header, without the others
        _check_mapped(file, [dict.fromkeys(names, "")], mapped)
    cells = [*second, *[""] * len(names)]
    folded = {name.lower(): cell for name, cell in zip(names, cells, strict=False)}
    asked = options.format not in ("auto", "map")
    shapes = [importer_named(options.format)] if asked else list(importers().values())
    if len(set(names)) == len(names) and any(shape.fits(folded) is not None for shape in shapes):
        return names
    if asked and any(len(own) == len(names) for own in shapes[0].positional):
        return None
    said = ", ".join(repr(name[:40]) for name in names[:SHOWN_COLUMNS])
    hints = f"{MAP_ADVICE} (or by number without a header: --map user=1,assistant={len(names)})"
    formats = [n for n, i in importers().items() if any(len(p) == len(names) for p in i.positional)]
    if formats and not asked:
        hints += f", or say --format {' or '.join(formats)} if it has no header"
    raise AmbiguousFormatError(file, f"its first row names no known columns ({said})", hints)


def names_without_header(width: int, options: ReadOptions) -> list[str]:
    """What the columns of a table without header are called."""
    if options.format not in ("auto", "map") and not options.mapping:
        for names in importer_named(options.format).positional:
            if len(names) == width:
                return list(names)
    return [str(number) for number in range(1, width + 1)]


def is_record(record: Fields, options: ReadOptions) -> bool:
    """Whether an object is by itself a record of a shape that may be meant."""
    mapping = {key: column for key, column in options.mapping.items() if key != "records"}
    if options.format in ("auto", "map") and mapping:
        chat = mapping.get("messages")
        if chat is not None:
            return are_turns(reach(record, chat))
        answer = reach(record, mapping.get("assistant", ""))
        return answer is not MISSING and not isinstance(answer, list | dict)
    renamed = {**record, **{n: record[c] for n, c in mapping.items() if c in record}}
    return any(importer.fits(renamed) is not None for importer in importers().values())


def _by_rules(file: str, records: Sequence[Fields]) -> DetectedFormat | None:
    candidates: dict[str, set[str]] = {}
    for importer in importers().values():
        fitting = [used for record in records if (used := importer.fits(record)) is not None]
        if 2 * len(fitting) >= len(records):
            candidates[importer.name] = {column for used in fitting for column in used}
    every = importers()
    found = {name: used for name, used in candidates.items() if not every[name].on_request}
    asked = {name: used for name, used in candidates.items() if every[name].on_request}
    best = [
        name for name, used in found.items() if not any(used < other for other in found.values())
    ]
    stopping = [
        name for name, used in asked.items() if not best or any(used > found[b] for b in best)
    ]
    if len(best) == 1 and not stopping:
        return DetectedFormat(every[best[0]], {}, _columns(every[best[0]], records))
    if not best and not stopping:
        return None
    raise _ask(file, {name: candidates[name] for name in (*best, *stopping)})


def _ask(file: str, fitting: dict[str, set[str]]) -> AmbiguousFormatError:
    every = importers()
    shapes = "; ".join(
        f"{name} ({', '.join(sorted(used))})"
        + (f", on request because {every[name].on_request}" if every[name].on_request else "")
        for name, used in fitting.items()
    )
    several = "several shapes fit" if len(fitting) > 1 else "its shape is not taken unasked"
    formats = " or ".join(f"--format {name}" for name in fitting)
    return AmbiguousFormatError(
        file, f"{several}: {shapes}", f"Type {formats}, or name columns with --map"
    )


def _columns(importer: Importer, records: Sequence[Fields]) -> tuple[str, ...]:
    """The columns used, in the order in which the importer names them."""
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

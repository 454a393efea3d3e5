"""Which importer reads a file: its registry, `--map`, and how a shape is recognised.

The rules look at the first 50 records. A shape is a candidate when it fits at least half of them. A
candidate whose columns all belong to another one gives way to it (question/answer gives way to a
shape that also explains a third column). If one is left, it is taken. A shape that is read on
request only is never taken by itself, and it stops a candidate whose columns it contains:
preference pairs are not silently read as chats. Where nothing fits, names are compared without case
and outer blanks. Where the rules do not decide, an error says what to type.

A pair of columns is not taken where others beside it belong to the conversation (unread.py), and
with `--map` the user says which column is what (mapped.py).

Another package adds an importer with an entry point of the group `coresetdb.importers`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

from ...schemas.errors import AmbiguousFormatError, UsageError
from ..readers.options import MAP_KEYS, ReadOptions
from .chat import COMPLETION, DIALOGUE, MESSAGES, OASST, SGD, SHAREGPT, TURN_PROMPTS
from .importer import MISSING, Fields, Importer, reach
from .mapped import ALL_CHOICES, check_column, mapped_importer, shown_columns
from .preference import KTO, PREFERENCE
from .single_turn import (
    ALPACA,
    DOLLY,
    FLAN,
    NATURAL_INSTRUCTIONS,
    PAIRS,
    PROMPTS,
    SELF_INSTRUCT,
    SQUAD,
    TEXT,
)
from .turns import are_turns
from .unread import check_unread, suggested_mapping

GROUP = "coresetdb.importers"

BUILT_IN = (
    MESSAGES,
    SHAREGPT,
    COMPLETION,
    DIALOGUE,
    ALPACA,
    DOLLY,
    FLAN,
    NATURAL_INSTRUCTIONS,
    SELF_INSTRUCT,
    OASST,
    SGD,
    *PAIRS,
    PROMPTS,
    TURN_PROMPTS,
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


MAP_ADVICE = "Name the columns with --map user=COLUMN,assistant=COLUMN"
FURTHER_KEYS = [key for key in MAP_KEYS if key not in ("user", "assistant", "records")]
SHOWN_NAMES = 12


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
        for column in rename:
            check_column(file, records, column)
        renamed = [{rename.get(k, k): v for k, v in record.items()} for record in records]
        return DetectedFormat(importer, rename, _columns(importer, renamed))
    if options.columns:
        importer = mapped_importer(file, records, options)
        return DetectedFormat(importer, {}, ())
    if options.format == "map":
        raise UsageError("--format map needs --map user=COLUMN,assistant=COLUMN")
    detected = _by_rules(file, records, options, {})
    if detected is not None:
        return detected
    folded = {name: name.strip().lower() for record in records for name in record}
    rename = {name: plain for name, plain in folded.items() if name != plain}
    if rename and len(set(folded.values())) == len(folded):
        renamed = [{rename.get(k, k): v for k, v in record.items()} for record in records]
        original = {plain: name for name, plain in rename.items()}
        detected = _by_rules(file, renamed, options, original)
        if detected is not None:
            return DetectedFormat(detected.importer, rename, detected.columns)
    mapping = suggested_mapping(records) or ""
    raise AmbiguousFormatError(
        file,
        f"no known shape fits its columns ({shown_columns(records)})",
        (f"Perhaps {mapping}. " if mapping else "")
        + f"{MAP_ADVICE} (also {', '.join(FURTHER_KEYS)}; a plus puts columns together), "
        f"or give --format one of {', '.join(importers())}",
        mapping,
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
    mapped = [name for each in options.columns_in(names).values() for name in each]
    if ALL_CHOICES in options.columns:
        mapped = [name for name in mapped if name != ALL_CHOICES]
    if mapped and all(column in names for column in mapped):
        return names
    if mapped and all(column.isdigit() and 0 < int(column) <= len(names) for column in mapped):
        return None
    if any(column in names for column in mapped):  # so it is a header, without the others
        for column in mapped:
            check_column(file, [dict.fromkeys(names, "")], column)
    cells = [*second, *[""] * len(names)]
    folded = {name.lower(): cell for name, cell in zip(names, cells, strict=False)}
    named = options.format not in ("auto", "map")
    shapes = [importer_named(options.format)] if named else list(importers().values())
    known = any(shape.fits(folded) is not None for shape in shapes)
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if known and len(set(names)) == len(names):
        return names
    if named and any(len(own) == len(names) for own in shapes[0].positional):
        return None
    if known and twice:
        raise AmbiguousFormatError(
            file,
            f"its first row names the column {twice[:40]!r} twice",
            f"Rename one of them, or count columns: --map user=1,assistant={len(names)} (the first "
            "row is then read as a record)",
        )
    shown = ", ".join(repr(name[:40]) for name in names[:SHOWN_NAMES])
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
        columns = options.columns_in(record)
        if "messages" in columns:
            return are_turns(reach(record, columns["messages"][0]))
        named = (*columns.get("user", ()), *columns.get("assistant", ()))
        values = [reach(record, name) for name in named]
        return any(each is not MISSING and not isinstance(each, list | dict) for each in values)
    renamed = {**record, **{n: record[c] for n, c in mapping.items() if c in record}}
    return any(shape.fits(renamed) is not None for shape in _shapes(options))


def _shapes(options: ReadOptions) -> list[Importer]:
    """The importers that may read a file; without answers, only the examples of a target."""
    unanswered = options.allow_empty_answer
    return [each for each in importers().values() if unanswered or not each.unanswered]


def _by_rules(
    file: str, records: Sequence[Fields], options: ReadOptions, original: dict[str, str]
) -> DetectedFormat | None:
    """The one shape that the rules leave; None where no shape fits.

    Args:
        original: names of columns in `records` -> those in the file, where they differ.

    Raises:
        AmbiguousFormatError: several are left, or one that is read on request only, or one that
            leaves out a part of the conversation.
    """
    known = importers()
    candidates: dict[str, set[str]] = {}
    for importer in _shapes(options):
        if not importer.holds(records):
            continue
        fitting = [used for record in records if (used := importer.fits(record)) is not None]
        if 2 * len(fitting) >= len(records):
            candidates[importer.name] = {column for used in fitting for column in used}
    free = {name: used for name, used in candidates.items() if not known[name].on_request}
    earlier: list[set[str]] = []
    best = []
    for name, used in free.items():
        if used not in earlier and not any(used < own for own in free.values()):
            best.append(name)
        earlier.append(used)
    stopping = [
        name
        for name, used in candidates.items()
        if known[name].on_request and (not best or any(used > free[other] for other in best))
    ]
    if not best and not stopping:
        return None
    if len(best) == 1 and not stopping:
        importer = known[best[0]]
        columns = _columns(importer, records)
        if importer.is_pair:
            check_unread(file, importer, columns, records, original)
        return DetectedFormat(importer, {}, columns)
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

"""Which importer reads a file: the rules, and the question asked when they do not decide.

Over the first 50 objects: a shape is a candidate when it fits at least half of them. A candidate
whose columns all belong to another candidate gives way to it (question/answer gives way to a shape
that also explains a third column). One candidate left is taken. Shapes read on request only never
win by themselves, and they stop a shape whose columns they contain: preference pairs are not
silently read as chats. Where nothing fits, names are compared without case and outer blanks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...schemas.errors import AmbiguousFormatError, MappingError, UsageError
from ..reading.read_options import ReadOptions
from .mapped import MISSING, mapped_importer, reach
from .registry import importer_named, importers
from .shape import Fields, Importer
from .turns import are_turns

MAP_ADVICE = "Name the columns with --map user=COLUMN,assistant=COLUMN"
SHOWN_COLUMNS = 12


@dataclass(frozen=True)
class Choice:
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


def choose(file: str, records: Sequence[Fields], options: ReadOptions) -> Choice:
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
        return Choice(importer, rename, _columns(importer, renamed))
    mapping = {key: column for key, column in options.mapping.items() if key != "records"}
    if mapping:
        importer = mapped_importer(mapping)
        _check_mapped(file, records, list(mapping.values()))
        return Choice(importer, {}, ())
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
            return Choice(choice.importer, rename, choice.columns)
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


def _by_rules(file: str, records: Sequence[Fields]) -> Choice | None:
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
        return Choice(every[best[0]], {}, _columns(every[best[0]], records))
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

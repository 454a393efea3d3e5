"""Coresets from elsewhere: the ids of rows that another tool chose, recorded with their origin."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..schemas.errors import InputError, NoSuchFileError, UsageError
from ..schemas.ids import IdSet, ids_of, keys_of
from ..schemas.plain_text import count_of
from ..schemas.version import VERSION
from ..store.removal import tombstones
from .coresets import IMPORTED, Coreset, check_free, mix_of, record
from .names import check_name
from .queries import load_queries
from .removal import LONGEST_CELL, STANDARD_INPUT
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..store.store import Store

IDS_NAMED = 5
"""Unknown ids that an error names."""

_ID = re.compile("[0-9a-f]{32}")
_ADVICE = (
    "Give ids of 32 hexadecimal digits: one a line, a JSON list, or a column of JSON Lines, CSV, "
    "TSV or Parquet (id by default; --column names another)"
)


@dataclass(frozen=True)
class ChosenId:
    """A row that another tool chose: its id, and rank and score where it gave some."""

    id: str
    rank: int | None = None
    score: float | None = None


def import_coreset(
    store: Store,
    name: str,
    source: str | Sequence[str],
    *,
    column: str = "id",
    targets: Sequence[str] = (),
) -> Coreset:
    """Record rows that another tool chose as a coreset.

    They rank by the column `rank` where every one has a number there, else in their order; a
    column `score` is kept. An id that comes again counts once, at its first place.

    Args:
        store: an open store.
        name: of the coreset.
        source: a file, `-` for standard input, or the ids.
        column: that has the ids.
        targets: that the rows were chosen for, if any; reports compare the rows with them.

    Raises:
        UsageError: the name is taken or malformed, an id is no row of the pool, or there is no
            such target.
        InputError: the file cannot be read, or has no ids.
    """
    check_free(store, check_name("coreset", name))
    snapshot = Snapshot(store)
    targets = tuple(dict.fromkeys(targets))
    for target in targets:
        load_queries(snapshot, target, None)
    where = source if isinstance(source, str) else "memory"
    listed = read_chosen(source, column) if isinstance(source, str) else _checked(source)
    chosen = list({each.id: each for each in reversed(listed)}.values())[::-1]
    if chosen and all(each.rank is not None for each in chosen):
        chosen.sort(key=lambda each: each.rank or 0)
    ids = [each.id for each in chosen]
    _require_known(snapshot, ids, where)
    corpora = snapshot.take(ids, ["corpus"])["corpus"]
    scored = all(each.score is not None for each in chosen)
    count = len(ids)
    notes = ()
    if again := len(listed) - count:
        comes = "comes" if again == 1 else "come"
        notes = (f"{count_of(again, 'id')} {comes} again in {where}, and count once",)
    coreset = Coreset(
        store=store,
        name=name,
        targets=targets,
        method=IMPORTED,
        parameters=_parameters(snapshot, where, ids, again),
        fingerprint=None,
        seed=0,
        budget=str(count),
        pool_version=snapshot.pool_version,
        filter=None,
        eligible=snapshot.pool.count_rows(),
        short_by=0,
        distance=None,
        query_hash=None,
        created_at=datetime.now(UTC),
        members=pa.table(
            {
                "rank": pa.array(range(1, count + 1), pa.int64()),
                "id": pa.array(ids, pa.string()),
                "score": pa.array(
                    [each.score if scored else None for each in chosen], pa.float32()
                ),
                "target": pa.nulls(count, pa.string()),
                "query": pa.nulls(count, pa.string()),
                "corpus": corpora,
            }
        ),
        mix=mix_of(snapshot, corpora),
        notes=notes,
    )
    if not record(snapshot, coreset):  # somebody else was quicker with the name
        check_free(store, name)
    return coreset


def _parameters(snapshot: Snapshot, where: str, ids: Sequence[str], again: int) -> dict[str, Any]:
    digest = hashlib.blake2b("\n".join(ids).encode("ascii"), digest_size=16).hexdigest()
    return {
        "representation": None,
        "column": None,
        "selector": IMPORTED,
        "selector_version": 1,
        "options": {},
        "asked": {},
        "targets_version": snapshot.targets_version,
        "missing": 0,
        "tokens": None,
        "mmd": None,
        "code_version": VERSION,
        IMPORTED: {"file": PurePath(where).name, "ids": digest, "repeated": again},
    }


def _require_known(snapshot: Snapshot, ids: Sequence[str], where: str) -> None:
    """Refuse ids that are no rows of the pool; says which, and which of them were removed."""
    wanted = IdSet(keys_of(pa.array(ids, pa.string())))
    for batch in snapshot.pool.scanner(columns=["id"]).to_batches():
        wanted = wanted.without(IdSet(keys_of(batch.column("id"))))
        if not len(wanted):
            return
    unknown = set(ids_of(wanted.keys()))
    named = [row_id for row_id in ids if row_id in unknown]
    gone = len(tombstones(snapshot.store, named))
    removed = f"; {gone:,} of them were removed from the pool" if gone else ""
    rest = len(named) - IDS_NAMED
    raise UsageError(
        f"{where}: {count_of(len(named), 'id is', 'ids are')} in no row of the pool: "
        f"{', '.join(named[:IDS_NAMED])}{f' and {rest:,} more' if rest > 0 else ''}{removed}. "
        "Nothing was imported"
    )


def read_chosen(file: str, column: str = "id") -> list[ChosenId]:
    """Read ids with ranks and scores from a file of another tool.

    Args:
        file: Parquet, JSON, JSON Lines, CSV, TSV or plain text; `-` for standard input.
        column: that has the ids.

    Raises:
        NoSuchFileError: there is none.
        InputError: it has no ids, or one that is none; names the entry.
    """
    try:
        rows = list(_rows_of(file, column))
    except FileNotFoundError as error:
        raise NoSuchFileError(file, "there is no such file", "Check its name") from error
    except (OSError, ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise InputError(file, f"no ids can be read from it ({error})", _ADVICE) from error
    found = []
    for number, row in enumerate(rows, start=1):
        if column not in row:
            keys = ", ".join(map(str, row)) or "none"
            raise InputError(file, f"entry {number} has no {column!r}, but: {keys}", _ADVICE)
        try:
            rank, score = _number(row.get("rank")), _number(row.get("score"))
        except ValueError as error:
            advice = "The columns rank and score must hold numbers"
            raise InputError(file, f"entry {number}: {error}", advice) from error
        whole = None if rank is None or rank != int(rank) else int(rank)
        found.append(ChosenId(_id(file, number, row[column]), whole, score))
    if not found:
        raise InputError(file, "it holds no ids", _ADVICE)
    return found


def _checked(ids: Iterable[str]) -> list[ChosenId]:
    found = [ChosenId(_id("memory", number, each)) for number, each in enumerate(ids, start=1)]
    if not found:
        raise UsageError("no ids were given")
    return found


def _id(file: str, number: int, value: Any) -> str:
    text = value.strip().lower() if isinstance(value, str) else ""
    if not _ID.fullmatch(text):
        shown = repr(value)[:60]
        raise InputError(file, f"entry {number}: {shown} is no row id", _ADVICE)
    return text


def _number(value: Any) -> float | None:
    if value is None or value == "" or isinstance(value, bool):
        return None
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"{value!r} is no finite number")
    return number


def _rows_of(file: str, column: str) -> Iterator[Mapping[str, Any]]:
    """Yield what a file says of each row, under the names of its columns."""
    if file.endswith((".parquet", ".pq")):
        import pyarrow.parquet as pq

        parquet = pq.ParquetFile(file)
        names = parquet.schema_arrow.names
        if column not in names:
            raise ValueError(f"it has no column {column!r}, but: {', '.join(names)}")
        wanted = [name for name in (column, "rank", "score") if name in names]
        for batch in parquet.iter_batches(columns=wanted):
            yield from batch.to_pylist()
    elif file == STANDARD_INPUT:
        yield from _rows_of_text(sys.stdin, column)
    else:
        with open(file, encoding="utf-8-sig", newline="") as text:
            yield from _rows_of_text(text, column)


def _rows_of_text(text: Iterable[str], column: str) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    lines = iter(text)
    first = next((line for line in lines if line.strip()), "")
    start = first.lstrip()[:1]
    if start == "[" or (start == "{" and not _is_json(first)):
        whole = json.loads(first + "".join(lines))
        yield from _rows_of_json(whole, column)
    elif start == "{":
        for number, line in enumerate(chain([first], lines), start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is no object")
                if number == 1 and column not in row and isinstance(row.get("ids"), list):
                    yield from _rows_of_json(row["ids"], column)  # a manifest on one line
                else:
                    yield row
    else:
        tab = "\t" if "\t" in first else ","
        if column in next(csv.reader([first], delimiter=tab), []):
            yield from csv.DictReader(chain([first], lines), delimiter=tab)
        else:
            yield from ({column: line.strip()} for line in chain([first], lines) if line.strip())


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _rows_of_json(value: Any, column: str) -> Iterator[Mapping[str, Any]]:
    """Yield the entries of a JSON list of ids or objects, or of the list `ids` of an object."""
    if isinstance(value, dict):
        value = value.get("ids", value.get(column))
    if not isinstance(value, list):
        raise ValueError("it is neither a list nor an object with a list `ids`")
    for each in value:
        yield each if isinstance(each, dict) else {column: each}

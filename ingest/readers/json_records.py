"""The values of a JSON file as records: lists, objects around a record, and JSON texts.

What the first value is decides for the file:

| value | record |
|---|---|
| an object | the object |
| an object around one record, `{"n": 0, "row": {...}}` | the inner one, with what is beside it |
| an object of one record by its id, `{"id1": {...}}` | the inner one, with its id |
| JSON text of an object | that object |
| a list of turns | `conversations` or `messages`, as ShareGPT and OpenAI name it |
| a list of texts, or of pairs of texts | `data`, turn by turn, as UltraChat names it |
| a list of other values | a row of a table, whose first row may name the columns |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from ...schemas.errors import AmbiguousFormatError
from .decoding import BadRecord, Row, excerpt_of
from .json_rows import DECODER, LISTED, keyed, with_id

if TYPE_CHECKING:
    from .hints import Hints

SAMPLE_LISTS = 50


def as_records(file: str, rows: Iterator[Row], hints: Hints) -> tuple[Iterator[Row], str]:
    """The rows as objects, and what was done to make them so, in words.

    Raises:
        AmbiguousFormatError: the rows are lists of values without names.
    """
    ahead: list[Row] = []
    for row in rows:
        ahead.append(row)
        if not isinstance(row[1], BadRecord):
            break
    again = chain(ahead, rows)
    first = ahead[-1][1] if ahead else None
    if isinstance(first, str) and isinstance(_decoded(first), dict):
        return _changed(again, _decoded), ", each a JSON text"
    if isinstance(first, dict) and LISTED not in first:
        return _without_wrapping(again, first, hints)
    listed = first[LISTED] if isinstance(first, dict) else first
    if not isinstance(listed, list) or not listed:
        return again, ""
    if any(isinstance(item, list | dict) for item in listed):
        return _changed(again, lambda value: _conversation(value, hints)), ""
    return _named_rows(file, again, hints)


def _changed(rows: Iterator[Row], change: Callable[[Any], Any]) -> Iterator[Row]:
    return ((number, change(value)) for number, value in rows)


def _decoded(value: Any) -> Any:
    """The object that a JSON text stands for; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return DECODER.decode(value)
    except (ValueError, RecursionError):
        return value


def _without_wrapping(
    rows: Iterator[Row], first: dict[str, Any], hints: Hints
) -> tuple[Iterator[Row], str]:
    """Rows whose record stands one level deeper, under one key or under an id of its own."""
    if hints.is_record(first):
        return rows, ""
    inner = [key for key, value in first.items() if isinstance(value, dict)]
    inner = [key for key in inner if first[key] and hints.is_record(first[key])]
    if len(inner) != 1:
        return rows, ""
    if len(first) == 1 and inner[0] not in WRAPPINGS:
        return (
            (number, with_id(*_only_member(value), number)) for number, value in rows
        ), ", by id"
    return _changed(rows, lambda value: _unwrapped(value, inner[0])), f', below "{inner[0]}"'


CUT_CELLS = "truncated_cells"
WRAPPINGS = ("row", "data", "fields", "record", "example", "sample", "item", "json", "value")
"""Keys that say nothing about the record below them; any other single key is taken for its id."""


def _only_member(value: Any) -> tuple[Any, str]:
    """The value and the name of the one member of an object; anything else has no name."""
    if isinstance(value, dict) and len(value) == 1:
        name, inner = next(iter(value.items()))
        return inner, name
    return value, ""


def _unwrapped(value: Any, key: str) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get(key), dict):
        return value
    if value.get(CUT_CELLS):  # of the Hub's dataset viewer
        reason = f"cut off by the dataset viewer: {value[CUT_CELLS]}"
        return BadRecord(reason, excerpt_of(str(value[key])))
    return {**{name: own for name, own in value.items() if name != key}, **value[key]}


def _conversation(value: Any, hints: Hints) -> Any:
    """A list of turns, perhaps with an id beside it, as a record; anything else as it is."""
    listed = value.get(LISTED) if isinstance(value, dict) else value
    if not isinstance(listed, list):
        return value
    others = {k: v for k, v in value.items() if k != LISTED} if isinstance(value, dict) else {}
    if hints.are_turns(listed) and any(isinstance(turn, dict) for turn in listed):
        from_value = any(isinstance(turn, dict) and "from" in turn for turn in listed)
        return {"conversations" if from_value else "messages": listed, **others}
    return {"data": listed, **others} if _are_texts(listed) else listed


def _are_texts(values: list[Any]) -> bool:
    """Whether values are texts, or pairs of them."""
    flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return bool(flat) and all(isinstance(part, str) for part in flat)


def _named_rows(file: str, rows: Iterator[Row], hints: Hints) -> tuple[Iterator[Row], str]:
    """Lists of plain values: by columns that are named or counted, else turn by turn."""
    ahead = list(islice(rows, SAMPLE_LISTS))
    again = chain(ahead, rows)
    lists = [value for _, value in ahead if isinstance(value, list)]
    first = [str(value) for value in lists[0]]
    second = [str(value) for value in lists[1]] if len(lists) > 1 else []
    try:
        names = hints.header(first, second)
    except AmbiguousFormatError as error:
        turns = all(_are_texts(value) and len(value) > 1 for value in lists)
        if turns and len({len(value) for value in lists}) > 1:
            return _changed(again, lambda value: _conversation(value, hints)), ", turn by turn"
        raise AmbiguousFormatError(
            file,
            f"its rows are lists of values without names ({', '.join(first)[:80]})",
            "Count the columns, as in --map user=1,assistant=2",
        ) from error
    if names is None:
        named = hints.names(len(first))
        return _changed(again, lambda value: keyed(value, named)), ", no header"
    without_header = (row for row in again if row[1] is not lists[0])
    return _changed(without_header, lambda value: keyed(value, names)), ""

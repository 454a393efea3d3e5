"""How a JSON file lays out its records, told from its first megabyte.

| layout | looks like |
|---|---|
| lines | one object a line (JSON Lines, whatever the name) |
| array | `[{...}, {...}]` |
| objects | pretty-printed objects one after another, or a single object |
| below | `{"data": [{...}], ...}`: a list of objects below a key |
| columns | `{"instruction": [...], "output": [...]}` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .json_scan import DECODER, JsonScanner
from .rows import Bad

WINDOW_BYTES = 1 << 20
PROBED_LINES = 50
LIST_KEYS = ("data", "Instances", "rows", "records", "examples", "items", "instances", "train")
"""Keys under which a file's list is looked for first, in this order."""

SHARED_FACTS = ("Instances",)
"""Below these keys each record also gets the facts that stand beside the list."""


@dataclass(frozen=True)
class Layout:
    """`kind` as in the table above; `key` is the list's for "below", `choices` when several fit."""

    kind: str
    key: str = ""
    choices: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """For the decision."""
        return {
            "lines": "JSON Lines",
            "array": "JSON array",
            "objects": "JSON objects",
            "below": f'JSON list below "{self.key}"',
            "columns": "JSON object of columns",
        }[self.kind]


def find_layout(
    head: bytes, whole: bool, list_key: str | None, is_record: Callable[[dict[str, Any]], bool]
) -> Layout | None:
    """The layout of a file that begins with `head` (all of it if `whole`), None if it is no JSON.

    `is_record` tells whether an object is itself a record of a known shape; `list_key` is the key
    a user named with `--map records=KEY`.
    """
    text = head.decode("utf-8", "surrogateescape").lstrip(" \t\r\n")
    first = text[:1]
    if first == "[":
        first_line, _, others = text.partition("\n")
        if others.lstrip(" \t\r\n").startswith("{") and _whole_value(first_line):
            return Layout("lines")
        return Layout("array")
    if first != "{":
        return Layout("lines") if _has_object_line(text) else None
    try:
        value, end = DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return _layout_of_unparsed(text, whole, list_key)
    behind = text[end:].strip(" \t\r\n")
    several = Layout("objects" if "\n" in text[:end] else "lines")
    if behind or not whole:
        return several
    members = {key: _kind_of_parsed(member) for key, member in value.items()}
    if list_key is None and value.keys().isdisjoint(SHARED_FACTS) and is_record(value):
        return several
    return _layout_of_members(members, list_key, complete=True) or several


def _layout_of_unparsed(text: str, whole: bool, list_key: str | None) -> Layout:
    """A first object that is broken, or larger than the window."""
    if _has_object_line(text):
        return Layout("lines")
    if not whole:
        found = _layout_of_members(dict(_outline(text)), list_key, complete=False)
        if found is not None:
            return found
    first_line = text.partition("\n")[0].strip()
    return Layout("objects" if first_line == "{" or first_line.endswith(",") else "lines")


def _layout_of_members(
    members: dict[str, str], list_key: str | None, *, complete: bool
) -> Layout | None:
    """Below a key or columns, by what each member is ("objects", "values", "indexed", "one")."""
    if list_key is not None:
        return Layout("below", list_key)
    lists = [key for key, kind in members.items() if kind == "objects"]
    for key in LIST_KEYS:
        if key in lists or (key in members and members[key] == "empty"):
            return Layout("below", key)
    if len(lists) == 1:
        return Layout("below", lists[0])
    if len(lists) > 1:
        return Layout("below", lists[0], tuple(lists))
    kinds = set(members.values())
    if members and (kinds <= {"values", "empty"} or kinds == {"indexed"}):
        return Layout("columns")
    return None if complete or "objects" not in kinds else Layout("objects")


def _kind_of_parsed(member: Any) -> str:
    if isinstance(member, list):
        if not member:
            return "empty"
        return "objects" if isinstance(member[0], dict) else "values"
    if isinstance(member, dict) and "0" in member:
        return "indexed"
    return "one"


def _outline(text: str) -> Iterator[tuple[str, str]]:
    """Name and kind of the members of a first object that goes on behind the window."""
    scanner = JsonScanner(iter([text.encode("utf-8", "surrogateescape")]))
    scanner.take("{")
    while scanner.peek() == '"':
        key = scanner.value()
        if isinstance(key, Bad) or not scanner.take(":"):
            return
        opening = scanner.peek()
        if opening == "[":
            scanner.take("[")
            inner = scanner.peek()
            yield key, "objects" if inner == "{" else "empty" if inner == "]" else "values"
            while scanner.peek() not in ("]", ""):
                scanner.value()
                scanner.take(",")
            scanner.take("]")
        else:
            value = scanner.value()
            if isinstance(value, Bad):
                if opening == "{" and value.excerpt[1:].lstrip().startswith('"0"'):
                    yield key, "indexed"
                return
            yield key, _kind_of_parsed(value)
        if not scanner.take(","):
            return


def _whole_value(line: str) -> bool:
    try:
        DECODER.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


def _has_object_line(text: str) -> bool:
    """Whether one of the first lines is an object by itself."""
    lines = [line for line in text.split("\n", 4 * PROBED_LINES) if line.strip()][:PROBED_LINES]
    return any(line.lstrip().startswith("{") and _whole_value(line) for line in lines)

"""How a JSON file lays out its records, told from its first megabyte.

| layout | looks like |
|---|---|
| lines | one value a line (JSON Lines, whatever the name) |
| array | `[{...}, {...}]`, or a list of lists |
| objects | pretty-printed values one after another, or a single one |
| nested | `{"data": [{...}], ...}`: a list of records below a key, or an object of them by id |
| by id | `{"id1": {...}, "id2": {...}}`, pandas' `orient="index"` among them |
| columns | `{"instruction": [...], "output": [...]}`, or pandas' `{"instruction": {"0": ...}}` |
| split | pandas' `{"columns": [...], "data": [[...], ...]}` |

A record is an object, or a conversation: a list of turns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .decoding import BadRecord
from .json_rows import SHARED_FACTS, JsonScanner

WINDOW_BYTES = 1 << 20
PROBED_LINES = 50
LIST_KEYS = ("data", "Instances", "rows", "records", "examples", "items", "instances", "train")
"""The keys that a list of records is looked for under first, in this order."""

OPENINGS = {"{": "records", "[": "lists"}
"""What a list holds, by the first character of an element."""

LENIENT = json.JSONDecoder(parse_constant=lambda name: None)

IsRecord = Callable[[dict[str, Any]], bool]
AreTurns = Callable[[list[Any]], bool]


@dataclass(frozen=True)
class Layout:
    """`kind` as in the table above; for "nested" the key of the list, or `choices` of several.

    Attributes:
        beside: keys of other lists of objects, which are not read.
    """

    kind: str
    key: str = ""
    choices: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The layout in words, for the user."""
        words = {
            "lines": "JSON Lines",
            "array": "JSON array",
            "objects": "JSON objects",
            "nested": f'JSON list below "{self.key}"',
            "by id": "JSON objects by id",
            "columns": "JSON object of columns",
            "split": 'JSON of columns and data (pandas\' "split")',
        }[self.kind]
        if self.beside:
            others = ", ".join(f'"{key}"' for key in self.beside)
            words += f" (not those below {others}: --map records=KEY reads one)"
        return words


@dataclass(frozen=True)
class Member:
    """What stands under a key of an object.

    Attributes:
        kind: "records" (a list of objects), "turns" (a list of turns), "lists" (a list of lists),
            "values" (another list), "empty" (an empty list), "object", or "one" (plain value).
        first: of a list, its first element; of an object, the object, or its first members where
            it does not end within the window.
    """

    kind: str
    first: Any = None


def find_layout(
    head: bytes, whole: bool, list_key: str | None, is_record: IsRecord, are_turns: AreTurns
) -> Layout | None:
    """The layout of a file that begins with `head`; None if it is not JSON.

    Args:
        whole: whether `head` is the whole file.
        list_key: the key that a user named with `--map records=KEY`.
        is_record: returns whether an object is itself a record of a known shape.
        are_turns: returns whether a list of objects is a conversation.
    """
    text = head.decode("utf-8", "surrogateescape").lstrip(" \t\r\n")
    first = text[:1]
    find = _Finder(list_key, is_record, are_turns)
    if first == "[":
        return find.layout_of_list(text)
    if first != "{":
        return Layout("lines") if _has_object_line(text) or _is_text_of_json(text) else None
    try:
        value, end = LENIENT.raw_decode(text)
    except (ValueError, RecursionError):
        return find.layout_of_unparsed(text, whole)
    behind = text[end:].strip(" \t\r\n")
    several = Layout("objects" if "\n" in text[:end] else "lines")
    if behind or not whole:
        return several
    if list_key is None and value.keys().isdisjoint(SHARED_FACTS) and is_record(value):
        return several
    return find.layout_of_members(find.members(value), complete=True) or several


@dataclass(frozen=True)
class _Finder:
    """What `find_layout` is told."""

    list_key: str | None
    is_record: IsRecord
    are_turns: AreTurns

    def layout_of_list(self, text: str) -> Layout:
        """The layout of a file whose first value is a list."""
        first_line, _, others = text.partition("\n")
        next_line = others.lstrip(" \t\r\n")
        if next_line.startswith("{") and _whole_value(first_line):
            return Layout("lines")
        element = _first_element(text)
        is_conversation = self._are_turns([element])
        if next_line.startswith("[") and _whole_value(first_line) and not _is_array(element):
            return Layout("lines")  # a list a line
        if is_conversation and next_line.startswith("[") and _whole_value(first_line):
            return Layout("lines")
        return Layout("objects") if is_conversation else Layout("array")

    def layout_of_unparsed(self, text: str, whole: bool) -> Layout:
        """The layout of a file whose first object is broken, or larger than the window."""
        first_line = text.partition("\n")[0].strip()
        pretty = first_line == "{" or (not whole and "\n" not in text)
        if not pretty and _has_object_line(text):
            return Layout("lines")
        if not whole:
            layout = self.layout_of_members(dict(self._outline(text)), complete=False)
            if layout is not None:
                return layout
        if _has_object_line(text):
            return Layout("lines")
        return Layout("objects" if first_line == "{" or first_line.endswith(",") else "lines")

    def layout_of_members(self, members: dict[str, Member], *, complete: bool) -> Layout | None:
        """Records below a key or by id, or columns; None for an object that is one record."""
        if self.list_key is not None:
            return Layout("nested", self.list_key)
        kinds = {member.kind for member in members.values()}
        if _is_split(members):
            return Layout("split")
        lists = [key for key, member in members.items() if member.kind == "records"]
        if members and kinds <= {"records", "turns", "lists", "values", "empty"}:
            row = {key: member.first for key, member in members.items()}
            if len(members) > 1 and self.is_record(row):
                return Layout("columns")
        for key in LIST_KEYS:
            if key in lists or (key in members and members[key].kind == "empty"):
                beside = tuple(other for other in lists if other != key)
                return Layout("nested", key, beside=beside)
        if len(lists) == 1:
            return Layout("nested", lists[0])
        if len(lists) > 1:
            return Layout("nested", lists[0], tuple(lists))
        if members and kinds <= {"turns"}:
            return Layout("by id")
        listed = [key for key, member in members.items() if member.kind == "lists"]
        if len(listed) == 1 and kinds & {"one", "object"} and kinds <= {"lists", "one", "object"}:
            return Layout("nested", listed[0])
        if members and kinds <= {"values", "lists", "empty"}:
            return self._layout_of_lists(members)
        if members and kinds <= {"object"}:
            return self._layout_of_objects(members)
        for key, member in members.items():  # records by id below a key, facts beside it
            if self._are_records_by_id(member):
                return Layout("nested", key)
        return None if complete or not lists else Layout("objects")

    def _layout_of_lists(self, members: dict[str, Member]) -> Layout:
        """Columns; or conversations below a key."""
        conversations = [key for key, member in members.items() if self._are_turns(member.first)]
        if len(members) == 1 and conversations:
            key = conversations[0]
            if not self.is_record({key: members[key].first}):
                return Layout("nested", key)
        return Layout("columns")

    def _layout_of_objects(self, members: dict[str, Member]) -> Layout | None:
        """Records by id or columns with labels; None for objects that have nothing in common."""
        firsts = [member.first for member in members.values()]
        first = firsts[0]
        if not first:
            return None
        if self.is_record(first):
            return Layout("by id")
        row = {key: next(iter(member.first.values()), None) for key, member in members.items()}
        if self.is_record(row):
            return Layout("columns")
        if len(members) == 1 and self._are_records_by_id(next(iter(members.values()))):
            return Layout("nested", next(iter(members)))
        if all(label.isdigit() for label in first):
            return Layout("columns")
        common = set(first).intersection(*firsts)
        return Layout("by id") if common and len(members) > 1 else None

    def _are_records_by_id(self, member: Member) -> bool:
        if member.kind != "object" or not member.first:
            return False
        inner = next(iter(member.first.values()))
        return (isinstance(inner, dict) and self.is_record(inner)) or self._are_turns(inner)

    def members(self, value: dict[str, Any]) -> dict[str, Member]:
        """The members of an object that was parsed."""
        return {key: self._member(each) for key, each in value.items()}

    def _member(self, value: Any) -> Member:
        if isinstance(value, dict):
            return Member("object", value)
        if not isinstance(value, list):
            return Member("one", value)
        return self._list(value[0], value) if value else Member("empty")

    def _list(self, first: Any, elements: list[Any]) -> Member:
        if isinstance(first, dict):
            return Member("turns" if self._are_turns(elements) else "records", first)
        return Member("lists" if isinstance(first, list) else "values", first)

    def _are_turns(self, value: Any) -> bool:
        return (
            isinstance(value, list)
            and bool(value)
            and isinstance(value[0], dict)
            and self.are_turns(value)
            and not self.is_record(value[0])
        )

    def _outline(self, text: str) -> Iterator[tuple[str, Member]]:
        """The members of an object that does not end within the window, as far as it goes."""
        scanner = JsonScanner(iter([text.encode("utf-8", "surrogateescape")]), decoder=LENIENT)
        scanner.take("{")
        first_member = True
        while scanner.peek() == '"':
            key = scanner.value()
            if not isinstance(key, str) or not scanner.take(":"):
                return
            opening = scanner.peek()
            if not opening:
                return
            if opening == "[":
                scanner.take("[")
                inner = scanner.peek()
                if inner == "]":
                    yield key, Member("empty")
                elif inner:
                    first = scanner.value()
                    if not isinstance(first, BadRecord):
                        yield key, self._list(first, [first])
                    elif first_member:  # one record is larger than the window
                        yield key, Member(OPENINGS.get(inner, "values"))
                while scanner.peek() not in ("]", ""):
                    scanner.value()
                    scanner.take(",")
                scanner.take("]")
            else:
                rest = scanner.rest() if opening == "{" else ""
                value = scanner.value()
                if not isinstance(value, BadRecord):
                    yield key, self._member(value)
                elif opening == "{":
                    inner = {name: member.first for name, member in self._outline(rest)}
                    yield key, Member("object", inner)
                    return
                else:
                    return
            first_member = False
            if not scanner.take(","):
                return


def _is_split(members: dict[str, Member]) -> bool:
    """Whether an object is what pandas writes with `orient="split"`."""
    names = members.get("columns", Member("one"))
    data = members.get("data", Member("empty"))
    others = members.keys() - {"columns", "index", "data"}
    return names.kind in ("values", "lists") and data.kind in ("lists", "empty") and not others


def _first_element(text: str) -> Any:
    """The first element of a list; None where it has none or does not end within the window."""
    scanner = JsonScanner(iter([text.encode("utf-8", "surrogateescape")]), decoder=LENIENT)
    scanner.take("[")
    if scanner.peek() in ("]", ""):
        return None
    value = scanner.value()
    return None if isinstance(value, BadRecord) else value


def _is_array(element: Any) -> bool:
    """Whether a list with this element holds records, rather than being one."""
    return isinstance(element, dict) or element is None


def _whole_value(line: str) -> bool:
    try:
        LENIENT.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_text_of_json(text: str) -> bool:
    """Whether a file begins with a text that holds the JSON of an object."""
    try:
        value, _ = LENIENT.raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, str) and value.lstrip().startswith("{") and _whole_value(value)


def _has_object_line(text: str) -> bool:
    """Whether one of the first lines is an object by itself."""
    lines = [line for line in text.split("\n", 4 * PROBED_LINES) if line.strip()][:PROBED_LINES]
    return any(line.lstrip().startswith("{") and _whole_value(line) for line in lines)

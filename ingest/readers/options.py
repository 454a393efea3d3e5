"""How files are to be read: everything a user may say about it, as JSON values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...schemas.errors import UsageError

MAP_KEYS = (
    "user",
    "input",
    "choices",
    "reasoning",
    "assistant",
    "system",
    "messages",
    "tools",
    "history",
    "id",
    "records",
)
"""What `--map KEY=COLUMN` may name when no format is given (docs/importers.md)."""

CHOICES = ("letters", "text")
"""What the answer to a question with choices may become (docs/importers.md)."""

ROLES = ("user", "assistant", "system", "tool", "tool_call")
"""What `--role NAME=ROLE` may make of a speaker."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read files. Two equal options read equal files to equal records.

    Attributes:
        format: an importer's name, or "auto" to look at the columns and the first records.
        mapping: with format "auto", MAP_KEYS -> column (`a.b` reaches into objects; numbers count
            the columns of a table without header; `a+b` puts columns together). With a named
            format, that format's column -> the file's column. "records" names the key of the list
            in a JSON document.
        corpus: name of the corpus; None takes that of the file's data set.
        encoding: text encoding; None reads UTF-8, and UTF-16 or UTF-32 where marked or evident.
        explanation: put a chain of thought (FLAN's `explanation`) before the answer; otherwise it
            is metadata.
        unescape: in CSV and TSV, read \\n, \\t, \\r and \\\\ as the characters they stand for.
        allow_empty_answer: targets may have an empty or missing answer.
        choices: whether the answer to a question with choices is a letter ("letters") or the
            choice itself ("text"); None where there are no choices.
        first_choice: the number of the first choice where answers are numbers, 0 or 1; None tells
            it from the first records.
        strip_end: a marker that is taken off the end of answers.
        roles: names of speakers -> ROLES, beside those that are known.
    """

    format: str = "auto"
    mapping: dict[str, str] = field(default_factory=dict)
    corpus: str | None = None
    encoding: str | None = None
    explanation: bool = False
    unescape: bool = False
    allow_empty_answer: bool = False
    choices: str | None = None
    first_choice: int | None = None
    strip_end: str | None = None
    roles: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format in ("auto", "map"):
            unknown = [key for key in self.mapping if key not in MAP_KEYS]
            if unknown:
                raise UsageError(
                    f"--map {unknown[0]}=...: unknown key; "
                    f"without --format the keys are {', '.join(MAP_KEYS)}"
                )
        if self.choices not in (None, *CHOICES):
            raise UsageError(f"--choices {self.choices}: write {' or '.join(CHOICES)}")
        if self.first_choice not in (None, 0, 1):
            raise UsageError(f"--first-choice {self.first_choice}: write 0 or 1")
        for name, role in self.roles.items():
            if role not in ROLES:
                raise UsageError(f"--role {name}={role}: the roles are {', '.join(ROLES)}")

    @property
    def columns(self) -> dict[str, str]:
        """The mapping without `records`, which is no column."""
        return {key: column for key, column in self.mapping.items() if key != "records"}

    def columns_in(self, known: Collection[str]) -> dict[str, tuple[str, ...]]:
        """The mapped columns of a file, `a+b` taken apart.

        Args:
            known: names of its columns; one that has a plus in its name is not taken apart.
        """
        return {key: _parts(column, known) for key, column in self.columns.items()}

    def as_dict(self) -> dict[str, Any]:
        """The options as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ReadOptions:
        """The options that `as_dict` wrote."""
        return cls(**values)

    @classmethod
    def joined(cls, mapping: Mapping[str, str | Sequence[str]] | None) -> dict[str, str]:
        """A mapping in which a list of columns may stand for `a+b`."""
        pairs = (mapping or {}).items()
        return {key: value if isinstance(value, str) else PLUS.join(value) for key, value in pairs}

    @classmethod
    def parse_roles(cls, texts: Sequence[str]) -> dict[str, str]:
        """Each `NAME=ROLE` as an entry of a dictionary.

        Raises:
            UsageError: one has no equals sign.
        """
        roles: dict[str, str] = {}
        for text in texts:
            name, equals, role = text.rpartition("=")
            if not equals or not name.strip():
                raise UsageError(f"--role {text}: write NAME=ROLE, such as --role narrator=system")
            roles[name.strip()] = role.strip()
        return roles

    @classmethod
    def parse_mapping(cls, text: str | None) -> dict[str, str]:
        """`user=COL,assistant=COL` as a dictionary.

        Raises:
            UsageError: a part is not KEY=COLUMN, or names a key twice.
        """
        mapping: dict[str, str] = {}
        for part in filter(None, (text or "").split(",")):
            key, equals, column = part.partition("=")
            if not equals or not key.strip() or not column.strip() or key.strip() in mapping:
                raise UsageError(
                    f"--map {text}: {part!r} is not KEY=COLUMN; "
                    "write for example --map user=question,assistant=answer"
                )
            mapping[key.strip()] = column.strip()
        return mapping


PLUS = "+"


def _parts(column: str, known: Collection[str]) -> tuple[str, ...]:
    if PLUS not in column or column in known:
        return (column,)
    return tuple(part.strip() for part in column.split(PLUS))

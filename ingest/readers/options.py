"""How files are to be read: everything a user may say about it, as JSON values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ...schemas.errors import UsageError

MAP_KEYS = (
    "user",
    "input",
    "assistant",
    "system",
    "messages",
    "tools",
    "history",
    "id",
    "records",
)
"""What `--map KEY=COLUMN` may name when no format is given (docs/importers.md)."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read files. Two equal options read equal files to equal records.

    Attributes:
        format: an importer's name, or "auto" to look at the columns and the first records.
        mapping: with format "auto", MAP_KEYS -> column (`a.b` reaches into objects; numbers count
            the columns of a table without header). With a named format, that format's column ->
            the file's column. "records" names the key of the list in a JSON document.
        corpus: name of the corpus; None takes that of the file's data set.
        encoding: text encoding; None reads UTF-8, and UTF-16 or UTF-32 where marked or evident.
        explanation: put a chain of thought (FLAN's `explanation`) before the answer; otherwise it
            is metadata.
        unescape: in CSV and TSV, read \\n, \\t, \\r and \\\\ as the characters they stand for.
        allow_empty_answer: targets may have an empty or missing answer.
    """

    format: str = "auto"
    mapping: dict[str, str] = field(default_factory=dict)
    corpus: str | None = None
    encoding: str | None = None
    explanation: bool = False
    unescape: bool = False
    allow_empty_answer: bool = False

    def __post_init__(self) -> None:
        if self.format in ("auto", "map"):
            unknown = [key for key in self.mapping if key not in MAP_KEYS]
            if unknown:
                raise UsageError(
                    f"--map {unknown[0]}=...: unknown key; "
                    f"without --format the keys are {', '.join(MAP_KEYS)}"
                )

    @property
    def columns(self) -> dict[str, str]:
        """The mapping without `records`, which is no column."""
        return {key: column for key, column in self.mapping.items() if key != "records"}

    def as_dict(self) -> dict[str, Any]:
        """The options as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ReadOptions:
        """The options that `as_dict` wrote."""
        return cls(**values)

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

"""Records of a few lines, read as a file is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import SourceFile, open_source
from coresetdb.schemas.instruction import Record, Reject
from helpers.files import write_jsonl


def opened(tmp_path: Path, *rows: Any, **options: Any) -> SourceFile:
    """A JSON Lines file of these rows, opened."""
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    return open_source(str(path), ReadOptions(**options))


def read(tmp_path: Path, *rows: Any, **options: Any) -> list[Record | Reject]:
    """What is read of these rows."""
    return list(opened(tmp_path, *rows, **options))


def turns(item: Record | Reject) -> list[tuple[str, str]]:
    """The (role, content) pairs of a record."""
    assert isinstance(item, Record), item
    return [(message.role, message.content) for message in item.instruction.messages]


def reasons(items: list[Record | Reject]) -> list[str]:
    """Why each was rejected; "" for a record."""
    return [item.reason if isinstance(item, Reject) else "" for item in items]

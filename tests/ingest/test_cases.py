"""Every input of the shared cases: exactly what a committed table says becomes of it.

The cases are inputs that were once read wrongly, lost content or ended badly. An entry of the table
has what is done with an input (`ingest` or `target` with options of reading, or `init` for the
folder of a model) and what came of it. After a change that is meant:

    python tests/ingest/test_cases.py --update     # then read the diff
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import coresetdb
from coresetdb.ingest.readers.folders import passed_over_sentences
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import SourceFile, open_sources
from coresetdb.schemas.errors import CoresetDBError, InputError
from coresetdb.schemas.instruction import Record

HERE = Path(__file__).parent
CASES = (HERE.parents[1].resolve().parent / "shared" / "data" / "cases").resolve()
FILE = HERE / "cases_expected.json"
TABLE: dict[str, list[dict[str, Any]]] = (
    json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
)
ENTRIES = [(name, number) for name, entries in TABLE.items() for number in range(len(entries))]
SHOWN_CHARACTERS = 160

pytestmark = pytest.mark.skipif(
    not CASES.is_dir(), reason="the shared data (../shared/data) is not here"
)


def outcome(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of an input with what comes of it now."""
    task = {"task": entry["task"], "options": entry["options"]}
    try:
        found = _init(name, **entry["options"]) if entry["task"] == "init" else _read(name, entry)
    except InputError as error:
        return {**task, "error": type(error).__name__, "problem": error.problem}
    except CoresetDBError as error:
        return {**task, "error": type(error).__name__, "problem": _plain(str(error))}
    return {**task, **found}


def _init(name: str, **options: Any) -> dict[str, Any]:
    """What `coresetdb init --backbone` says of the folder of a model."""
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "pool")
        database = coresetdb.create(store, backbone=str(CASES / name), **options)
        return {"notices": [_plain(sentence) for sentence in database.notices]}


def _read(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """What is read of a file or folder: each source, and what is not read."""
    as_target = entry["task"] == "target"
    options = ReadOptions(**entry["options"], allow_empty_answer=as_target)
    opened = open_sources(str(CASES / name), options)
    read = [_account(source) for source in opened.sources()]
    found = {
        "sources": read,
        "passed over": passed_over_sentences(opened.passed_over),
        "not read": [_plain(str(error)) for error in opened.unreadable],
    }
    return {key: value for key, value in found.items() if value}


def _account(source: SourceFile) -> dict[str, Any]:
    items = list(source)
    good = [item for item in items if isinstance(item, Record)]
    reasons = Counter(item.reason for item in items if not isinstance(item, Record))
    account = {
        "file": Path(source.file).relative_to(CASES).as_posix(),
        "corpus": source.corpus,
        "decision": source.decision,
        "accepted": len(good),
        "distinct": len({item.instruction.id for item in good}),
        "rejected": dict(reasons),
        "remarks": source.remarks,
        "vectors": source.vectors,
        "fault": source.fault.problem if source.fault else None,
        "first": _shown(good[0]) if good else None,
    }
    return {key: value for key, value in account.items() if value not in (None, [], {})}


def _shown(record: Record) -> dict[str, Any]:
    """What the first record became, long texts cut."""
    turns = record.instruction.messages
    shown = {
        "messages": [{key: _cut(text) for key, text in turn.as_dict().items()} for turn in turns],
        "tools": _cut(record.instruction.tools),
        "metadata": _cut(record.metadata),
        "source_id": record.source_id,
    }
    return {key: value for key, value in shown.items() if value not in (None, "{}")}


def _cut(value: Any) -> Any:
    is_long = isinstance(value, str) and len(value) > SHOWN_CHARACTERS
    return f"{value[:SHOWN_CHARACTERS]} ... ({len(value)} characters)" if is_long else value


def _plain(text: str) -> str:
    """A message without the place of the cases on this machine."""
    return text.replace(f"{CASES}{os.sep}", "")


@pytest.mark.parametrize(("name", "number"), ENTRIES)
def test_case(name: str, number: int) -> None:
    expected = TABLE[name][number]
    assert outcome(name, expected) == expected


def test_every_case_is_in_the_table() -> None:
    assert {path.name for path in CASES.iterdir()} == set(TABLE)


def _update() -> None:
    table = {}
    for path in sorted(CASES.iterdir()):
        task = "init" if path.name.startswith("model_") else "ingest"
        entries = TABLE.get(path.name) or [{"task": task, "options": {}}]
        table[path.name] = [outcome(path.name, entry) for entry in entries]
    FILE.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit(f"usage: python {sys.argv[0]} --update")
    _update()

"""Every real corpus of the shared data imports, with exactly the counts of a committed table."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_source
from coresetdb.schemas.errors import AmbiguousFormatError
from coresetdb.schemas.instruction import Record

HERE = Path(__file__).parent
DATA = HERE.parents[2] / ".." / "shared" / "data"
TABLE = json.loads((HERE / "pools_expected.json").read_text(encoding="utf-8"))
CASES = [(name, number) for name, rows in TABLE.items() for number in range(len(rows))]

pytestmark = pytest.mark.skipif(
    not (DATA / "pools").is_dir(), reason="the shared data (../shared/data) is not here"
)


@pytest.mark.parametrize(("name", "number"), CASES)
def test_pool(name: str, number: int) -> None:
    expected: dict[str, Any] = TABLE[name][number]
    options = ReadOptions(**expected["options"])
    if "error" in expected:
        with pytest.raises(AmbiguousFormatError) as error:
            open_source(str(DATA / "pools" / name), options)
        assert error.value.problem == expected["problem"]
        return
    source = open_source(str(DATA / "pools" / name), options)
    ids: list[str] = []
    reasons: Counter[str] = Counter()
    for item in source:
        if isinstance(item, Record):
            ids.append(item.instruction.id)
        else:
            reasons[item.reason.partition(":")[0]] += 1
    assert {
        "options": expected["options"],
        "decision": source.decision,
        "accepted": len(ids),
        "distinct": len(set(ids)),
        "rejected": dict(reasons),
        "fault": source.fault,
    } == expected


def test_every_pool_is_in_the_table() -> None:
    pools = DATA / "pools"
    files = {path.relative_to(pools).as_posix() for path in pools.rglob("*") if path.is_file()}
    assert files == set(TABLE)


@pytest.mark.parametrize("path", sorted((DATA / "targets").glob("*.query.jsonl.gz")), ids=str)
def test_targets(path: Path) -> None:
    source = open_source(str(path), ReadOptions(allow_empty_answer=True))
    items = list(source)
    assert source.format == "prompt_target"
    assert items and all(isinstance(item, Record) and item.source_id for item in items)
    unanswered = sum(item.instruction.messages[-1].role == "user" for item in items)
    assert unanswered == (len(items) if path.name.startswith("ifeval") else 0)

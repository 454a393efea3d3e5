"""Every hostile file of the shared data: exactly the counts and reasons of a committed table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.peak_memory import PEAK_BYTES

from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_source
from coresetdb.schemas.errors import InputError
from coresetdb.schemas.instruction import Record

HERE = Path(__file__).parent
HARD = HERE.parents[2] / ".." / "shared" / "data" / "hard"
TABLE = json.loads((HERE / "hard_expected.json").read_text(encoding="utf-8"))
CASES = [(name, number) for name, rows in TABLE.items() for number in range(len(rows))]
MEMORY_BYTES = 2_000_000_000

pytestmark = pytest.mark.skipif(
    not HARD.is_dir(), reason="the shared data (../shared/data) is not here"
)


def account(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What reading a file gives, in the form of the table."""
    try:
        source = open_source(str(HARD / name), ReadOptions(**options))
        items = list(source)
    except InputError as error:
        return {"options": options, "error": type(error).__name__, "problem": error.problem}
    good = [item for item in items if isinstance(item, Record)]
    reasons = Counter(
        item.reason.partition(":")[0] for item in items if not isinstance(item, Record)
    )
    return {
        "options": options,
        "decision": source.decision,
        "accepted": len(good),
        "distinct": len({item.instruction.id for item in good}),
        "rejected": dict(reasons),
        "fault": source.fault.problem if source.fault else None,
    }


@pytest.mark.parametrize(("name", "number"), CASES)
def test_hard_file(name: str, number: int) -> None:
    expected = TABLE[name][number]
    assert account(name, expected["options"]) == expected


def test_every_hard_file_is_in_the_table() -> None:
    files = {path.name for path in HARD.iterdir() if path.name != "EXPECTED.json"}
    assert files == set(TABLE)


def test_good_records_agree_with_the_files_own_account() -> None:
    """EXPECTED.json tells how many good records there are, where that is beyond doubt."""
    told = json.loads((HARD / "EXPECTED.json").read_text(encoding="utf-8"))
    for name, about in told.items():
        good = about.get("ok", about.get("ok_utf8"))
        if good is not None:
            assert TABLE[name][0]["accepted"] == good, name


def test_refused_lines_of_the_broken_file() -> None:
    items = list(open_source(str(HARD / "invalid_lines.jsonl")))
    said = [item.instruction.messages[0].content for item in items if isinstance(item, Record)]
    assert said == ["ok 1", "ok 2", "dup key", "ok 3", "ok 4 glued to 3", "ok 6", "ok 7"]
    refused = [item.line for item in items if not isinstance(item, Record)]
    assert refused == [2, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 18, 19, 20, 21, 22, 23, 25, 26, 28]


def test_memory_of_a_process_that_reads_them_all() -> None:
    code = (
        "import sys\n"
        "from coresetdb.ingest.sources import open_source\n"
        "from coresetdb.schemas.errors import InputError\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        for item in open_source(name):\n"
        "            pass\n"
        "    except InputError:\n"
        "        pass\n"
        "print(peak_bytes())\n"
    )
    files = [str(HARD / name) for name in TABLE]
    done = subprocess.run(
        [sys.executable, "-c", PEAK_BYTES + code, *files],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ.copy(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert int(done.stdout) < MEMORY_BYTES

"""Ingestion holds shards and commits, not the pool: four times the rows take no more memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tiny_models import tiny_folder

SCRIPT = """
import resource, sys
from coresetdb import create
from coresetdb.ingest import job

job.SHARD_ROWS = (64, 64)
job.ingest.__kwdefaults__["commit_rows"] = 128
uri, backbone, file, warm = sys.argv[1:]
database = create(uri, backbone=backbone, device="cpu", features="less:dims=16384")
database.ingest(warm)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
account = database.ingest(file)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(account.total("new"), before // 1024, after // 1024)
"""

ALLOWED_MB = 60
"""What allocators and caches may add; 1,600 rows kept would be 150 MB of sketches (96 kB each)."""


def write(path: Path, rows: int, first: int) -> Path:
    records = (
        {"prompt": f"question {number}?", "completion": f"answer {number}"}
        for number in range(first, first + rows)
    )
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def test_four_times_the_rows_take_no_more_memory(tmp_path):
    backbone = tiny_folder()
    warm = write(tmp_path / "warm.jsonl", 300, 0)
    grown = []
    for rows in (400, 1600):
        file = write(tmp_path / f"{rows}.jsonl", rows, 10_000)
        arguments = [str(tmp_path / f"pool-{rows}"), str(backbone), str(file), str(warm)]
        ran = subprocess.run(
            [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True
        )
        new, before, after = map(int, ran.stdout.split())
        assert new == rows
        grown.append(after - before)
    assert max(grown) < ALLOWED_MB, grown

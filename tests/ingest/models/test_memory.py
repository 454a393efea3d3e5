"""Ingestion holds shards and commits, not the pool: four times the rows take no more memory.

Nor do the libraries under it hold more for every new shape of batch.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.files import write_jsonl
from helpers.peak_memory import PEAK_BYTES
from helpers.tiny_models import tiny_conversations, tiny_folder

from coresetdb.ingest import featurizer
from coresetdb.ingest.conversations.chat_template import RowRefusedError

SCRIPT = """
import sys
from coresetdb import create
from coresetdb.ingest.jobs import ingestion

ingestion.SHARD_ROWS = (64, 64)
ingestion.ingest.__kwdefaults__["commit_rows"] = 128
uri, backbone, file, first = sys.argv[1:]
database = create(uri, backbone=backbone, device="cpu", features="less:dims=16384")
database.ingest(first)
before = peak_bytes()
account = database.ingest(file)
after = peak_bytes()
print(account.total("new"), before >> 20, after >> 20)
"""

ALLOWED_MB = 60
"""What allocators and caches may add; 1,600 rows kept would be 150 MB of sketches (96 kB each)."""


def write(path: Path, rows: int, first: int) -> Path:
    records = (
        {"prompt": f"question {number}?", "completion": f"answer {number}"}
        for number in range(first, first + rows)
    )
    return write_jsonl(path, records)


def test_four_times_the_rows_take_no_more_memory(tmp_path, warm):
    backbone = tiny_folder()
    first = write(tmp_path / "first.jsonl", 300, 0)
    grown = []
    for rows in (400, 1600):
        file = write(tmp_path / f"{rows}.jsonl", rows, 10_000)
        process = warm.start(PEAK_BYTES + SCRIPT, tmp_path / f"pool-{rows}", backbone, file, first)
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        new, before, after = map(int, output.split())
        assert new == rows
        grown.append(after - before)
    assert max(grown) < ALLOWED_MB, grown


SHAPES_SCRIPT = """
import os
import torch
from coresetdb.ingest.testing import tiny_backbone

backbone = tiny_backbone(dtype="bfloat16")
before = peak_bytes()
for length in range(16, 256):
    ids = torch.zeros(1, length, dtype=torch.int64)
    with torch.inference_mode():
        backbone.states(ids, ids == 0)
print((peak_bytes() - before) >> 20)
"""


def grown_mb(**capacities: str) -> int:
    """What 240 shapes add to the peak memory of a process of its own, in MB."""
    return int(printed(PEAK_BYTES + SHAPES_SCRIPT, "CAPACITY", **capacities))


def printed(script: str, without: str, **variables: str) -> str:
    """What a script prints in a process of its own, without variables whose names hold a word."""
    environment = {key: value for key, value in os.environ.items() if without not in key}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment | variables,
    )
    return ran.stdout


def test_new_shapes_of_batches_take_less_memory_than_with_the_libraries_own_capacity():
    """267 and 657 MB on one processor, 440 and 643 on another; nothing where no kernel is kept."""
    own = grown_mb(LRU_CACHE_CAPACITY="1024", ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024")
    assert grown_mb() < max(0.85 * own, 100)


HOLES_SCRIPT = """
import resource
from pathlib import Path
from coresetdb.ingest.models.backbone import release_freed_memory

def resident_mb():
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() >> 20

holes, pins = [], []
for _ in range(2000):
    holes.append(b"x" * (64 << 10))
    pins.append(bytes(1000))
del holes
before = resident_mb()
release_freed_memory()
print(before - resident_mb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's allocator")
def test_holes_between_what_lives_longer_go_back_to_the_system():
    # In a process of its own: in an old heap the blocks would lie in holes that were there before.
    ran = subprocess.run(
        [sys.executable, "-c", HOLES_SCRIPT], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) > 80


KEPT_SCRIPT = """
import resource
import torch
from coresetdb.ingest.models.backbone import keep_freed_memory

def faults_of_a_large_tensor():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def fewest_faults():
    return min(faults_of_a_large_tensor() for _ in range(12))

by_itself = fewest_faults()
keep_freed_memory()
print(by_itself, fewest_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's allocator")
def test_the_next_tensor_meets_pages_that_the_last_one_had():
    by_itself, kept = map(int, printed(KEPT_SCRIPT, "MALLOC").split())
    # Where a small block takes the beginning of the freed pages, the heap grows first.
    assert kept <= by_itself / 10


def test_a_featurizer_gives_back_when_it_is_time(monkeypatch):
    given = []
    monkeypatch.setattr(featurizer, "release_freed_memory", lambda: given.append(1))
    refusing = SimpleNamespace(
        device=SimpleNamespace(type="cpu"),
        plain_head=True,
        encode_all=lambda instructions: [RowRefusedError("no form") for _ in instructions],
    )
    maker = featurizer.Featurizer(refusing, [])
    for seconds, times in ((float("inf"), 0), (0.0, 1)):
        monkeypatch.setattr(featurizer, "RELEASE_SECONDS", seconds)
        assert len(maker.featurize(tiny_conversations()[:2])) == 2
        assert len(given) == times

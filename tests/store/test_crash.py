"""kill -9 at any moment, readers all the while, and what a dead run leaves behind."""

from __future__ import annotations

import logging
import random
import signal
import subprocess
import sys
import time

import pyarrow.feather as feather

from coresetdb.schemas.canonical import digest
from coresetdb.store import maintenance
from coresetdb.store.integrity.verify import verify
from coresetdb.store.rows import conform
from coresetdb.store.store import Store

INSERTER = """
import sys, pyarrow.feather as feather
from coresetdb.store.store import Store
store = Store.open(sys.argv[1])
rows, places = feather.read_table(sys.argv[2]), feather.read_table(sys.argv[3])
print("ready", flush=True)
for start in range(0, rows.num_rows, 50):
    store.insert("sources", places.slice(start, 50))
    store.insert("pool", rows.slice(start, 50))
store.sync()
print("done", flush=True)
"""

READER = """
import sys
from coresetdb.store.store import Store
store, reads, last = Store.open(sys.argv[1]), 0, 0
print("ready", flush=True)
import select
while not select.select([sys.stdin], [], [], 0.05)[0]:  # the writers need a processor, too
    rows = Store.open(sys.argv[1]).dataset("pool").to_table(columns=["id", "rds"])
    assert len(set(rows["id"].to_pylist())) == rows.num_rows >= last
    assert rows["rds"].null_count == 0
    reads, last = reads + 1, rows.num_rows
print(reads, flush=True)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


def test_kills_at_random_moments_lose_nothing(store, pool_rows, source_rows, tmp_path):
    count = 2000
    files = [str(tmp_path / "rows.feather"), str(tmp_path / "places.feather")]
    feather.write_feather(pool_rows(0, count), files[0])
    feather.write_feather(source_rows(0, count), files[1])
    reader = start(READER, store.uri)
    moments = random.Random(5)
    for _ in range(6):
        writer = start(INSERTER, store.uri, *files)
        time.sleep(moments.uniform(0.0, 0.6))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    writer = start(INSERTER, store.uri, *files)
    assert writer.communicate(timeout=120)[0] == "done\n"
    told, _ = reader.communicate("stop\n", timeout=60)
    assert reader.returncode == 0 and int(told) > 0
    again = Store.open(store.uri)
    rows = again.take([digest(str(n)) for n in range(count)], ["rds", "messages"])
    wanted = pool_rows(0, count)
    assert rows["rds"].to_pylist() == wanted["rds"].to_pylist()
    assert again.dataset("pool").count_rows() == again.dataset("sources").count_rows() == count
    report = verify(store.uri, full=True)
    assert report.ok, report.lines()


def commit_without_note(store, rows) -> None:
    """What a process killed between its commit and its note leaves."""
    store.dataset("pool").merge_insert("id").when_not_matched_insert_all().execute(rows)


def test_the_next_writer_notes_what_a_dead_one_did_not(filled, pool_rows, caplog):
    pool = filled.dataset("pool")
    commit_without_note(filled, conform("pool", pool_rows(300, 310), pool.schema))
    with caplog.at_level(logging.WARNING):
        fresh = Store.open(filled.uri)
        fresh.insert("pool", pool_rows(310, 311))
    assert "killed before recording" in caplog.text
    marks = [note for note in fresh.checksums.known().values() if note.late]
    assert {note.path.split("/")[1] for note in marks} == {"data", "_versions"}
    assert verify(filled.uri, full=True).ok


def test_verify_notes_them_too_and_says_so(filled, pool_rows):
    commit_without_note(filled, conform("pool", pool_rows(300, 310), filled.dataset("pool").schema))
    report = verify(filled.uri)
    assert report.ok and len(report.late) == 2
    assert "had no checksum" in "\n".join(report.lines())
    assert verify(filled.uri).late == []


def test_a_kill_between_notes_and_fold_or_fold_and_seal_heals(filled, pool_rows, monkeypatch):
    filled.insert("pool", pool_rows(300, 320))
    monkeypatch.setattr(filled.checksums, "seal", lambda: (_ for _ in ()).throw(SystemExit))
    try:
        filled.sync()
    except SystemExit:
        pass
    report = verify(filled.uri, full=True)
    assert report.ok and report.late and all("files.lance" in path for path in report.late)
    fresh = Store.open(filled.uri)
    fresh.insert("pool", pool_rows(320, 330))
    fresh.sync()
    assert verify(filled.uri, full=True).late == []
    assert not [path for path in fresh.place.sizes("_checksums") if "/pool-" in path]


def test_files_of_killed_runs_are_counted_and_cleaned(filled):
    path = filled.place.absolute("pool.lance/data/orphan.lance")
    with open(path, "wb") as file:
        file.write(b"x" * 100)
    report = verify(filled.uri)
    assert report.ok and report.orphans == {"pool.lance/data/orphan.lance": 100}
    maintenance.clean(filled, 0)
    report = verify(filled.uri, full=True)
    assert report.ok and report.orphans == {}
    assert filled.dataset("pool").count_rows() == 200

"""The ingestion job: every record accounted for, once, whatever happens in between."""

from __future__ import annotations

import json
import os
import random
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers.files import write_jsonl
from helpers.warm_processes import WarmParent, WarmProcess

import coresetdb
from coresetdb.ingest.jobs.ingestion import ingest, next_shard
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_source
from coresetdb.schemas.errors import FingerprintError

COLOURS = ("red", "green", "blue", "white", "black", "amber", "violet")


def rows(n: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {
            "instruction": f"Name colour number {i}, please.",
            "input": "" if i % 3 else f"{COLOURS[i % 7]} " * (i % 40),
            "output": f"It is {COLOURS[i % 7]} and {i}.",
            "topic": "odd" if i % 2 else "even",
        }
        for i in range(start, start + n)
    ]


def features_of(database: coresetdb.Database) -> dict[str, np.ndarray]:
    """id -> the row's vector times its norm, then its losses (float64)."""
    table = database.store.dataset("pool").to_table(columns=["id", "rds", "rds_norm", "nll", "ifd"])
    return {
        row["id"]: np.array([*row["rds"], row["rds_norm"], row["nll"], row["ifd"]], dtype=float)
        for row in table.to_pylist()
    }


@pytest.fixture
def database(tmp_path: Path, tiny_llama: Path) -> coresetdb.Database:
    return coresetdb.create(str(tmp_path / "pool"), backbone=str(tiny_llama), dtype="float32")


def test_the_account_adds_up_and_a_second_run_adds_nothing(database, tmp_path):
    records = rows(50)
    records[7]["output"] = "  "
    records[9] = records[8]
    file = write_jsonl(tmp_path / "a.jsonl", records)
    account = database.ingest(file, corpus="colours")
    (counts,) = account.files
    assert (counts.read, counts.new, counts.duplicate, counts.rejected) == (50, 48, 1, 1)
    assert counts.reasons == {"empty response": 1}
    assert database.store.dataset("pool").count_rows() == 48
    assert database.store.dataset("sources").count_rows() == 49
    rejects = database.store.dataset("rejects").to_table().to_pylist()
    assert [(row["line"], row["reason"], row["corpus"]) for row in rejects] == [
        (8, "empty response", "colours")
    ]
    version = database.store.version()
    again = database.ingest(file, corpus="colours")
    (counts,) = again.files
    assert (counts.read, counts.new, counts.duplicate, counts.rejected) == (50, 0, 49, 1)
    assert again.tokens == 0
    assert database.store.version() == version
    assert database.store.dataset("sources").count_rows() == 49
    assert database.store.dataset("rejects").count_rows() == 1


def test_a_second_file_costs_only_its_new_rows(database, tmp_path):
    database.ingest(write_jsonl(tmp_path / "a.jsonl", rows(30)))
    before = {
        file for part in database.store.dataset("pool").get_fragments() for file in files(part)
    }
    account = database.ingest(write_jsonl(tmp_path / "b.jsonl", rows(30, start=20)))
    assert account.total("new") == 20
    assert account.total("duplicate") == 10
    after = {
        file for part in database.store.dataset("pool").get_fragments() for file in files(part)
    }
    assert before < after
    seen = database.store.dataset("sources").to_table(columns=["corpus"])["corpus"].to_pylist()
    assert sorted(seen) == ["a"] * 30 + ["b"] * 30


def files(fragment) -> list[str]:
    return [file.path for file in fragment.data_files()]


def test_limit_stops_early_and_says_so(database, tmp_path):
    account = database.ingest(write_jsonl(tmp_path / "a.jsonl", rows(30)), limit=12)
    assert account.total("read") == 12
    assert "--limit" in " ".join(account.lines())


def test_metadata_keys_and_run_are_kept(database, tmp_path):
    database.ingest(write_jsonl(tmp_path / "a.jsonl", rows(5)))
    (run,) = database.store.dataset("runs").to_table().to_pylist()
    assert run["status"] == "done"
    assert run["metadata_keys"] == ["topic"]
    assert run["files"][0]["new"] == 5
    assert run["files"][0]["xxh3"]
    pool = database.store.dataset("pool").to_table(columns=["run", "metadata"]).to_pylist()
    assert {row["run"] for row in pool} == {run["run"]}
    assert json.loads(pool[0]["metadata"]) == {"topic": "even"}


def test_another_backbone_in_the_same_folder_is_refused(database, tmp_path, tiny_llama):
    config = dict(database.store.config["backbone"])
    weights = Path(config["name"]) / "model.safetensors"
    original = weights.read_bytes()
    try:
        weights.write_bytes(original[:-4] + b"\0\0\x80\x3f")
        with pytest.raises(FingerprintError, match=r"weights: '\w+', not '\w+'"):
            coresetdb.connect(database.store.uri).ingest(write_jsonl(tmp_path / "a.jsonl", rows(3)))
    finally:
        weights.write_bytes(original)


class Stops:
    """A featurizer that is interrupted, or fails, in the middle of its n-th shard."""

    def __init__(self, featurizer, shards: int, error: BaseException) -> None:
        self.featurizer, self.left, self.error = featurizer, shards, error

    def featurize(self, instructions, on_batch):
        self.left -= 1
        if not self.left:
            on_batch(3, 99)  # told, and never kept
            raise self.error
        return self.featurizer.featurize(instructions, on_batch)


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "interrupted"), (RuntimeError("out of memory"), "failed")],
)
def test_stopping_within_a_shard_counts_only_what_is_kept(database, tmp_path, error, status):
    records = rows(200)
    records[30] = records[2]  # met again before it is committed
    records[190] = records[180]
    file = write_jsonl(tmp_path / "a.jsonl", records)
    stops = Stops(database._featurizer, 2, error)
    sources = [open_source(file, ReadOptions())]
    with pytest.raises(type(error)):
        ingest(database.store, sources, lambda: stops, commit_rows=4096)
    kept = database.store.dataset("pool").count_rows()
    assert kept == 16
    (run,) = database.store.dataset("runs").to_table().to_pylist()
    assert (run["status"], run["new"]) == (status, kept)
    tokens = database.store.dataset("pool").to_table(columns=["tokens"])["tokens"]
    assert run["tokens"] == sum(tokens.to_pylist())
    assert run["read"] == run["new"] + run["duplicate"] + run["rejected"]
    seen = database.store.dataset("sources").to_table(columns=["id"])["id"].to_pylist()
    pool = database.store.dataset("pool").to_table(columns=["id"])["id"].to_pylist()
    assert set(seen) == set(pool)
    assert [run["status"] for run in database.status().unfinished] == [status]
    account = database.ingest(file)
    assert database.status().unfinished == []
    assert account.total("new") == 198 - kept
    assert database.store.dataset("sources").count_rows() == 200


def test_conversations_of_one_line_refused_alike_are_all_kept(database, tmp_path):
    task = {
        "Definition": "Name a colour.",
        "Instances": [{"input": "", "output": [""]}, {"input": "", "output": [""]}],
    }
    task["Instances"].append({"input": "now", "output": ["red"]})
    account = database.ingest(write_jsonl(tmp_path / "task.jsonl", [task]))
    assert (account.total("new"), account.total("rejected")) == (1, 2)
    assert database.store.dataset("rejects").count_rows() == 2
    database.ingest(str(tmp_path / "task.jsonl"))
    assert database.store.dataset("rejects").count_rows() == 2


def test_a_pipe_is_read_whole_though_it_cannot_be_opened_twice(database, tmp_path):
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    text = "".join(json.dumps(record) + "\n" for record in rows(300))
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    account = database.ingest(str(pipe))
    writer.join()
    assert account.total("new") == 300


def test_interrupting_keeps_what_is_committed(database, tmp_path):
    class Impatient:
        def say(self, sentence: str) -> None: ...

        def advance(self, *, rows: int, **rest: int | None) -> None:
            if rows >= 2048:
                raise KeyboardInterrupt

    file = write_jsonl(tmp_path / "a.jsonl", rows(3000))
    with pytest.raises(KeyboardInterrupt):
        database.ingest(file, progress=Impatient())
    kept = database.store.dataset("pool").count_rows()
    assert 0 < kept <= 2048
    runs = database.store.dataset("runs").to_table().to_pylist()
    assert [(run["status"], run["new"]) for run in runs] == [("interrupted", kept)]
    account = database.ingest(file)
    assert account.total("new") == 3000 - kept
    assert database.store.dataset("pool").count_rows() == 3000


def test_a_row_repeated_after_its_commit_counts_once(database, tmp_path):
    records = rows(200)
    records += records[:10]  # of the same block of records, whose first rows are committed by then
    file = write_jsonl(tmp_path / "a.jsonl", records)
    files = [open_source(file, ReadOptions())]
    account = ingest(database.store, files, lambda: database._featurizer, commit_rows=64)
    counts = [account.total(name) for name in ("read", "new", "duplicate")]
    assert counts == [210, 200, 10]
    assert database.store.dataset("pool").count_rows() == 200
    assert database.store.dataset("sources").count_rows() == 210


INGEST = textwrap.dedent(
    """
    import sys
    from coresetdb.database import Database
    from coresetdb.ingest.jobs.ingestion import ingest, next_shard
    from coresetdb.ingest.readers.options import ReadOptions
    from coresetdb.ingest.sources import open_source

    database = Database.open(sys.argv[1])
    files = [open_source(path, ReadOptions()) for path in sys.argv[2:]]
    account = ingest(database.store, files, lambda: database._featurizer, commit_rows=64)
    print(account.total("new"), account.total("duplicate"))
    """
)


@pytest.fixture
def start(warm: WarmParent) -> Callable[..., WarmProcess]:
    """Starts an ingestion of files into a store, as a process."""
    return lambda store, *paths: warm.start(INGEST, store, *paths)


def test_two_ingesters_at_once_leave_every_id_once_and_none_out(database, tmp_path, start):
    first = write_jsonl(tmp_path / "a.jsonl", rows(500))
    second = write_jsonl(tmp_path / "b.jsonl", rows(500, start=250))
    running = [start(database.store.uri, first, second), start(database.store.uri, second, first)]
    said = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    ids = database.store.dataset("pool").to_table(columns=["id"])["id"].to_pylist()
    assert len(ids) == len(set(ids)) == 750
    counted = [list(map(int, out.split())) for out, _ in said]
    assert sum(new for new, _ in counted) == 750
    assert all(new + duplicate == 1000 for new, duplicate in counted)
    assert database.store.dataset("sources").count_rows() == 1000


def test_killed_ten_times_it_ends_as_if_uninterrupted(database, tmp_path, tiny_llama, start):
    file = write_jsonl(tmp_path / "a.jsonl", rows(1500))
    whole = coresetdb.create(str(tmp_path / "whole"), backbone=str(tiny_llama), dtype="float32")
    whole.ingest(file)
    failures: list[BaseException] = []
    done = threading.Event()

    def poll() -> None:
        last = 0
        try:
            while not done.wait(0.02):
                count = coresetdb.connect(database.store.uri).store.dataset("pool").count_rows()
                assert count >= last
                last = count
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=poll)
    reader.start()
    chance = random.Random(7)
    kills = 0
    while kills < 10:
        process = start(database.store.uri, file)
        # Killed at a random moment after the first commit this run makes, or before it.
        before = database.store.dataset("pool").count_rows()
        deadline = time.monotonic() + 60
        while (
            process.poll() is None
            and time.monotonic() < deadline
            and database.store.dataset("pool").count_rows() == before
            and kills % 3
        ):
            time.sleep(0.01)
        time.sleep(chance.random() * 0.3)
        process.kill()
        process.communicate()
        kills += 1
    last = start(database.store.uri, file)
    _, said = last.communicate(timeout=300)
    done.set()
    reader.join()
    assert last.returncode == 0, said
    assert not failures
    expected, found = features_of(whole), features_of(database)
    assert found.keys() == expected.keys()
    for row_id, vector in expected.items():
        # Norm and losses are stored as they were made; of the vector, float16 keeps 11 bits, and
        # equal numbers round to equal ones.
        error = np.linalg.norm(found[row_id] - vector) / np.linalg.norm(vector)
        assert error < 1e-4, row_id


def test_shards_are_as_large_as_time_and_memory_allow():
    megabytes = pa.table({"codes": [bytes(1 << 20)] * 32})
    assert next_shard(megabytes, 1.0, (16, 2048)) == 255  # 256 MB, and the offsets
    assert next_shard(megabytes, 100.0, (1, 2048)) == 9
    assert next_shard(pa.table({"x": [1.0] * 32}), 0.0, (16, 2048)) == 2048
    assert next_shard(megabytes, 1000.0, (16, 2048)) == 16

"""Features made by workers: the same rows and numbers, whatever happens to a worker."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers.files import write_jsonl
from helpers.roles import Alive, ThreadWorker

import coresetdb
from coresetdb.ingest.create import backbone_config, recipes_of
from coresetdb.ingest.jobs.fitting import fit_from
from coresetdb.ingest.jobs.ingestion import ingest
from coresetdb.ingest.jobs.late_features import featurize
from coresetdb.ingest.jobs.model_worker import ModelWorker
from coresetdb.ingest.jobs.reingest import repair_and_reingest
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_source, open_sources
from coresetdb.schemas.errors import UsageError, WorkerError
from coresetdb.schemas.progress import Silence
from coresetdb.workers.child import role_of
from coresetdb.workers.group import WorkerGroup
from coresetdb.workers.options import WorkerOptions

COLOURS = ("red", "green", "blue", "white", "black", "amber", "violet")
FEATURES = "rds,losses,mads,trim:rank=4,nait,less:dims=64"


def rows(n: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {
            "instruction": f"Name colour number {i}, please.",
            "input": "" if i % 3 else f"{COLOURS[i % 7]} " * (i % 40),
            "output": f"It is {COLOURS[i % 7]} and {i}.",
        }
        for i in range(start, start + n)
    ]


def create(path: Path, backbone: Path, features: str = "rds,losses") -> coresetdb.Database:
    return coresetdb.create(path, backbone=backbone, dtype="float32", features=features)


@pytest.fixture
def database(tmp_path: Path, tiny_llama: Path) -> coresetdb.Database:
    return create(tmp_path / "pool", tiny_llama)


def settings_of(database: coresetdb.Database) -> dict[str, Any]:
    backbone = backbone_config(database.store).as_dict()
    return {"backbone": backbone, "device": "cpu", "threads": 1}


@pytest.fixture
def group(database: coresetdb.Database) -> Iterator[WorkerGroup]:
    """Two workers in threads, with a tiny llama each."""
    settings = settings_of(database)
    with WorkerGroup(lambda number: ThreadWorker(ModelWorker, settings), 2) as workers:
        yield workers


def ingest_by(group, database, file, progress=None, **options):
    sources = [open_source(str(file), ReadOptions())]
    return ingest(database.store, sources, no_model, workers=group, progress=progress, **options)


def no_model():
    raise AssertionError("the driver makes no feature")


def table_of(database: coresetdb.Database, name: str = "pool") -> pa.Table:
    table = coresetdb.connect(database.store.uri).store.dataset(name).to_table()
    return table.drop_columns([each for each in ("added_at", "run") if each in table.column_names])


def assert_alike(found: pa.Table, expected: pa.Table) -> None:
    """The same rows in the same order; numbers norm-wise."""
    for ours, theirs in zip(found.schema, expected.schema, strict=True):
        assert ours.equals(theirs, check_metadata=True)  # fingerprints are there
    for name in found.column_names:
        if found[name].equals(expected[name]):
            continue
        for one, other in zip(found[name].to_pylist(), expected[name].to_pylist(), strict=True):
            assert (one is None) == (other is None), name
            if one is None or one == other:
                continue
            ours, theirs = (np.asarray(each, dtype=np.float64) for each in (one, other))
            assert np.linalg.norm(ours - theirs) <= 1e-3 * np.linalg.norm(theirs), name


class Kills(Silence):
    """Kills a worker of a group when so many rows were read; counts what it is told."""

    def __init__(self, group: WorkerGroup, rows: int) -> None:
        self.group, self.rows, self.killed = group, rows, False
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def advance(self, *, rows: int, **rest: int | None) -> None:
        self._kill(rows)

    def fill(self, *, rows: int, **rest: int) -> None:
        self._kill(rows)

    def _kill(self, rows: int) -> None:
        workers = [place.worker for place in self.group._places if not place.idle]
        if rows >= self.rows and workers and not self.killed:
            self.killed = True
            workers[0].dead = True


def test_all_features_are_those_of_one_process(tmp_path, tiny_llama):
    file = write_jsonl(tmp_path / "a.jsonl", rows(120))
    alone = create(tmp_path / "alone", tiny_llama, FEATURES)
    shared = create(tmp_path / "shared", tiny_llama, FEATURES)
    expected = alone.ingest(file)
    account = shared.ingest(file, workers=2)
    assert account.tokens == expected.tokens
    assert [(each.read, each.new) for each in account.files] == [(120, 120)]
    assert_alike(table_of(shared), table_of(alone))
    assert table_of(shared, "sources").equals(table_of(alone, "sources"))


def test_equal_batches_give_equal_bits(database, tmp_path, tiny_llama):
    file = write_jsonl(tmp_path / "a.jsonl", rows(16))  # one shard
    alone = create(tmp_path / "alone", tiny_llama)
    alone.ingest(file)
    database.ingest(file, workers=1)
    assert table_of(database).equals(table_of(alone))


def test_a_killed_worker_loses_no_row(group, database, tmp_path):
    records = rows(300)
    records[100], records[200] = records[2], {"instruction": "no answer"}
    file = write_jsonl(tmp_path / "a.jsonl", records)
    progress = Kills(group, 40)
    account = ingest_by(group, database, file, progress, commit_rows=32)
    assert progress.killed
    (counts,) = account.files
    assert (counts.read, counts.new, counts.duplicate, counts.rejected) == (300, 298, 1, 1)
    pool = table_of(database)
    assert account.tokens == sum(pool["tokens"].to_pylist())
    sources = table_of(database, "sources")
    assert len(set(pool["id"].to_pylist())) == len(pool) == 298 and len(sources) == 299
    assert not coresetdb.verify(database.store.uri, full=True).pending
    again = ingest_by(group, database, file)
    assert (again.total("new"), again.tokens) == (0, 0)


class Poisoned:
    """Workers die of a text."""

    def __init__(self, monkeypatch, text: str) -> None:
        self.deaths, do = 0, ThreadWorker.do

        def die(worker: ThreadWorker, task, owner):
            if text.encode() in bytes(task.body):
                self.deaths += 1
                worker.dead = True
            return do(worker, task, owner)

        monkeypatch.setattr(ThreadWorker, "do", die)


def test_rows_that_kill_three_workers_end_the_run(group, database, tmp_path, monkeypatch):
    records = rows(120)
    records[70]["output"] = "poison"
    file = write_jsonl(tmp_path / "a.jsonl", records)
    with monkeypatch.context() as patched:
        poisoned = Poisoned(patched, "poison")
        with pytest.raises(WorkerError, match=r"3 workers died.* 16 rows \(.*a.jsonl, lines 65 to"):
            ingest_by(group, database, file, commit_rows=16)
        assert poisoned.deaths == 3
    kept = len(table_of(database))
    assert 64 <= kept < 120 and kept % 16 == 0
    (run,) = database.store.dataset("runs").to_table().to_pylist()
    assert (run["status"], run["new"], run["read"]) == ("failed", kept, kept)
    assert run["tokens"] == sum(table_of(database)["tokens"].to_pylist())
    assert len(table_of(database, "sources")) == kept
    assert ingest_by(group, database, file).total("new") == 120 - kept


def test_an_interrupt_keeps_what_is_done(group, database, tmp_path):
    class Impatient(Silence):
        def advance(self, *, rows: int, tokens: int, **rest: int | None) -> None:
            if tokens > 1500:
                raise KeyboardInterrupt

    file = write_jsonl(tmp_path / "a.jsonl", rows(200))
    with pytest.raises(KeyboardInterrupt):
        ingest_by(group, database, file, Impatient())
    kept = len(table_of(database))
    assert 0 < kept < 200
    (run,) = database.store.dataset("runs").to_table().to_pylist()
    assert (run["status"], run["new"]) == ("interrupted", kept)
    assert run["tokens"] == sum(table_of(database)["tokens"].to_pylist())
    assert ingest_by(group, database, file).total("new") == 200 - kept


def test_no_more_shards_are_in_work_than_the_bound(group, database, tmp_path, monkeypatch):
    most, submit = 0, WorkerGroup.submit
    in_work: list = []

    def watched(self: WorkerGroup, task) -> None:
        nonlocal most
        in_work.append(task)
        most = max(most, sum(each.answer is None for each in in_work))
        submit(self, task)

    monkeypatch.setattr(WorkerGroup, "submit", watched)
    monkeypatch.setattr("coresetdb.ingest.jobs.ingestion.SHARD_ROWS", (8, 8))
    ingest_by(group, database, write_jsonl(tmp_path / "a.jsonl", rows(200)))
    assert len(in_work) == 25 and most <= group.bound + 1


DRIVER = """
    import sys, coresetdb
    coresetdb.connect(sys.argv[1]).ingest(sys.argv[2], workers=2)
"""


def test_a_driver_that_is_killed_goes_on_where_it_was(group, database, tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", rows(2000))
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), database.store.uri, file],
        stderr=subprocess.DEVNULL,
    )
    time.sleep(4)  # wherever it is then
    driver.kill()
    driver.wait()
    kept = len(table_of(database))
    assert ingest_by(group, database, file).total("new") == 2000 - kept
    assert len(set(table_of(database)["id"].to_pylist())) == 2000


def test_late_features_are_those_of_one_process(group, tmp_path, tiny_llama):
    file = write_jsonl(tmp_path / "a.jsonl", rows(150))
    databases = []
    for name, workers in (("alone", None), ("shared", group)):
        database = create(tmp_path / name, tiny_llama, "rds")
        database.ingest(file)
        database.add_target("colours", write_jsonl(tmp_path / "target.jsonl", rows(4, 500)))
        progress = Kills(group, 20)
        account = featurize(
            database.store, "losses,mads", workers=workers, progress=progress, commit_rows=40
        )
        assert progress.killed == (workers is not None)
        assert (account.rows, account.examples, account.waiting) == (150, 4, 0)
        databases.append(database)
    alone, shared = databases
    assert_alike(table_of(shared), table_of(alone))
    again = featurize(shared.store, "losses,mads", workers=group)
    assert (again.rows, again.tokens) == (0, 0)


def test_late_rows_that_kill_three_workers_are_named(group, database, tmp_path, monkeypatch):
    records = rows(100)
    records[50]["output"] = "poison"
    database.ingest(write_jsonl(tmp_path / "a.jsonl", records))
    with monkeypatch.context() as patched:
        Poisoned(patched, "poison")
        with pytest.raises(WorkerError, match=r"3 workers died.* 16 rows \([0-9a-f]{32}, "):
            featurize(database.store, "mads", workers=group)
    account = featurize(database.store, "mads", workers=group)
    assert 0 < account.rows < 100  # what was done before is in the pool, or waits in its shards
    assert account.rows + account.resumed <= 100
    assert table_of(database)["mads_reason"].null_count == 100


def test_repair_by_workers(database, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "coresetdb.workers.opening.ProcessWorker",
        lambda role, settings, environment: ThreadWorker(role_of(role), settings),
    )
    file = write_jsonl(tmp_path / "a.jsonl", rows(60))
    database.ingest(file)
    before = table_of(database).sort_by("id")
    (data,) = (Path(database.store.uri) / "pool.lance" / "data").iterdir()
    data.write_bytes(b"\0" * data.stat().st_size)
    said: list[str] = []
    done = repair_and_reingest(database.store.uri, said.append, None, WorkerOptions(1))
    assert done.ok and len(done.restored) == 60
    assert any("1 worker process" in sentence for sentence in said)
    assert_alike(table_of(database).sort_by("id"), before)


def ensemble(model: Path) -> str:
    """Features with an ensemble of the store's own backbone, and a basis."""
    return f"gradfiltering:model={model}:members=4:at_least=16:rank=2,trim:rank=4"


@pytest.fixture
def fitted(tmp_path: Path, tiny_llama: Path) -> tuple[coresetdb.Database, str]:
    """A store whose features were fitted in this process, and the file that they were fitted to."""
    file = write_jsonl(tmp_path / "a.jsonl", rows(40))
    alone = create(tmp_path / "alone", tiny_llama, ensemble(tiny_llama))
    alone.fit(file)
    return alone, file


def artifacts_of(database: coresetdb.Database) -> dict[str, dict[str, str]]:
    return {recipe.representation: recipe.artifacts for recipe in recipes_of(database.store)}


@pytest.mark.parametrize("dies", [False, True])
def test_fits_are_those_of_one_process(fitted, tmp_path, tiny_llama, monkeypatch, dies):
    alone, file = fitted
    shared = create(tmp_path / "shared", tiny_llama, ensemble(tiny_llama))
    settings = settings_of(shared)
    died, give = [], Alive.give

    def die_once(alive: Alive, facts, body=b"") -> None:
        give(alive, facts, body)
        if dies and not died and facts.get("name", "").endswith("early"):
            died.append(facts)
            alive.worker.dead = True

    monkeypatch.setattr(Alive, "give", die_once)
    started: list[ThreadWorker] = []

    def start(number: int) -> ThreadWorker:
        started.append(ThreadWorker(ModelWorker, settings))
        return started[-1]

    with WorkerGroup(start, 1) as group:  # threads share torch's random numbers
        sources = open_sources(file, ReadOptions())
        fit_from(shared.store, sources, no_model, workers=group)
    assert artifacts_of(shared) == artifacts_of(alone)
    assert bool(died) == dies and len(started) == 1 + dies


def test_too_few_rows_to_fit_to(group, tmp_path, tiny_llama):
    shared = create(tmp_path / "shared", tiny_llama, ensemble(tiny_llama))
    sources = open_sources(write_jsonl(tmp_path / "a.jsonl", rows(1)), ReadOptions())
    with pytest.raises(UsageError, match="nothing was ingested"):
        fit_from(shared.store, sources, no_model, workers=group)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"workers": 0}, "workers 0"),
        ({"workers": "many"}, "workers 'many'"),
        ({"gpus": "a"}, "gpus 'a'"),
        ({"gpus": [0, 0]}, "name each once"),
        ({"gpus": [7]}, "no GPU 7 here|made on cpu"),
        ({"engine": "dask"}, "engine 'dask'"),
        ({"address": "here"}, "add --engine ray"),
        ({"engine": "ray", "gpus": [0]}, "leave --gpus out"),
    ],
)
def test_options_that_mean_nothing(database, tmp_path, given, why):
    file = write_jsonl(tmp_path / "a.jsonl", rows(2))
    for method in (database.ingest, database.fit, lambda file, **keys: database.featurize(**keys)):
        with pytest.raises(UsageError, match=why):
            method(file, **given)
    with pytest.raises(UsageError, match="workers 0"):
        coresetdb.repair(database.store.uri, workers=0)


def test_nothing_new_starts_no_worker(database, tmp_path, monkeypatch):
    file = write_jsonl(tmp_path / "a.jsonl", rows(20))
    database.ingest(file)
    monkeypatch.setattr("coresetdb.workers.opening.ProcessWorker", no_model)
    assert database.ingest(file, workers=2).total("duplicate") == 20
    assert database.featurize(workers="auto").rows == 0

"""Scans that workers share: the ids, scores and notes of one process, whatever happens to one."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.files import write_jsonl
from helpers.roles import ThreadWorker

import coresetdb
from coresetdb.cli.main import main
from coresetdb.query.methods import method_names
from coresetdb.query.ranking import Answers
from coresetdb.query.scanning import rows as scanning
from coresetdb.query.scanning.rows import sections_of
from coresetdb.query.shared_scan import SharedScans, packed, unpacked
from coresetdb.query.snapshot import Snapshot
from coresetdb.schemas.errors import StoreNotFoundError, UsageError, WorkerError
from coresetdb.schemas.progress import Silence
from coresetdb.selectors.reductions import Lists, RowVectors
from coresetdb.workers.child import role_of

torch.set_num_threads(1)

FEATURES = "rds,losses,mads,trim:rank=4,nait,less:dims=64:stored=int8,lexical"
COLOURS = ("red", "green", "blue", "white", "black", "amber", "violet")


def rows(corpus: str, count: int) -> list[dict[str, str]]:
    return [
        {
            "instruction": f"{corpus}: name colour {i}, please.",
            "input": "" if i % 3 else f"{COLOURS[i % 7]} " * (i % 20),
            "output": f"It is {COLOURS[i % 7]} and {i}." if i != 7 else "",
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def database(tmp_path_factory, tiny_llama: Path) -> coresetdb.Database:
    """120 rows with every kind of feature in four fragments, a copy of a row, two targets."""
    folder = tmp_path_factory.mktemp("shared")
    database = coresetdb.create(
        folder / "pool", backbone=tiny_llama, dtype="float32", features=FEATURES
    )
    for number, corpus in enumerate(("walls", "doors", "roofs", "doubt")):
        records = rows(corpus, 30)
        database.ingest(write_jsonl(folder / f"{number}.jsonl", records), corpus=corpus)
    for name in ("paint", "doors"):
        records = [{**row, "topic": COLOURS[i % 2]} for i, row in enumerate(rows(name, 5))]
        database.add_target(name, write_jsonl(folder / f"{name}.jsonl", records[1:]))
    return database


@pytest.fixture
def small_sections(monkeypatch) -> None:
    """Sections of 16 rows, so that a small pool has many; blocks of vectors are no larger."""
    monkeypatch.setattr(scanning, "MAX_BLOCK_ROWS", 16)
    monkeypatch.setattr("coresetdb.query.scanning.vectors.MAX_BLOCK_ROWS", 16)
    monkeypatch.setattr("coresetdb.query.scanning.vectors.MIN_BLOCK_ROWS", 16)


@pytest.fixture
def workers_here(monkeypatch, small_sections) -> list[ThreadWorker]:
    """Workers in threads of this process; the list of those that were started."""
    started: list[ThreadWorker] = []

    def start(role: str, settings: dict[str, Any], environment: object) -> ThreadWorker:
        started.append(ThreadWorker(role_of(role), settings))
        return started[-1]

    monkeypatch.setattr("coresetdb.workers.opening.ProcessWorker", start)
    return started


def assert_alike(database: coresetdb.Database, *targets: str, **question: Any) -> None:
    alone = database.select(*targets, **question, dry_run=True)
    shared = database.select(*targets, **question, dry_run=True, workers=3)
    assert shared.members.equals(alone.members), question
    assert (shared.parameters, shared.notes) == (alone.parameters, alone.notes)
    assert (shared.eligible, shared.distance) == (alone.eligible, alone.distance)


def scanned_methods(database: coresetdb.Database) -> Iterator[str]:
    features = Snapshot(database.store).features
    known = {name: feature.representation for name, feature in features.items()}
    fetching = ("k_center", "facility_location", "deita_filter", "length_matched")
    for name in method_names(known):
        if not name.endswith((*fetching, "source_balanced")):
            yield name


def test_every_method_that_scans_gives_the_same(database, workers_here):
    names = list(scanned_methods(database))
    assert {"rds:round_robin", "rds:uot", "less:top", "trim:top", "lexical:bm25", "random"} <= set(
        names
    )
    for number, name in enumerate(names):
        workers = 1 + number % 2
        alone = database.select("paint", method=name, budget=20, dry_run=True)
        shared = database.select("paint", method=name, budget=20, dry_run=True, workers=workers)
        assert shared.members.equals(alone.members), name
        assert (shared.parameters, shared.notes) == (alone.parameters, alone.notes), name
    assert workers_here


@pytest.mark.parametrize(
    "question",
    [
        {"where": "corpus <> 'doors' AND response_tokens > 3", "method": "rds:uot"},
        {"where": "corpus = 'roofs'", "method": "rds(centre=pool)"},
        {"where": "corpus = 'roofs'", "method": "lexical:dsir"},
        {"method": "less:top(sign=any)", "leakage": "full", "cap": "40%", "distinct": 0.99},
        {"method": "rds:knn_kde", "quota": "roofs=3", "budget": "30%"},
        {"method": "rds:knn_kde(ties=mean)", "budget": "400-tokens"},
        {"method": "rds:top", "group": "topic"},
        {"method": "losses(score=ifd)", "where": "corpus = 'walls'"},
    ],
)
def test_rules_filters_and_budgets(database, workers_here, question):
    assert_alike(database, "paint", "doors", **{"budget": 12, **question})


def test_weights_and_excluded_coresets(database, workers_here):
    name = database.select("paint", budget=5, method="rds").name
    assert_alike(
        database, "paint", "doors", weights="paint=3,doors=1", exclude=name, budget=20, method="rds"
    )


def test_processes_need_no_model(database, small_sections):
    said: list[str] = []

    class Listener(Silence):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    alone = database.select("paint", method="rds", budget=20, dry_run=True)
    shared = database.select(
        "paint", method="rds", budget=20, dry_run=True, workers=2, progress=Listener()
    )
    assert shared.members.equals(alone.members)
    assert said == ["2 worker processes of 1 thread each (as many as named)"]
    program = """
        import sys
        from coresetdb.query.shared_scan import ScanWorker
        ScanWorker({"uri": sys.argv[1], "storage_options": {}})
        assert not {"torch", "transformers"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), database.store.uri], check=True)


def dying(monkeypatch, dies: Callable[[dict[str, Any]], bool]) -> None:
    do = ThreadWorker.do

    def die(worker: ThreadWorker, task, owner):
        if dies(task.facts):
            worker.dead = True
        return do(worker, task, owner)

    monkeypatch.setattr(ThreadWorker, "do", die)


def test_a_dead_worker_has_its_part_scanned_again(database, workers_here, monkeypatch):
    alone = database.select("paint", method="rds:uot", budget=20, dry_run=True)
    deaths: list[int] = []

    def once(facts: dict[str, Any]) -> bool:
        first = facts["start"] > 0 and not deaths
        if first:
            deaths.append(facts["start"])
        return first

    dying(monkeypatch, once)
    shared = database.select("paint", method="rds:uot", budget=20, dry_run=True, workers=2)
    assert deaths and len(workers_here) == 3
    assert shared.members.equals(alone.members)
    assert shared.parameters == alone.parameters  # the counts of missing rows, too


def test_a_part_that_kills_three_workers_ends_the_selection(database, workers_here, monkeypatch):
    dying(monkeypatch, lambda facts: facts["start"] == 0)
    coresets = len(database.list_coresets())
    with pytest.raises(WorkerError, match=r"3 workers died.* rows 1 to \d+ of the pool"):
        database.select("paint", budget=5, workers=2)
    assert len(database.list_coresets()) == coresets


def test_an_interrupt_ends_all_workers(database, workers_here):
    class Impatient(Silence):
        def learn(self, **progress: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.select("paint", budget=5, workers=2, progress=Impatient())
    assert workers_here and all(worker.dead for worker in workers_here)


def test_workers_read_the_version_of_the_snapshot(database, workers_here, monkeypatch, tmp_path):
    alone = database.select("paint", method="rds:top", budget=300, dry_run=True)
    call = SharedScans.__call__

    def after_an_ingestion(self: SharedScans, *arguments: Any):
        records = write_jsonl(tmp_path / "late.jsonl", rows("late", 9))
        coresetdb.connect(database.store.uri).ingest(records, corpus="late")
        return call(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(SharedScans, "__call__", after_an_ingestion)
        shared = database.select("paint", method="rds:top", budget=300, dry_run=True, workers=2)
    assert shared.members.equals(alone.members) and shared.notes == alone.notes
    later = database.select("paint", method="rds:top", budget=300, dry_run=True)
    assert later.eligible > alone.eligible


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ({"method": "rds:k_center"}, "nothing|workers could share"),
        ({"method": "length_matched"}, "workers could share"),
        ({"method": "rds:top(by=max)", "approximate": True}, "--approximate asks an index"),
        ({"workers": 0}, "workers 0"),
        ({"engine": "dask"}, "engine 'dask'"),
        ({"address": "here"}, "add --engine ray"),
    ],
)
def test_refused(database, workers_here, question, why):
    with pytest.raises(UsageError, match=why):
        database.select("paint", **{"budget": 5, "workers": 2, **question})
    assert not workers_here


def test_a_node_that_does_not_see_the_store_says_so(database, workers_here, monkeypatch):
    monkeypatch.setattr(
        "coresetdb.query.shared_scan.Store.open",
        lambda uri, options: (_ for _ in ()).throw(StoreNotFoundError(uri)),
    )
    with pytest.raises(StoreNotFoundError, match=r"pool.*at the same place"):
        database.select("paint", budget=5, workers=2)


def test_by_the_command_line(database, workers_here, capsys):
    printed = []
    for options in ([], ["--workers", "2"]):
        with pytest.raises(SystemExit) as left:
            main(["select", database.store.uri, "paint", "--budget", "9", "--dry-run", *options])
        assert not left.value.code
        printed.append(capsys.readouterr())
    assert printed[0].out == printed[1].out
    assert "2 worker processes" in printed[1].err and len(workers_here) == 2


def test_answers_are_sent_whole():
    lists = Lists(np.ones((2, 3, 2), np.int64), np.ones((2, 3), np.float32))
    answers: Answers = {0: (np.arange(3.0), lists), 11: (np.arange(2),)}
    sent = unpacked(packed(answers, "rds:uot"))
    assert list(sent) == [0, 11]
    np.testing.assert_array_equal(sent[0][0], answers[0][0])
    np.testing.assert_array_equal(sent[0][1].keys, lists.keys)
    assert sent[0][1].queries is None
    fetched = {0: (RowVectors(np.empty((0, 2), np.int64), np.empty((0, 4))),)}
    with pytest.raises(UsageError, match="after it fetched rows"):
        packed(fetched, "mine:own")


def test_sections_cover_a_table_and_depend_on_its_size_alone():
    for count in (0, 1, 4096, 4097, 100_000, 600_000, 10_000_000):
        sections = sections_of(count)
        assert len(sections) <= 128
        assert [row for each in sections for row in (each.start, each.stop)] == sorted(
            [*(each.start for each in sections), *(each.stop for each in sections)]
        )
        assert sum(map(len, sections)) == count
        assert all(len(each) % 4096 == 0 for each in sections[:-1])
        assert sections_of(count, range(0, count)) == sections
        if len(sections) > 2:
            span = range(sections[1].start, sections[-1].stop)
            assert sections_of(count, span) == sections[1:]

"""Features added to rows that are there already: complete, equal, resumable, in nobody's way."""

from __future__ import annotations

import random
import shutil
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers.files import write_jsonl

import coresetdb
import coresetdb.database
from coresetdb.ingest.jobs.ingestion import ingest
from coresetdb.ingest.jobs.late_features import NEITHER, StoreFeaturizer, featurize, with_reason
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_source
from coresetdb.query.targets import add_target
from coresetdb.schemas.errors import MissingFeatureError, StoreBusyError, UsageError
from coresetdb.schemas.progress import Silence
from coresetdb.store import maintenance
from coresetdb.store.fill import fill_lock
from coresetdb.store.integrity.verify import verify
from coresetdb.store.shards import FOLDER, Shards
from coresetdb.store.store import Store

COLOURS = ("red", "green", "blue", "white", "black", "amber", "violet")


def rows(n: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {
            "instruction": f"Name colour number {i}, please.",
            "input": "" if i % 3 else f"{COLOURS[i % 7]} " * (i % 40),
            "output": f"It is {COLOURS[i % 7]} and {i}.",
        }
        for i in range(start, start + n)
    ]


def create(path: Path, backbone: Path, features: str) -> coresetdb.Database:
    return coresetdb.create(str(path), backbone=str(backbone), dtype="float32", features=features)


def features_of(database: coresetdb.Database, suffix: str = "") -> dict[str, np.ndarray]:
    """id -> the row's vector, norm and losses (float64)."""
    names = ["rds", "rds_norm", *(name + suffix for name in ("nll", "ppl"))]
    table = database.store.dataset("pool").to_table(columns=["id", *names])
    return {
        row["id"]: np.array([*row["rds"], *(row[name] for name in names[1:])], dtype=float)
        for row in table.to_pylist()
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for row_id, vector in expected.items():
        error = np.linalg.norm(found[row_id] - vector) / np.linalg.norm(vector)
        assert error < 1e-4, row_id


def assert_sound(database: coresetdb.Database) -> None:
    report = verify(database.store.uri, full=True)
    assert report.ok and not report.damages, report.lines()


def shard_files(store: Store) -> list[str]:
    return [path for path in store.place.sizes(FOLDER) if path.endswith(".arrow")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_llama) -> coresetdb.Database:
    """A store that had rds and losses from the start: 600 rows."""
    folder = tmp_path_factory.mktemp("whole")
    database = create(folder / "pool", tiny_llama, "losses:alone=false,rds")
    database.ingest(write_jsonl(folder / "a.jsonl", rows(600)))
    return database


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tiny_llama: Path) -> Path:
    """The folder of `database`, of which each test has a copy."""
    folder = tmp_path_factory.mktemp("prepared")
    made = create(folder / "pool", tiny_llama, "losses:alone=false")
    for part in range(3):
        made.ingest(write_jsonl(folder / f"{part}.jsonl", rows(200, 200 * part)))
    return folder


@pytest.fixture
def database(prepared: Path, tmp_path: Path) -> coresetdb.Database:
    """The same rows, in several fragments, with losses alone."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return coresetdb.connect(str(tmp_path / "pool"))


def test_a_late_feature_equals_one_that_was_there_from_the_start(database, whole, tmp_path):
    database.add_target("few", write_jsonl(tmp_path / "few.jsonl", rows(5, 2000)))
    before = features_before(database)
    account = database.featurize("rds")
    assert (account.rows, account.examples, account.resumed, account.waiting) == (600, 5, 0, 0)
    assert account.tokens > 0 and "featurized 600 rows" in account.lines()[0]
    assert_same(features_of(database), features_of(whole))
    assert features_before(database) == before
    targets = database.store.dataset("targets").to_table(columns=["rds", "rds_norm", "nll"])
    assert [targets[name].null_count for name in targets.column_names] == [0, 0, 0]
    assert database.status().waiting == {"losses": 0, "rds": 0}
    assert len(database.select("few", budget=10).ids) == 10
    assert database.sql("SELECT count(*) AS n FROM pool WHERE rds_norm > 0").read_all()[
        "n"
    ].to_pylist() == [600]
    (run,) = [
        run
        for run in database.store.dataset("runs").to_table().to_pylist()
        if run["command"].endswith("featurize")
    ]
    assert (run["status"], run["read"], run["new"]) == ("done", 600, 0)
    assert not shard_files(database.store)
    assert_sound(database)
    version = database.store.version()
    assert database.featurize("rds").lines() == ["rds: every row is featurized already"]
    assert database.featurize().rows == 0
    assert database.store.version() == version
    assert maintenance.compact(database.store) > 0
    database.store.sync()
    assert_same(features_of(database), features_of(whole))
    assert_sound(database)


def test_the_account_names_what_was_made_and_counts_examples_once(database, tmp_path):
    database.add_target("few", write_jsonl(tmp_path / "few.jsonl", rows(5, 2000)))
    both = database.featurize("rds,mads")
    assert (both.made, both.examples) == (["rds", "mads"], 5)
    database.add_target("more", write_jsonl(tmp_path / "more.jsonl", rows(3, 3000)))
    again = database.featurize("rds,losses:alone=true")
    second = again.features[1]
    assert (again.made, again.rows, again.examples) == ([second], 600, 8)
    first, *rest = again.lines()
    assert first.startswith(f"{second}: featurized 600 rows")
    assert "  rds: every row is featurized already" in rest
    nothing = database.featurize("rds,mads")
    assert nothing.lines() == ["rds, mads: every row is featurized already"]
    assert nothing.as_dict()["made"] == []


def features_before(database: coresetdb.Database) -> list[dict]:
    names = ["id", "messages", "nll", "losses_reason", "tokens", "run"]
    return database.store.dataset("pool").to_table(columns=names).to_pylist()


def test_new_rows_and_new_targets_get_it_by_themselves(database, tmp_path):
    stale = coresetdb.connect(database.store.uri)
    assert [recipe.feature for recipe in stale._featurizer.recipes] == ["losses"]
    database.featurize("rds")
    for number, each in enumerate((database, stale)):  # one that featurized, one opened before
        each.ingest(write_jsonl(tmp_path / f"new{number}.jsonl", rows(20, 1000 + 100 * number)))
        each.add_target(f"t{number}", write_jsonl(tmp_path / "t.jsonl", rows(3, 3000)))
    assert database.status().waiting == {"losses": 0, "rds": 0}
    assert database.store.dataset("pool").count_rows(filter="rds_norm IS NULL") == 0
    assert database.featurize().rows == 0


def test_an_ingestion_begun_before_leaves_rows_that_are_found(database, tmp_path, whole):
    featurizer = database._featurizer  # of losses alone
    database.featurize("rds")
    source = open_source(write_jsonl(tmp_path / "late.jsonl", rows(50, 5000)), ReadOptions())
    ingest(database.store, [source], lambda: featurizer)
    assert database.status().waiting == {"losses": 0, "rds": 50}
    assert f"coresetdb featurize {database.store.uri} rds" in " ".join(database.status().advice())
    database.add_target("few", write_jsonl(tmp_path / "few.jsonl", rows(5, 2000)))
    coreset = database.select("few", budget=10)
    assert any("50 rows of the pool are not featurized with rds yet" in n for n in coreset.notes)
    maintenance.compact(database.store)  # filled and waiting rows share a fragment
    kept = features_of_some(database)
    assert database.featurize().rows == 50
    assert kept.items() <= features_of_some(database).items()
    assert database.status().waiting == {"losses": 0, "rds": 0}
    assert_sound(database)


def features_of_some(database: coresetdb.Database) -> dict[str, tuple[float, ...]]:
    table = database.store.dataset("pool").to_table(
        columns=["id", "rds"], filter="rds_norm IS NOT NULL"
    )
    return {row["id"]: tuple(row["rds"]) for row in table.to_pylist()}


def test_an_ingestion_that_outlives_a_feature_goes_on_without_it(database, tmp_path):
    database.featurize("rds")
    featurizer = database._current_featurizer()
    assert len(featurizer.recipes) == 2
    database.remove_feature("rds")
    source = open_source(write_jsonl(tmp_path / "late.jsonl", rows(30, 5000)), ReadOptions())
    account = ingest(database.store, [source], lambda: featurizer)
    assert account.total("new") == 30
    assert database.status().waiting == {"losses": 0}
    assert_sound(database)


def test_a_target_does_not_bring_values_of_a_feature_that_was_made_otherwise_since(
    database, tmp_path
):
    featurizer = database._current_featurizer()
    database.remove_feature("losses")
    database.featurize("losses:alone=false:grad_norm=sketch")
    file = write_jsonl(tmp_path / "few.jsonl", rows(4, 2000))
    add_target(database.store, "few", file, ReadOptions(), lambda: featurizer)
    assert database.store.dataset("targets").to_table()["nll"].null_count == 4
    assert database.featurize().examples == 4


def test_a_second_recipe_of_a_representation_has_columns_of_its_own(database, tmp_path, tiny_llama):
    both = create(tmp_path / "both", tiny_llama, "losses:alone=true")
    both.ingest([str(tmp_path / f"{part}.jsonl") for part in range(3)])
    account = database.featurize("losses:alone=true")
    (name,) = account.features
    suffix = name.removeprefix("losses")
    assert suffix.startswith("__") and len(suffix) == 10
    columns = ["id", *(c + suffix for c in ("nll", "nll_alone", "ifd"))]
    found = database.store.dataset("pool").to_table(columns=columns).sort_by("id")
    expected = both.store.dataset("pool").to_table(columns=["id", "nll", "nll_alone", "ifd"])
    for mine, theirs in zip(found.columns, expected.sort_by("id").columns, strict=True):
        if mine.type == pa.float32():
            np.testing.assert_allclose(mine.to_numpy(), theirs.to_numpy(), rtol=1e-4)
        else:
            assert mine.to_pylist() == theirs.to_pylist()
    assert database.featurize(name).rows == 0
    assert database.featurize("losses:alone=true").rows == 0
    assert [name for name in database.status().waiting] == ["losses", name]
    database.remove_feature(name)
    assert not [c for c in database.store.dataset("pool").schema.names if suffix in c]


def test_two_features_share_a_pass_and_one_half_made_is_completed(database, tmp_path, monkeypatch):
    stop_after(monkeypatch, shards=4)
    with pytest.raises(KeyboardInterrupt):
        featurize(database.store, "rds", shard_rows=(50, 50), commit_rows=100)
    monkeypatch.undo()
    asked: list[tuple[str, ...]] = []
    columns = StoreFeaturizer.columns

    def spying(self, recipes, instructions, on_batch=None):
        asked.append((*(recipe.feature for recipe in recipes), str(len(instructions))))
        return columns(self, recipes, instructions, on_batch)

    monkeypatch.setattr(StoreFeaturizer, "columns", spying)
    account = featurize(database.store, "rds,losses:alone=true", shard_rows=(50, 50))
    second = account.features[1]
    alone = sum(int(count) for *names, count in asked if names == [second])
    shared = sum(int(count) for *names, count in asked if names == ["rds", second])
    assert (alone, shared) == (200, 400)
    assert set(database.status().waiting.values()) == {0}


def stop_after(monkeypatch, shards: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    """The backbone is interrupted while it makes the shard after that many."""
    columns, left = StoreFeaturizer.columns, [shards]

    def limited(self, recipes, instructions, on_batch=None, of="pool"):
        if not left[0]:
            if on_batch:
                on_batch(3, 99)  # told, and never kept
            raise error
        left[0] -= 1
        return columns(self, recipes, instructions, on_batch, of)

    monkeypatch.setattr(StoreFeaturizer, "columns", limited)


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "interrupted"), (RuntimeError, "failed")]
)
def test_what_is_made_before_an_interruption_is_kept(database, monkeypatch, whole, error, status):
    stop_after(monkeypatch, 5, error)
    with pytest.raises(error):
        featurize(database.store, "rds", shard_rows=(50, 50), commit_rows=100)
    monkeypatch.undo()
    runs = database.store.dataset("runs").to_table().to_pylist()
    assert runs[-1]["status"] == status or status in [run["status"] for run in runs]
    assert database.status().waiting["rds"] == 400  # a fragment is filled, 50 rows in a shard
    tokens = database.store.dataset("pool").to_table(columns=["tokens"])["tokens"].to_pylist()
    assert next(run["tokens"] for run in runs if run["status"] == status) == sum(tokens[:250])
    account = featurize(database.store, "rds")
    assert (account.rows, account.resumed) == (350, 50)
    assert_same(features_of(database), features_of(whole))
    assert_sound(database)


def test_rows_that_reached_the_pool_before_a_kill_are_not_counted_again(database, monkeypatch):
    def killed(self, ids):
        raise RuntimeError("killed between the commit and the shards")

    monkeypatch.setattr(Shards, "forget", killed)
    with pytest.raises(RuntimeError):
        featurize(database.store, "rds", shard_rows=(70, 70), commit_rows=200)
    monkeypatch.undo()
    waiting = database.status().waiting["rds"]
    said: list[str] = []

    class Told(Silence):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    account = featurize(database.store, "rds", progress=Told())
    assert 0 < waiting < 600 and account.rows + account.resumed == waiting
    assert f"rds: {account.rows} rows to featurize, {account.resumed} more from" in said[0]
    assert_sound(database)


def test_a_row_that_cannot_have_the_feature_gets_the_reason(database, monkeypatch):
    columns = StoreFeaturizer.columns

    def without(self, recipes, instructions, on_batch=None):
        made = columns(self, recipes, instructions, on_batch)
        (recipe,) = recipes
        bare = {name: pa.nulls(len(made), made.schema.field(name).type) for name in recipe.columns}
        return with_reason(pa.table(bare, schema=made.schema), recipe)

    monkeypatch.setattr(StoreFeaturizer, "columns", without)
    account = featurize(database.store, "rds")
    assert account.without_feature == {f"rds: {NEITHER}": 600}
    assert f"without a feature, rds: {NEITHER}: 600" in "\n".join(account.lines())
    assert database.status().waiting["rds"] == 0
    (rds,) = [row for row in database.status().features if row["feature"] == "rds"]
    assert rds["rows without"] == 600


def test_queries_say_what_is_missing_and_what_to_type(database, tmp_path, monkeypatch):
    database.add_target("few", write_jsonl(tmp_path / "few.jsonl", rows(5, 2000)))
    with pytest.raises(MissingFeatureError, match=r"coresetdb featurize \S+ rds"):
        database.select("few")
    stop_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        database.featurize("rds")
    monkeypatch.undo()
    with pytest.raises(MissingFeatureError, match=r"coresetdb featurize \S+ rds"):
        database.select("few")
    stop_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        database.featurize("rds")  # the target's examples, no row
    monkeypatch.undo()
    with pytest.raises(MissingFeatureError, match=r"600 rows .*: coresetdb featurize \S+ rds"):
        database.select("few")
    database.featurize("rds")
    assert not database.select("few", budget=5).notes


def test_unknown_features_and_a_second_process_are_refused(database):
    with pytest.raises(UsageError, match="unknown feature 'nope'"):
        database.featurize("nope")
    with pytest.raises(UsageError, match="no option"):
        database.featurize("rds:size=3")
    with (
        fill_lock(Store.open(database.store.uri)),
        pytest.raises(StoreBusyError, match="featurized"),
    ):
        database.featurize("rds")
    assert "rds" not in database.store.dataset("pool").schema.names


def test_dropping_what_coresets_used_needs_force_and_they_replay(database, tmp_path):
    database.featurize("rds")
    database.add_target("few", write_jsonl(tmp_path / "few.jsonl", rows(5, 2000)))
    name = database.select("few", budget=10).name
    filtered = database.select("few", method="random", where="nll > 0", budget=10).name
    with pytest.raises(UsageError, match=f"rds was used for 1 coreset .{name}.*--force") as told:
        database.remove_feature("rds")
    assert told.value.exit_code == 2
    with pytest.raises(UsageError, match=filtered):
        database.remove_feature("losses")
    assert database.remove_feature("rds", force=True).feature == "rds"
    assert database.replay(name).same and database.replay(name).same_queries
    database.compact(keep_hours=0)
    assert database.open_coreset(name).ids
    assert database.replay(name).same and database.replay(filtered).same
    assert_sound(database)
    with pytest.raises(MissingFeatureError, match="featurize"):
        database.select("few")
    database.featurize("rds")
    assert database.replay(name).same
    assert len(database.select("few", budget=10).ids) == 10


FEATURIZE = textwrap.dedent(
    """
    import os, sys
    from coresetdb.database import Database
    from coresetdb.ingest.jobs.late_features import StoreFeaturizer, featurize

    columns = StoreFeaturizer.columns

    def counted(self, recipes, instructions, on_batch=None):
        made = columns(self, recipes, instructions, on_batch)
        with open(sys.argv[2], "a") as log:
            log.write("".join(each.id + "\\n" for each in instructions))
        return made

    StoreFeaturizer.columns = counted
    database = Database.open(sys.argv[1])
    account = featurize(database.store, "rds", shard_rows=(32, 32), commit_rows=64)
    print(account.rows, account.resumed)
    """
)


def test_killed_again_and_again_it_loses_no_more_than_a_shard(database, tmp_path, whole, warm):
    """Readers poll and an ingestion appends all the while; the log counts what is made twice."""
    log = tmp_path / "made"
    log.touch()
    failures: list[BaseException] = []
    done = threading.Event()
    polls = []

    def guarded(work) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        return threading.Thread(target=run)

    def read() -> None:
        last = 0
        while not done.wait(0.02):
            reader = coresetdb.connect(database.store.uri)
            pool = reader.store.dataset("pool")
            old = pool.to_table(columns=["nll", "losses_reason"])
            assert old["nll"].null_count == 0
            if len(polls) % 20 == 0:
                assert len(reader.select(method="random", budget=3).ids) == 3
            if "rds" in pool.schema.names:
                filled = pool.count_rows(filter="rds_norm IS NOT NULL")
                assert filled >= last
                last = filled
            polls.append(last)

    stale = coresetdb.connect(database.store.uri)  # before the feature is the store's
    featurizer = stale._featurizer

    def append() -> None:
        for part in range(8):
            file = write_jsonl(tmp_path / f"late{part}.jsonl", rows(25, 7000 + 25 * part))
            ingest(stale.store, [open_source(file, ReadOptions())], lambda: featurizer)
            time.sleep(0.5)

    threads = [guarded(read), guarded(append)]
    for thread in threads:
        thread.start()
    chance = random.Random(3)
    kills = 0
    while kills < 4:
        process = warm.start(FEATURIZE, database.store.uri, log)
        before = log.stat().st_size
        deadline = time.monotonic() + 60
        while process.poll() is None and log.stat().st_size == before and kills % 3:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(chance.random() * 0.15)
        process.kill()
        process.communicate()
        kills += 1
    threads[1].join()
    last = warm.start(FEATURIZE, database.store.uri, log)
    _, said = last.communicate(timeout=120)
    done.set()
    threads[0].join()
    assert last.returncode == 0, said
    assert not failures and len(polls) > 3
    made = log.read_text().split()
    assert len(set(made)) == 800
    # A kill costs the shard that was made but not yet kept.
    assert len(made) - 800 <= 32 * kills
    found = features_of(database)
    assert len(found) == 800
    expected = features_of(whole)
    assert_same({row_id: found[row_id] for row_id in expected}, expected)
    assert not shard_files(database.store)
    assert_sound(database)
    assert maintenance.compact(database.store) > 0
    database.store.sync()
    assert_same({row_id: features_of(database)[row_id] for row_id in expected}, expected)
    assert_sound(database)


def test_a_damaged_fill_is_repaired_and_the_rest_is_filled(database, monkeypatch, whole):
    stop_after(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        featurize(database.store, "rds", shard_rows=(50, 50), commit_rows=100)
    monkeypatch.undo()
    first = database.store.dataset("pool").get_fragments()[0]
    assert len(first.data_files()) == 2
    victim = f"pool.lance/data/{first.data_files()[1].path}"
    data = bytearray(database.store.place.read(victim))
    data[len(data) // 2] ^= 1
    database.store.place.write(victim, bytes(data))
    assert not verify(database.store.uri, full=True).ok
    repaired = coresetdb.repair(database.store.uri)
    assert repaired.ok, repaired.lines()
    again = coresetdb.connect(database.store.uri)
    assert again.status().waiting["rds"] == 400
    account = again.featurize()
    assert account.rows + account.resumed == 400
    assert_same(features_of(again), features_of(whole))
    assert verify(again.store.uri, full=True).ok  # an old version still needs the damaged file


def test_a_store_without_any_feature_takes_rows_and_gets_one(database, tmp_path):
    database.remove_feature("losses")
    with pytest.raises(UsageError, match=r"no features: name some of .*rds"):
        database.featurize()
    account = database.ingest(write_jsonl(tmp_path / "more.jsonl", rows(10, 9000)))
    assert account.total("new") == 10
    assert database.featurize("rds").rows == 610
    assert_sound(database)

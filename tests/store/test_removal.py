"""Rows taken out of the pool, put back as they were, and forgotten; every step killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager

import lance
import numpy as np
import pyarrow as pa
import pytest
from helpers.bytes_of_store import decoded_bytes, files_holding

from coresetdb.ingest.jobs.commit import Commit
from coresetdb.schemas.canonical import canonical_json, digest
from coresetdb.schemas.errors import StoreBusyError, UsageError
from coresetdb.schemas.instruction import Instruction, Message, Record
from coresetdb.schemas.recipe import Recipe
from coresetdb.schemas.tables import CORESET_ROWS, CORESETS, NEWER_TABLES, REJECTS
from coresetdb.store import catalog, features, indices, maintenance, purge, removal
from coresetdb.store.fill import fill_lock, unfilled
from coresetdb.store.integrity.repair import repair
from coresetdb.store.integrity.verify import verify
from coresetdb.store.rows import key_of
from coresetdb.store.shards import Shards
from coresetdb.store.store import Store

LATE = Recipe("toy", 1, {}, {"name": "toy"}, ("toy", "toy_reason"))


def ids(*numbers: int) -> list[str]:
    return [digest(str(number)) for number in numbers]


def corpora(*numbers: int) -> dict[str, str]:
    return dict.fromkeys(ids(*numbers), "toy")


def take_out(store: Store, *numbers: int, why: str = "") -> None:
    with removal.alone(store):
        purge.settle(store)
        removal.remove(store, corpora(*numbers), why)


def put_back(store: Store, *numbers: int) -> int:
    with removal.alone(store):
        purge.settle(store)
        return removal.restore(store, ids(*numbers))


def forget(store: Store, *numbers: int) -> purge.Purged:
    with removal.alone(store):
        return purge.purge(store, ids(*numbers))


def pool_of(store: Store) -> pa.Table:
    return store.dataset("pool").to_table().sort_by("id")


def states(store: Store) -> dict[str, str]:
    rows = removal.stones(store).to_pylist()
    return {row["id"]: row["state"] for row in rows}


def test_a_removed_row_is_seen_by_nobody_and_comes_back_as_it_was(filled):
    before = pool_of(filled)
    take_out(filled, 3, 77, 150, why="a slip")
    assert filled.dataset("pool").count_rows() == 197
    assert filled.known_ids().contains(ids(3, 4)).tolist() == [False, True]
    assert removal.removed_ids(filled).contains(ids(3, 4)).tolist() == [True, False]
    (group,) = removal.summary(filled)
    assert (group["corpus"], group["rows"], group["why"]) == ("toy", 3, "a slip")
    report = verify(filled.uri, full=True)
    assert report.ok and not report.pending, report.lines()
    assert put_back(filled, 3, 77, 150) == 3
    assert pool_of(filled).equals(before)
    assert removal.tombstones(filled) == []
    assert filled.dataset("removed_rows").count_rows() == 0
    assert verify(filled.uri, full=True).ok


def test_only_the_rows_named_are_restored(filled):
    take_out(filled, 1, 2, 3)
    assert put_back(filled, 2, 9) == 1
    assert [stone.id for stone in removal.tombstones(filled)] == sorted(ids(1, 3))


def test_a_store_of_an_older_coresetdb_gets_the_tables_when_they_are_needed(filled):
    for table in NEWER_TABLES:
        for path in filled.place.sizes(f"{table}.lance"):
            filled.place.delete(path)
    gone = [path for path in filled.checksums.known() if path.split(".")[0] in NEWER_TABLES]
    filled.checksums.forget(gone)
    old = Store.open(filled.uri)
    assert removal.tombstones(old) == [] and not set(NEWER_TABLES) & set(old.tables())
    assert verify(old.uri, full=True).ok
    maintenance.compact_and_clean(old, 0)
    take_out(old, 5)
    assert verify(old.uri, full=True).ok
    assert put_back(old, 5) == 1


def test_a_damaged_table_of_removed_rows_is_said_and_the_rest_still_opens(filled, caplog):
    take_out(filled, 5)
    filled.sync()
    for path in filled.place.sizes("removed.lance/data"):
        filled.place.write(path, b"something else")
    with caplog.at_level("WARNING"):
        purge.settle_if_killed(Store.open(filled.uri))
    assert "the table removed cannot be read" in caplog.text
    assert not verify(filled.uri).ok


def test_a_lost_table_of_removed_rows_is_damage(filled):
    take_out(filled, 5)
    filled.sync()
    for path in filled.place.sizes("removed.lance"):
        filled.place.delete(path)
    assert not verify(filled.uri).ok


def damage_manifests(store: Store, table: str) -> None:
    """Every version of a table is lost."""
    for path in store.place.sizes(f"{table}.lance/_versions"):
        store.place.write(path, store.place.read(path)[:-29] + b"x" * 29)


@pytest.mark.parametrize("cleaned", [True, False])
def test_removed_rows_outlive_the_loss_of_their_tombstones(filled, cleaned):
    before = pool_of(filled)
    take_out(filled, 3, 77, 150, why="a slip")
    take_out(filled, 9)
    forget(filled, 9)
    if cleaned:
        maintenance.compact_and_clean(filled, 0)
    damage_manifests(filled, "removed")
    assert verify(filled.uri, full=True).lost_ids == []
    asked = []
    done = repair(filled.uri, lambda rows: asked.extend(rows) or {})
    assert "removed: wrote 3 tombstones again" in "\n".join(done.actions)
    assert "which rows were purged" in "\n".join(done.unrepaired)
    assert not asked and done.after is not None and done.after.ok, done.lines()
    again = Store.open(filled.uri)
    take_out(again, 5)
    assert again.dataset("removed_rows").count_rows() == 4
    assert {stone.corpus for stone in removal.tombstones(again)} == {"toy"}
    assert put_back(again, 3, 5, 77, 150) == 4
    left = before.filter(pa.array([row != ids(9)[0] for row in before["id"].to_pylist()]))
    assert pool_of(again).equals(left)
    assert verify(again.uri, full=True).ok


def test_rows_lost_beside_their_neighbours_tombstones_are_told_apart(filled):
    """Pool and tombstones are damaged at once: removed rows are not read again, lost ones are."""
    take_out(filled, 3, 77, 150)
    damage_manifests(filled, "removed")
    part = filled.dataset("pool").get_fragments()[0]
    gone = set(part.to_table(columns=["id"])["id"].to_pylist())
    path = f"pool.lance/data/{part.metadata.files[0].path}"
    filled.place.write(path, b"something else")
    asked = []
    repair(filled.uri, lambda rows: asked.extend(row.id for row in rows) or {})
    assert set(asked) == gone and not gone & set(ids(3, 77, 150))
    assert set(states(Store.open(filled.uri))) == set(ids(3, 77, 150))


def test_copies_without_tombstones_are_deleted_only_beside_their_rows(filled):
    take_out(filled, 3, 4)
    removal.delete_rows(filled, "removed", ids(3, 4))
    filled.insert("pool", filled.dataset("removed_rows").to_table(filter=f"id = '{ids(3)[0]}'"))
    take_out(filled, 5)
    kept = filled.dataset("removed_rows").to_table(columns=["id"])["id"].to_pylist()
    assert sorted(kept) == sorted(ids(4, 5))
    assert repair(filled.uri).ok
    assert set(states(Store.open(filled.uri))) == set(ids(4, 5))


# -- features that come and go meanwhile --------------------------------------------------------


def declare_late(store: Store) -> None:
    mark = {b"coresetdb:fingerprint": LATE.fingerprint.encode()}
    fields = [
        pa.field("toy", pa.list_(pa.float16(), 4), metadata=mark),
        pa.field("toy_reason", pa.string(), metadata=mark),
    ]
    features.declare(store, LATE, fields)


def test_a_feature_declared_meanwhile_is_null_in_a_restored_row(filled):
    take_out(filled, 3, 4)
    declare_late(filled)
    put_back(filled, 3, 4)
    pool = filled.dataset("pool")
    waiting = [
        key
        for part in pool.get_fragments()
        for keys, _ in unfilled(pool, part, LATE)
        for key in keys.to_pylist()
    ]
    assert set(ids(3, 4)) <= set(waiting)


def test_a_feature_dropped_meanwhile_is_left_out_of_a_restored_row(filled, pool_rows):
    declare_late(filled)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(4), pa.float16()), 4)
    rows = pool_rows(300, 301).append_column("toy", vector)
    filled.insert("pool", rows)
    take_out(filled, 300)
    kept = filled.dataset("removed_rows")
    assert kept.to_table(columns=["toy"])["toy"].to_pylist() == [[1.0] * 4]
    features.drop(filled, "toy")
    assert "toy" not in filled.dataset("removed_rows").schema.names
    assert put_back(filled, 300) == 1
    assert filled.take(ids(300), ["tokens"]).num_rows == 1


# -- beside others ------------------------------------------------------------------------------


def test_a_removal_is_refused_while_a_feature_is_filled(filled):
    with fill_lock(Store.open(filled.uri)):
        with pytest.raises(StoreBusyError, match="featurized"):
            take_out(filled, 1)


def test_rows_that_an_ingestion_holds_ready_are_not_inserted_once_removed(filled):
    """Another process ingests and removes content while this one still has it in its queue."""
    record = Record(
        Instruction([Message("user", "What is 1 + 1?"), Message("assistant", "2")]),
        "late",
        "late.jsonl",
        1,
        None,
        '{"user": "somebody"}',
    )
    row_id = record.instruction.id
    with removal.alone(filled):
        removal.remove(filled, {row_id: "late"}, state="leaving")
    whole = pa.array([4], pa.int32())
    lengths = pa.table(
        {
            **dict.fromkeys(("tokens", "prompt_tokens", "response_tokens"), whole),
            "truncated": pa.array([False]),
        }
    )
    commit = Commit("run", occurrences=[(row_id, record)])
    commit.add_rows([(row_id, record)], lengths)
    assert commit.write(filled) == {row_id}
    assert filled.dataset("pool").count_rows() == 200
    assert filled.dataset("sources").count_rows() == 200


def test_rows_deleted_by_another_tool_are_named_with_the_way_to_let_go(filled):
    run = {"run": "r", "command": "ingest", "status": "done"}
    filled.insert("runs", pa.Table.from_pylist([run]))
    sources = filled.dataset("sources").to_table().to_pylist()
    filled.upsert("sources", pa.Table.from_pylist([{**row, "run": "r"} for row in sources]))
    filled.sync()
    filled.dataset("pool").delete(f"id = '{ids(7)[0]}'")
    report = verify(filled.uri, full=True)
    assert report.deleted == ids(7)
    assert "not by `coresetdb remove`" in "\n".join(report.lines())
    take_out(filled, 7)
    report = verify(filled.uri, full=True)
    assert not report.deleted and not report.pending and report.ok


# -- killed in between --------------------------------------------------------------------------


class Killed(BaseException):
    pass


@contextmanager
def killed_at(step: int):
    """The step-th commit or change of a tag, from 1, is made, and then the process ends."""
    count = 0

    def counting(change: Callable):
        def changed(self, *arguments):
            nonlocal count
            result = change(self, *arguments)
            count += 1
            if count == step:
                raise Killed
            return result

        return changed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "change", counting(Store.change))
        patch.setattr(Store, "move_tag", counting(Store.move_tag))
        yield


@pytest.mark.parametrize("step", range(1, 7))
def test_a_killed_removal_is_done_or_not_begun(filled, step):
    before = pool_of(filled)
    with killed_at(step):
        try:
            take_out(filled, 3, 77, 150)
            assert step == 6  # it takes five commits
        except Killed:
            assert step < 6
    again = Store.open(filled.uri)
    assert verify(again.uri, full=True).ok
    purge.settle_if_killed(again)
    rows = again.dataset("pool").count_rows()
    assert rows == 200 or (rows == 197 and set(states(again).values()) == {"removed"})
    take_out(again, 3, 77, 150)
    put_back(again, 3, 77, 150)
    assert pool_of(again).equals(before)
    assert verify(again.uri, full=True).ok


@pytest.mark.parametrize("step", range(1, 6))
def test_a_killed_restore_is_done_or_not_begun(filled, step):
    before = pool_of(filled)
    take_out(filled, 3, 77, 150)
    with killed_at(step):
        try:
            put_back(filled, 3, 77, 150)
            assert step == 5  # it takes four commits
        except Killed:
            assert step < 5
    again = Store.open(filled.uri)
    assert verify(again.uri, full=True).ok
    purge.settle_if_killed(again)
    assert pool_of(again).equals(before)
    assert states(again) == {} and again.dataset("removed_rows").count_rows() == 0
    assert verify(again.uri, full=True).ok


# -- forgotten ----------------------------------------------------------------------------------


def coreset_row(name: str, version: int, parameters: dict, rows: int = 3) -> pa.Table:
    row = {
        "name": name,
        "targets": ["t"],
        "pool_version": version,
        "rows": rows,
        "parameters": canonical_json(parameters),
    }
    return pa.Table.from_pylist([row], CORESETS)


@pytest.fixture
def used(filled, source_rows) -> Store:
    """With late features half-way, an index, a target, two coresets, scores, rejects, garbage."""
    store = filled
    centres = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(4, 16).ravel(), pa.float16()), 16)
    store.tag("coreset-early-pool", store.version())
    declare_late(store)
    rows = pa.table(
        {
            "id": ids(3, 77, 150),
            "toy": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(12), pa.float16()), 4),
            "toy_reason": pa.nulls(3, pa.string()),
        }
    )
    shards = Shards(store.place, LATE, store.dataset("pool").schema)
    shards.put(rows.cast(shards.schema))
    indices.build(store, "rds", "IVF_RQ", centres)
    pool = store.dataset("pool").to_table(columns=["id", "messages", "rds"])
    example = {row["id"]: row for row in pool.to_pylist()}[ids(3)[0]]
    targets = [
        {"key": key_of("t", example["id"]), "target": "t", "position": 0, **example},
        {
            "key": key_of("t", "x"),
            "target": "t",
            "position": 1,
            "id": digest("x"),
            "messages": [{"role": "user", "content": "something else"}],
        },
    ]
    schema = pa.schema([store.dataset("targets").schema.field(name) for name in targets[1]])
    store.insert("targets", pa.Table.from_pylist(targets[:1], store.dataset("targets").schema))
    store.insert("targets", pa.Table.from_pylist(targets[1:], schema))
    store.tag("coreset-late-targets", store.version("targets"), "targets")
    catalog.put_artifact(
        store, "f", catalog.target_artifact_name([example["id"], digest("x")]), b"directions"
    )
    store.tag("coreset-late-pool", store.version())
    leak = {"id": ids(77)[0], "words": "question 77 question 77", "example": digest("x")}
    parameters = {
        "targets_version": store.version("targets"),
        "rules": {"leakage": {"rows": [leak]}},
    }
    early = store.tags()["coreset-early-pool"]
    store.tag("coreset-early-targets", 1, "targets")
    store.insert("coresets", coreset_row("early", early, {"targets_version": 1}))
    store.insert("coresets", coreset_row("late", store.tags()["coreset-late-pool"], parameters))
    members = [
        {"key": key_of(name, rank), "coreset": name, "rank": rank, "id": row}
        for name, numbers in (("early", (1, 3, 5)), ("late", (2, 4, 6)))
        for rank, row in enumerate(ids(*numbers), start=1)
    ]
    store.append("coreset_rows", pa.Table.from_pylist(members, CORESET_ROWS))
    excerpts = [
        ("far.jsonl", 9, "so question 150 question 150 question 150 it says"),
        ("toy.jsonl", 3, "ends badly"),
        ("far.jsonl", 10, "nothing of it"),
    ]
    rejects = [
        {
            "key": key_of(file, line),
            "corpus": "toy",
            "file": file,
            "line": line,
            "reason": "r",
            "excerpt": excerpt,
        }
        for file, line, excerpt in excerpts
    ]
    store.insert("rejects", pa.Table.from_pylist(rejects, REJECTS))
    with open(store.place.absolute("pool.lance/data/left.lance"), "wb") as file:
        file.write(b"question 77 question 77")  # by a writer that was killed
    store.sync()
    return store


FORGOTTEN = (3, 77, 150)


def check_forgotten(
    store: Store, vectors: dict[str, list[float]], killed_later: bool = False
) -> None:
    """No file tells the text or a vector of the rows, as bytes or as Lance reads it.

    Nor does any file belong to no version, unless a removal was killed after the purge.
    """
    held = [f"question {number} question {number}" for number in FORGOTTEN]
    raw = [np.array(vectors[row], np.float16).tobytes() for row in ids(*FORGOTTEN)]
    needles = [text.encode() for text in held] + raw + [b"ends badly"]
    assert files_holding(store.uri, needles) == {}
    assert [needle for needle in needles if needle in decoded_bytes(store.uri)] == []
    report = verify(store.uri, full=True)
    assert report.ok and (killed_later or not report.orphans), report.lines()


def vectors_of(store: Store) -> dict[str, list[float]]:
    rows = store.take(ids(*FORGOTTEN), ["id", "rds"]).to_pylist()
    return {row["id"]: row["rds"] for row in rows}


def test_nothing_of_purged_rows_is_left(used):
    vectors = vectors_of(used)
    take_out(used, 150, why="earlier")
    assert files_holding(used.uri, [b"question 77 question 77"])  # the search finds what there is
    with removal.alone(used):
        removal.remove(used, corpora(3, 77), "asked", state="purging")
    done = forget(used, 150)
    check_forgotten(used, vectors)
    assert done.rows == 3 and done.coresets == {"early": 1}
    assert sorted(done.moved) == ["early", "late"] and done.targets == {"t": 1}
    assert done.indices == ["rds"] and done.excerpts == 2
    assert used.dataset("pool").count_rows() == 197
    assert used.dataset("sources").count_rows() == 197
    assert set(states(used).values()) == {"purged"}
    assert all(stone.purged for stone in removal.tombstones(used, ids(*FORGOTTEN)))
    assert (
        catalog.artifact(used, "f", catalog.target_artifact_name([ids(3)[0], digest("x")])) is None
    )
    assert used.place.sizes(f"_fill/{LATE.fingerprint}") == {}


def test_a_purge_moves_coresets_and_keeps_what_they_may_be_chosen_from(used, pool_rows):
    used.insert("pool", pool_rows(400, 420))
    take_out(used, 10)
    with removal.alone(used):
        removal.remove(used, corpora(*FORGOTTEN), state="purging")
        purge.finish(used)
    for row in used.dataset("coresets").to_table().to_pylist():
        assert used.tags()[f"coreset-{row['name']}-pool"] == row["pool_version"] == used.version()
        parameters = json.loads(row["parameters"])
        universe = purge.universe_of(used, parameters)
        assert len(universe) == 197  # row 10, removed and not purged, is one of them
        held = removal.GrowingIdSet()
        held.add(used.dataset("pool").to_table(columns=["id"])["id"])
        assert "question 77" not in row["parameters"]
    assert used.tags("targets")["coreset-late-targets"] == used.version("targets")
    put_back(used, 10)
    with removal.alone(used):
        purge.follow(used, ids(1))
    assert used.tags()["coreset-early-pool"] == used.version()


def test_a_version_that_never_had_the_rows_keeps_its_tag(store, pool_rows):
    store.insert("pool", pool_rows(0, 40))
    store.tag("coreset-old-pool", store.version())
    store.insert("coresets", coreset_row("old", store.version(), {}, rows=0))
    version = store.version()
    store.insert("pool", pool_rows(40, 80))
    store.tag("mine", store.version())
    with removal.alone(store):
        removal.remove(store, corpora(50), state="purging")
        done = purge.finish(store)
    assert store.tags() == {"coreset-old-pool": version} and done.tags == ["mine"]
    assert store.dataset("pool", version).count_rows() == 40
    assert verify(store.uri, full=True).ok


@pytest.mark.parametrize("step", [1, 3, 5, 7, 9, 11, 12, 13, 14, 15, 16])
def test_a_killed_purge_is_finished_by_the_next_opening(used, step):
    vectors = vectors_of(used)
    take_out(used, *FORGOTTEN)
    with killed_at(step):
        try:
            forget(used, *FORGOTTEN)
        except Killed:
            pass
    again = Store.open(used.uri)
    report = verify(again.uri, full=True)
    assert report.ok, report.lines()
    purge.settle_if_killed(again)
    check_forgotten(again, vectors)
    assert set(states(again).values()) == {"purged"}
    for row in again.dataset("coresets").to_table().to_pylist():
        assert again.dataset("pool", row["pool_version"]).count_rows() == 197
        assert again.tags()[f"coreset-{row['name']}-pool"] == row["pool_version"]


def test_a_purged_row_may_be_ingested_again_once_its_tombstone_is_lifted(filled, pool_rows):
    take_out(filled, 5)
    forget(filled, 5)
    assert put_back(filled, 5) == 0
    assert removal.tombstones(filled) == []
    assert filled.insert("pool", pool_rows(5, 6)) == 1


def test_a_tag_cannot_be_moved_to_nowhere(filled):
    with pytest.raises((ValueError, UsageError)):
        filled.move_tag("x", 10_000)


def test_lance_reads_no_deleted_row_of_a_purged_pool(filled):
    take_out(filled, 5)
    forget(filled, 5)
    for part in lance.dataset(filled.place.table_uri("pool")).get_fragments():
        assert part.num_deletions == 0


FORGETTER = """
import sys
from coresetdb.store import purge, removal
from coresetdb.store.store import Store
store = Store.open(sys.argv[1])
stay, forgotten = (dict.fromkeys(ids.split(","), "toy") for ids in sys.argv[2:4])
print("ready", flush=True)
with removal.alone(store):
    purge.settle(store)
with removal.alone(store):
    removal.remove(store, stay)
with removal.alone(store):
    removal.restore(store, list(stay))
held = store.known_ids().contains(list(forgotten)).tolist()
left = {row: corpus for (row, corpus), there in zip(forgotten.items(), held) if there}
with removal.alone(store):
    removal.remove(store, left, state="purging")
    purge.finish(store)
print("done", flush=True)
"""


def test_kills_at_random_moments_leave_nothing_of_purged_rows_and_all_of_the_others(used):
    vectors, before = vectors_of(used), pool_of(used)
    arguments = [used.uri, ",".join(ids(*range(20, 40))), ",".join(ids(*FORGOTTEN))]
    moments = random.Random(11)
    for _ in range(5):
        child = start(FORGETTER, *arguments)
        time.sleep(moments.uniform(0.0, 1.2))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        report = verify(used.uri, full=True)
        assert report.ok, report.lines()
    assert start(FORGETTER, *arguments).communicate(timeout=120)[0] == "done\n"
    check_forgotten(Store.open(used.uri), vectors, killed_later=True)
    left = before.filter(pa.array([row not in vectors for row in before["id"].to_pylist()]))
    assert pool_of(Store.open(used.uri)).select(before.column_names).equals(left)


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child

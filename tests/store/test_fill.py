"""Filling declared columns: rows that wait, conflicts, shards that outlive their process."""

from __future__ import annotations

import threading

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from coresetdb.schemas.canonical import digest
from coresetdb.schemas.errors import StoreBusyError, StoreError, UsageError
from coresetdb.schemas.recipe import Recipe
from coresetdb.store import catalog, features, maintenance
from coresetdb.store.features import declare, drop, features_of
from coresetdb.store.fill import amend, count_unfilled, fill, fill_lock, unfilled
from coresetdb.store.integrity.verify import verify
from coresetdb.store.shards import FOLDER, Shards
from coresetdb.store.status import status_of
from coresetdb.store.store import Store

WIDTH = 24
RECIPE = Recipe(
    "toy", 1, {}, {"name": "toy"}, ("toy", "toy_norm", "toy_parts", "toy_pairs", "toy_reason")
)
FIELDS = [
    pa.field("toy", pa.list_(pa.float16(), WIDTH)),
    pa.field("toy_norm", pa.float32()),
    pa.field("toy_parts", pa.list_(pa.int8())),
    pa.field("toy_pairs", pa.list_(pa.struct([pa.field("a", pa.int32())]))),
    pa.field("toy_reason", pa.string()),
]
FIELDS = [
    field.with_metadata({b"coresetdb:fingerprint": RECIPE.fingerprint.encode()}) for field in FIELDS
]


def value(row_id: str) -> dict:
    """What the toy feature of a row is; every id that starts with a digit below 2 has a reason."""
    seed = int(row_id[:8], 16)
    if row_id[0] in "01":
        return dict.fromkeys(RECIPE.columns[:-1]) | {"toy_reason": "too low"}
    vector = np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float16)
    return {
        "toy": vector.tolist(),
        "toy_norm": float(np.float32(seed)),
        "toy_parts": [seed % 100, seed % 7],
        "toy_pairs": [{"a": seed % 1000}],
        "toy_reason": None,
    }


def made(ids: list[str]) -> pa.Table:
    rows = [{"id": row_id, **value(row_id)} for row_id in ids]
    return pa.Table.from_pylist(rows, pa.schema([pa.field("id", pa.string()), *FIELDS]))


def ids_of(store: Store) -> list[str]:
    return store.dataset("pool").to_table(columns=["id"])["id"].to_pylist()


def shards_of(store: Store) -> Shards:
    return Shards(store.place, RECIPE, store.dataset("pool").schema)


def numbers(store: Store) -> list[int]:
    return [part.fragment_id for part in store.dataset("pool").get_fragments()]


def check(store: Store, ids: list[str]) -> None:
    """The rows hold the feature, the text they had, and the store is sound."""
    rows = store.take(ids, ["id", *RECIPE.columns]).to_pylist()
    for row in rows:
        assert {name: row[name] for name in RECIPE.columns} == value(row["id"])
    report = verify(store.uri, full=True)
    assert report.ok and not report.late and not report.orphans, report.lines()
    store.dataset("pool").validate()


@pytest.fixture
def declared(filled: Store) -> Store:
    declare(filled, RECIPE, FIELDS)
    return filled


def test_declaring_shows_null_columns_and_nothing_else_changes(declared, pool_rows):
    pool = declared.dataset("pool")
    assert set(RECIPE.columns) <= set(pool.schema.names)
    assert set(RECIPE.columns) <= set(declared.dataset("targets").schema.names)
    assert pool.to_table(columns=["toy"])["toy"].null_count == 200
    assert catalog.recipes(declared)["toy_norm"] == RECIPE
    assert count_unfilled(pool, RECIPE) == 200
    version = declared.version()
    declare(declared, RECIPE, FIELDS)
    assert declared.version() == version


def test_fragments_are_filled_one_commit_for_all(declared):
    ids = ids_of(declared)
    declared.change("pool", "indexing", lambda pool: pool.create_scalar_index("tokens", "BTREE"))
    shards = shards_of(declared)
    for start in range(0, 200, 30):
        shards.put(made(ids[start : start + 30]))
    before = declared.version()
    assert fill(declared, numbers(declared), [shards]) == 200
    assert declared.version() == before + 1
    assert count_unfilled(declared.dataset("pool"), RECIPE) == 0
    assert not [path for path in declared.place.sizes(FOLDER) if path.endswith(".arrow")]
    found = declared.dataset("pool").to_table(columns=["id"], filter="tokens = 3")
    assert found.num_rows == 3
    declared.sync()
    check(declared, ids)


def test_deleted_rows_keep_their_place_and_stay_away(declared):
    ids = ids_of(declared)
    gone = [*ids[3:9], *ids[40:80]]  # the whole of the second fragment, too
    shards = shards_of(declared)
    shards.put(made(ids))
    quoted = ", ".join(f"'{row_id}'" for row_id in gone)
    declared.delete("pool", f"id IN ({quoted})")
    left = [row_id for row_id in ids if row_id not in gone]
    assert fill(declared, [*numbers(declared), 77], [shards]) == len(left)
    assert count_unfilled(declared.dataset("pool"), RECIPE) == 0
    declared.sync()
    check(declared, left)
    shards.clear()
    assert not [path for path in declared.place.sizes(FOLDER) if path.endswith(".arrow")]


def test_values_that_are_there_stay_when_the_rest_of_a_fragment_is_filled(declared):
    ids = ids_of(declared)
    shards = shards_of(declared)
    shards.put(made(ids[:90]))
    fill(declared, numbers(declared), [shards])
    part = declared.dataset("pool").get_fragment(2)
    waiting = [
        row_id
        for keys, _ in unfilled(declared.dataset("pool"), part, RECIPE)
        for row_id in keys.to_pylist()
    ]
    assert waiting == ids[90:120]
    declared.delete("pool", f"id = '{ids[95]}' OR id = '{ids[85]}'")
    assert (
        maintenance.compact(declared) > 0
    )  # rows with and without the feature share a fragment now
    ids = ids_of(declared)
    assert count_unfilled(declared.dataset("pool"), RECIPE) == 198 - 89
    shards.put(made(ids[100:]))
    fill(declared, numbers(declared), [shards])
    assert count_unfilled(declared.dataset("pool"), RECIPE) == 100 - 89
    shards.put(made(ids))
    fill(declared, numbers(declared), [shards])
    assert count_unfilled(declared.dataset("pool"), RECIPE) == 0
    declared.sync()
    check(declared, ids)


@pytest.mark.parametrize("change", ["delete", "compact", "fill"])
def test_a_fragment_that_changes_meanwhile_is_written_again(declared, monkeypatch, change):
    ids = ids_of(declared)
    shards = shards_of(declared)
    shards.put(made(ids))
    commit = lance.LanceDataset.commit
    calls = []

    def interfere(*arguments, **options):
        if not calls:
            calls.append("first")
            pool = lance.dataset(declared.place.table_uri("pool"))
            if change == "delete":
                pool.delete(f"id = '{ids[0]}'")
            elif change == "compact":
                pool.optimize.compact_files()
            else:
                other = Shards(declared.place, RECIPE, pool.schema)
                fill(Store.open(declared.uri), [0], [other])
        calls.append("again")
        return commit(*arguments, **options)

    monkeypatch.setattr(lance.LanceDataset, "commit", staticmethod(interfere))
    fill(declared, numbers(declared), [shards])
    monkeypatch.undo()
    left = ids_of(declared)
    assert len(left) == (199 if change == "delete" else 200)
    shards = shards_of(declared)
    if change == "compact":  # the fragments are gone: the next round finds their rows elsewhere
        assert count_unfilled(declared.dataset("pool"), RECIPE) == 200
        fill(declared, numbers(declared), [shards])
    assert count_unfilled(declared.dataset("pool"), RECIPE) == 0
    names = [
        file.path for part in declared.dataset("pool").get_fragments() for file in part.data_files()
    ]
    assert len(names) == len(set(names))
    rows = declared.take(left, ["id", *RECIPE.columns]).to_pylist()
    assert all({name: row[name] for name in RECIPE.columns} == value(row["id"]) for row in rows)
    assert verify(declared.uri, full=True).ok


def test_a_commit_whose_answer_is_lost_keeps_its_files(declared, monkeypatch):
    ids = ids_of(declared)
    shards = shards_of(declared)
    shards.put(made(ids))
    commit = lance.LanceDataset.commit

    def lose_the_answer(*arguments, **options):
        commit(*arguments, **options)
        raise OSError("connection reset by peer")

    monkeypatch.setattr(lance.LanceDataset, "commit", staticmethod(lose_the_answer))
    with pytest.raises(StoreError, match="connection reset"):
        fill(declared, numbers(declared), [shards])
    monkeypatch.undo()
    again = Store.open(declared.uri)
    assert count_unfilled(again.dataset("pool"), RECIPE) == 0
    assert again.take(ids[:1], ["toy_norm"]).num_rows == 1


def test_rows_that_come_in_without_the_columns_wait_too(declared, pool_rows):
    shards = shards_of(declared)
    shards.put(made(ids_of(declared)))
    fill(declared, numbers(declared), [shards])
    declared.insert("pool", pool_rows(200, 230))
    assert count_unfilled(declared.dataset("pool"), RECIPE) == 30
    shards.put(made(ids_of(declared)[200:]))
    fill(declared, numbers(declared), [shards])
    assert count_unfilled(declared.dataset("pool"), RECIPE) == 0
    declared.sync()
    check(declared, ids_of(declared))
    assert maintenance.compact(declared) > 0
    declared.sync()
    check(declared, ids_of(declared))


def test_shards_outlive_their_process_and_torn_ones_are_made_again(declared, caplog):
    ids = ids_of(declared)
    shards = shards_of(declared)
    for start in (0, 50, 100):
        shards.put(made(ids[start : start + 50]))
    paths = sorted(p for p in declared.place.sizes(FOLDER) if p.endswith(".arrow"))
    data = bytearray(declared.place.read(paths[1]))
    data[len(data) // 2] ^= 1
    declared.place.write(paths[1], bytes(data))
    declared.place.write(paths[2] + ".x.part", b"half")
    again = shards_of(declared)
    assert "not what was written" in caplog.text
    held = again.positions(pa.array(ids)) >= 0
    assert np.flatnonzero(held).tolist() == [*range(50), *range(100, 150)]
    order = [140, 3, 101, 7, 7]
    taken = again.take(again.positions(pa.array([ids[at] for at in order])))
    assert taken.to_pylist() == [value(ids[at]) for at in order]
    again.put(made(ids[50:100]))
    assert len([p for p in declared.place.sizes(FOLDER) if p.endswith(".arrow")]) == 3
    again.forget(pa.array(ids[:100]))
    assert shards_of(declared).positions(pa.array(ids)).max() == 49


def test_vectors_that_are_not_sound_do_not_get_in(declared):
    rows = made(ids_of(declared)[:5])
    at = rows.column_names.index("toy")
    zero = pa.array([[0.0] * WIDTH] * 5, FIELDS[0].type)
    with pytest.raises(StoreError, match="column 'toy'"):
        shards_of(declared).put(rows.set_column(at, FIELDS[0], zero))


def test_one_fills_at_a_time_and_maintenance_waits(declared):
    other = Store.open(declared.uri)
    with fill_lock(declared):
        with pytest.raises(StoreBusyError, match="featurized by another"), fill_lock(other):
            pass
        for action in (maintenance.compact, maintenance.clean):
            with pytest.raises(StoreBusyError):
                action(other)
        other.delete("sources", "line = 1")  # writers go on
    with fill_lock(other):
        pass


def test_examples_of_targets_get_columns_without_losing_others(declared, pool_rows):
    rows = pool_rows(0, 3)
    keyed = rows.append_column("key", pa.array(["a", "b", "c"])).append_column(
        "target", pa.array(["t"] * 3)
    )
    declared.upsert("targets", keyed.drop_columns(["corpus"]))
    added = made(rows["id"].to_pylist()).drop_columns(["id"])
    keys = pa.array(["a", "b", "gone"])
    amend(declared, "targets", added.add_column(0, "key", keys))
    targets = declared.dataset("targets").to_table().sort_by("key")
    assert targets["key"].to_pylist() == ["a", "b", "c"]
    assert targets["rds"].to_pylist() == rows["rds"].to_pylist()
    assert targets.slice(0, 2).select(RECIPE.columns).to_pylist() == added.slice(0, 2).to_pylist()
    assert count_unfilled(declared.dataset("targets"), RECIPE) == 1
    declared.sync()
    assert verify(declared.uri, full=True).ok


def test_dropping_removes_columns_recipe_copy_and_shards(declared):
    shards_of(declared).put(made(ids_of(declared)[:10]))
    assert list(features_of(declared)) == ["toy"]
    with pytest.raises(UsageError, match="no feature 'rds'; it has toy"):
        drop(declared, "rds")
    drop(declared, "toy")
    for table in ("pool", "targets"):
        assert not set(RECIPE.columns) & set(declared.dataset(table).schema.names)
    assert features_of(declared) == {}
    metadata = declared.dataset("pool").schema.metadata
    assert not [key for key in metadata if b"recipe" in key]
    assert not [path for path in declared.place.sizes(FOLDER) if path.endswith(".arrow")]
    with pytest.raises(UsageError, match="it has none"):
        drop(declared, "toy")
    report = verify(declared.uri, full=True)
    assert report.ok and not report.late
    declare(declared, RECIPE, FIELDS)
    assert declared.dataset("pool").to_table(columns=["toy"])["toy"].null_count == 200


@pytest.mark.parametrize("stage", ["recipe", "targets", "pool"])
def test_a_drop_that_was_killed_is_finished_by_the_same_command(declared, monkeypatch, stage):
    """After the recipe, after the columns of targets, after those of the pool."""
    drop_columns = features._drop_columns

    def die(store, table, columns=()):
        if stage != "targets" or table != "targets":
            raise SystemExit
        drop_columns(store, table, columns)

    if stage == "pool":
        monkeypatch.setattr(features, "_forget_copy", lambda store, recipe: die(store, ""))
    else:
        monkeypatch.setattr(features, "_drop_columns", die)
    with pytest.raises(SystemExit):
        drop(declared, "toy")
    monkeypatch.undo()
    again = Store.open(declared.uri)
    assert "toy" not in catalog.recipes(again) and again.dataset("pool").count_rows() == 200
    drop(again, "toy")
    assert not set(RECIPE.columns) & set(again.dataset("pool").schema.names)
    assert verify(again.uri, full=True).ok


def test_columns_left_of_another_recipe_are_not_taken_for_this_one(declared):
    declared.delete("recipes", f"fingerprint = '{RECIPE.fingerprint}'")
    shards = shards_of(declared)
    shards.put(made(ids_of(declared)))
    fill(declared, numbers(declared), [shards])
    newer = Recipe("toy", 2, {}, {"name": "toy"}, RECIPE.columns)
    fields = [
        field.with_metadata({b"coresetdb:fingerprint": newer.fingerprint.encode()})
        for field in FIELDS
    ]
    declare(declared, newer, fields)
    assert count_unfilled(declared.dataset("pool"), newer) == 200


def test_appenders_and_readers_are_not_disturbed(declared, pool_rows):
    failures: list[BaseException] = []
    done = threading.Event()

    def guarded(work):
        def run():
            try:
                work()
            except BaseException as error:
                failures.append(error)

        return threading.Thread(target=run)

    def append():
        store = Store.open(declared.uri)
        for start in range(200, 600, 20):
            store.insert("pool", pool_rows(start, start + 20))

    def read():
        while not done.is_set():
            table = Store.open(declared.uri).dataset("pool").to_table(columns=["id", "rds", "toy"])
            assert table["rds"].null_count == 0
            present = table.filter(table["toy"].is_valid()).slice(0, 5).to_pylist()
            assert all(row["toy"] == value(row["id"])["toy"] for row in present)

    threads = [guarded(append), guarded(read)]
    for thread in threads:
        thread.start()
    shards = shards_of(declared)
    with fill_lock(declared):
        while threads[0].is_alive() or count_unfilled(declared.dataset("pool"), RECIPE):
            ids = pa.array(ids_of(declared))
            new = ids.filter(pa.array(shards.positions(ids) < 0))
            done_ids = declared.dataset("pool").to_table(
                columns=["id"], filter="toy_norm IS NOT NULL OR toy_reason IS NOT NULL"
            )["id"]
            new = new.filter(pc.invert(pc.is_in(new, value_set=done_ids.combine_chunks())))
            if len(new):
                shards.put(made(new.to_pylist()))
            fill(declared, numbers(declared), [shards])
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    declared.sync()
    assert len(ids_of(declared)) == 600
    check(declared, [digest(str(number)) for number in range(600)])


def test_cleaning_removes_shards_of_recipes_that_are_gone(declared):
    shards_of(declared).put(made(ids_of(declared)[:10]))
    stray = f"{FOLDER}/{'0' * 32}/00000000-0.arrow"
    declared.place.write(stray, b"x")
    maintenance.clean(declared, 0)
    left = [path for path in declared.place.sizes(FOLDER) if path.endswith(".arrow")]
    assert len(left) == 1 and RECIPE.fingerprint in left[0]


def test_status_tells_what_waits_and_what_to_type(declared):
    status = status_of(declared)
    assert status.waiting == {"toy": 200}
    (toy, *_) = [row for row in status.features if row["feature"] == "toy"]
    assert toy["not yet featurized"] == 200 and toy["rows without"] == 0
    assert f"coresetdb featurize {declared.uri} toy" in "\n".join(status.advice())

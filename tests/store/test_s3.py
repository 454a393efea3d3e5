"""The same store on an object store: a moto server on loopback."""

from __future__ import annotations

import os
import time

import pyarrow as pa
import pytest

import coresetdb
from coresetdb.schemas.canonical import digest
from coresetdb.schemas.errors import (
    DamagedStoreError,
    StoreBusyError,
    StoreError,
    StoreNotFoundError,
    UsageError,
)
from coresetdb.schemas.recipe import Recipe
from coresetdb.store import locks, maintenance, purge, removal
from coresetdb.store.features import declare, drop
from coresetdb.store.fill import fill, fill_lock
from coresetdb.store.integrity.repair import repair
from coresetdb.store.integrity.verify import verify
from coresetdb.store.locks import StoreLock
from coresetdb.store.place import place_at
from coresetdb.store.shards import Shards
from coresetdb.store.store import Store


def test_a_prefix_with_other_objects_is_refused_and_left_alone(bucket):
    place = place_at(f"s3://{bucket}/data")
    place.write("rows.jsonl", b"{}")
    with pytest.raises(UsageError, match=r"holds no store \(found rows\.jsonl\)"):
        Store.create(place.uri, {})
    assert place.names() == ["rows.jsonl"]
    assert Store.create(f"{place.uri}/pool", {}).config == {}


def test_a_store_on_s3(bucket, endpoint, features, pool_rows, source_rows, monkeypatch):
    uri = f"s3://{bucket}/some/store"
    with pytest.raises(StoreNotFoundError):
        Store.open(uri)
    store = Store.create(uri, {"where": "s3"}, features)
    with store.lock(shared=True):
        store.insert("sources", source_rows(0, 60))
        assert store.insert("pool", pool_rows(0, 40)) == 40
        assert store.insert("pool", pool_rows(20, 60)) == 20
    store.sync()
    options = {
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
        "aws_endpoint": endpoint,
        "allow_http": "true",
    }
    again = Store.open(uri, storage_options=options)
    assert again.config == {"where": "s3"}
    assert again.take([digest("55"), digest("1")], ["tokens"])["tokens"].to_pylist() == [55, 1]
    assert maintenance.compact(again) > 0
    assert verify(uri, full=True).ok

    victim = next(path for path in store.place.sizes("pool.lance/data"))
    data = bytearray(store.place.read(victim))
    data[len(data) // 2] ^= 1
    store.place.write(victim, bytes(data))
    report = verify(uri, full=True)
    assert report.damages and report.damages[0].kind == "bytes"

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    assert not coresetdb.verify(uri, full=True, storage_options=options).ok or not report.lost

    def reingest(lost):
        store.insert("pool", pool_rows(0, 60))
        return {}

    assert repair(uri, reingest, storage_options=options).ok or not report.lost
    assert store.dataset("pool").count_rows() == 60
    assert coresetdb.repair(uri, storage_options=options).ok


def test_an_s3_that_cannot_be_reached_is_not_damaged(monkeypatch, features):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    options = {
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
        "aws_endpoint": "http://127.0.0.1:9",
    }
    for act in (Store.open, lambda *call: Store.create(call[0], {}, features, [], call[1])):
        with pytest.raises(StoreError, match=r"cannot be (read|written): .*connect") as raised:
            act("s3://bucket/store", options)
        assert not isinstance(raised.value, DamagedStoreError)


def test_leases(bucket, monkeypatch):
    place = place_at(f"s3://{bucket}/locks")
    ours, theirs = StoreLock(place), StoreLock(place)
    with ours.held(shared=True, wait=0):
        with theirs.held(shared=True, wait=0):
            pass
        with pytest.raises(StoreBusyError), theirs.held(shared=False, wait=0):
            pass
    with ours.held(shared=False, wait=0), pytest.raises(StoreBusyError):
        with theirs.held(shared=True, wait=0):
            pass
    assert place.sizes(locks.LEASE_FOLDER) == {}


def test_a_lease_nobody_renews_is_dead(bucket, monkeypatch):
    monkeypatch.setattr(locks, "LEASE_SECONDS", 1.5)
    place = place_at(f"s3://{bucket}/locks")
    place.write(f"{locks.LEASE_FOLDER}/exclusive-dead.json", b"{}")
    with pytest.raises(StoreBusyError), StoreLock(place).held(shared=True, wait=0):
        pass
    time.sleep(3)
    with StoreLock(place).held(shared=False, wait=0):
        time.sleep(3)  # renewed meanwhile
        with pytest.raises(StoreBusyError), StoreLock(place).held(shared=True, wait=0):
            pass


def test_a_late_feature_on_s3(bucket, features, pool_rows):
    store = Store.create(f"s3://{bucket}/late", {"where": "s3"}, features, features)
    store.insert("pool", pool_rows(0, 60))
    recipe = Recipe("toy", 1, {}, {}, ("toy", "toy_reason"))
    toy = [pa.field("toy", pa.list_(pa.float16(), 4)), pa.field("toy_reason", pa.string())]
    with fill_lock(store):
        declare(store, recipe, toy)
        with pytest.raises(StoreBusyError, match="featurized"), fill_lock(Store.open(store.uri)):
            pass
        ids = store.dataset("pool").to_table(columns=["id"])["id"]
        values = pa.array([[1.0, 2.0, 3.0, float(n)] for n in range(60)], toy[0].type)
        columns = {"id": ids, "toy": values, "toy_reason": pa.nulls(60, pa.string())}
        Shards(store.place, recipe, store.dataset("pool").schema).put(pa.table(columns))
        shards = Shards(store.place, recipe, store.dataset("pool").schema)
        numbers = [part.fragment_id for part in store.dataset("pool").get_fragments()]
        assert fill(store, numbers, [shards]) == 60
    rows = store.take(ids.to_pylist(), ["toy"])
    assert rows["toy"].to_pylist() == values.to_pylist()
    store.sync()
    assert verify(store.uri, full=True).ok
    drop(store, "toy")
    assert "toy" not in store.dataset("pool").schema.names


def test_rows_are_removed_restored_and_purged_on_s3(bucket, features, pool_rows, source_rows):
    store = Store.create(f"s3://{bucket}/pool", {}, features)
    store.insert("sources", source_rows(0, 60))
    store.insert("pool", pool_rows(0, 60))
    before = store.dataset("pool").to_table().sort_by("id")
    gone = dict.fromkeys([digest("3"), digest("50")], "toy")
    with removal.alone(store):
        removal.remove(store, gone, "a slip")
    assert store.dataset("pool").count_rows() == 58
    with removal.alone(store):
        assert removal.restore(store, list(gone)) == 2
    assert store.dataset("pool").to_table().sort_by("id") == before
    with removal.alone(store):
        removal.remove(store, gone, state="purging")
    purge.settle_if_killed(Store.open(store.uri))
    report = verify(store.uri, full=True)
    assert report.ok and not report.orphans, report.lines()
    for path in store.place.sizes(""):
        assert b"question 50 question 50" not in store.place.read(path)

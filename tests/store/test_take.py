"""Rows by id: in the order asked, at any version."""

from __future__ import annotations

import pytest

from coresetdb.schemas.canonical import digest
from coresetdb.schemas.errors import StoreError, UsageError


def test_in_the_order_asked(filled):
    ids = [digest(str(n)) for n in (150, 3, 199, 3)]
    rows = filled.take(ids, ["id", "tokens", "rds"])
    assert rows["id"].to_pylist() == ids
    assert rows["tokens"].to_pylist() == [150 % 97, 3, 199 % 97, 3]
    assert rows.column_names == ["id", "tokens", "rds"]
    assert filled.take([], ["id"]).num_rows == 0


def test_after_deletes(filled):
    filled.delete("pool", "tokens = 5")
    ids = [digest(str(n)) for n in (6, 4, 150)]
    assert filled.take(ids, ["id"])["id"].to_pylist() == ids


def test_missing_ids_are_named(filled):
    with pytest.raises(StoreError, match=f"1 of 2 rows.*{'f' * 32}"):
        filled.take([digest("1"), "f" * 32], ["id"])


def test_at_an_old_version_and_a_tag(filled, pool_rows):
    old = filled.version()
    filled.tag("before", old)
    filled.tag("before", old)
    filled.insert("pool", pool_rows(200, 210))
    assert filled.take([digest("205")], ["id"]).num_rows == 1
    for version in (old, "before"):
        with pytest.raises(StoreError, match="not in table pool"):
            filled.take([digest("205")], ["id"], version=version)
    with pytest.raises(UsageError, match="stands for version"):
        filled.tag("before", filled.version())
    assert filled.tags() == {"before": old}
    filled.untag("before")
    filled.untag("before")
    assert filled.tags() == {}


def test_from_another_table(filled):
    keys = filled.dataset("sources").to_table(columns=["key"])["key"].to_pylist()[:3]
    rows = filled.take(keys[::-1], ["key", "line"], table="sources")
    assert rows["key"].to_pylist() == keys[::-1]

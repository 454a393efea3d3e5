"""A repair that was killed anywhere is finished by the next one, and nothing is forgotten."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from helpers.killing import Killed, killed_at
from helpers.toy_stores import RECIPE, numbered_rows, numbered_sources, rds_fields

from coresetdb.schemas.canonical import digest
from coresetdb.schemas.tables import RUNS
from coresetdb.store import catalog, removal
from coresetdb.store.integrity.repair import repair
from coresetdb.store.integrity.report import PATH
from coresetdb.store.integrity.verify import verify
from coresetdb.store.store import Store

ROWS = 80


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A store with rows, sources, a recipe, a run, a target, scores and removed rows."""
    root = tmp_path_factory.mktemp("killed") / "store"
    store = Store.create(str(root), {"backbone": {"name": "toy"}}, rds_fields(), rds_fields())
    catalog.put_recipe(store, RECIPE)
    for start in range(0, ROWS, 20):
        store.insert("sources", numbered_sources(start, start + 20))
        store.insert("pool", numbered_rows(start, start + 20))
    file = {"file": "toy.jsonl", "corpus": "toy", "read": ROWS, "new": ROWS}
    run = {"run": "r" * 32, "status": "done", "files": [file], "new": ROWS}
    store.insert("runs", pa.Table.from_pylist([run], RUNS))
    rows = [{"key": digest(f"t{n}"), "target": "sums", "id": digest(f"t{n}")} for n in range(3)]
    store.insert("targets", pa.Table.from_pylist(rows))
    scores = [
        {"key": digest(f"s{n}"), "target": "sums", "method": "rds:top", "id": digest(str(n))}
        for n in range(5)
    ]
    store.insert("scores", pa.Table.from_pylist(scores))
    with removal.alone(store):
        removal.remove(store, {digest(str(n)): "toy" for n in (3, 4)}, "a slip")
    store.tag("coreset-kept-pool", store.version())
    store.sync()
    assert verify(store.uri, full=True).ok
    return root


def data_file(root: Path, table: str, number: int = 0) -> Path:
    part = Store.open(str(root)).dataset(table).get_fragments()[number]
    return root / f"{table}.lance" / "data" / part.metadata.files[0].path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(20, min(84, len(data))):
        data[at] ^= 0x5A
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def tear_newest(root: Path, table: str) -> None:
    versions = [path for path in (root / f"{table}.lance" / "_versions").glob("*.manifest")]
    cut(min(versions))


def hurt_pool(root: Path) -> None:
    flip(data_file(root, "pool", 1))


def hurt_pool_and_sources(root: Path) -> None:
    flip(data_file(root, "pool", 2))
    flip(data_file(root, "sources", 1))


def hurt_small_tables(root: Path) -> None:
    for table in ("recipes", "removed", "scores"):
        flip(data_file(root, table))


def tear_pool(root: Path) -> None:
    tear_newest(root, "pool")


def hurt_checksums_and_cut_pool(root: Path) -> None:
    flip(data_file(root, "files"))
    cut(data_file(root, "pool", 1))


def tear_checksums_and_targets(root: Path) -> None:
    tear_newest(root, "files")
    tear_newest(root, "targets")


DAMAGES = (
    hurt_pool,
    hurt_pool_and_sources,
    hurt_small_tables,
    tear_pool,
    hurt_checksums_and_cut_pool,
    tear_checksums_and_targets,
)


def reader(uri: str) -> Callable[[list], dict[str, str]]:
    """Reads every lost row again from the toy corpus."""

    def reingest(lost: list) -> dict[str, str]:
        store = Store.open(uri)
        store.insert("sources", numbered_sources(0, ROWS))
        taken = removal.removed_ids(store)
        rows = numbered_rows(0, ROWS)
        fresh = ~taken.contains(rows["id"])
        store.insert("pool", rows.filter(pa.array(fresh)))
        store.sync()
        return {}

    return reingest


def assert_whole(root: Path) -> None:
    store = Store.open(str(root))
    assert sorted(store.dataset("pool").to_table(columns=["id"])["id"].to_pylist()) == sorted(
        digest(str(n)) for n in range(ROWS) if n not in (3, 4)
    )
    assert sorted(store.dataset("sources").to_table(columns=["line"])["line"].to_pylist()) == list(
        range(ROWS)
    )
    assert {stone.id for stone in removal.tombstones(store)} == {digest("3"), digest("4")}
    assert catalog.recipes(store)["rds"] == RECIPE
    assert not store.place.exists(PATH)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_repair_killed_at_any_step_is_finished_by_the_next(sound, tmp_path, damage):
    hurt = tmp_path / "hurt"
    shutil.copytree(sound, hurt)
    damage(hurt)
    whole = tmp_path / "whole"
    shutil.copytree(hurt, whole)
    with killed_at(None) as moments:
        expected = repair(str(whole), reader(str(whole)))
    assert_whole(whole)
    every = int(os.environ.get("CORESETDB_KILL_EVERY", 0)) or len(moments) // 3
    for moment in range(0, len(moments), every):
        root = tmp_path / f"at{moment}"
        shutil.copytree(hurt, root)
        with pytest.raises(Killed), killed_at(moment):
            repair(str(root), reader(str(root)))
        report = verify(str(root), full=True)
        done = repair(str(root), reader(str(root)))
        where = f"moment {moment}: {[*report.lines(), *done.lines()]}"
        assert done.after is not None and done.after.ok, where
        if not report.ok:  # else it was killed at the very end, and had said everything
            told = [line.replace(str(root), "") for line in done.unrepaired]
            assert told == [line.replace(str(whole), "") for line in expected.unrepaired], where
        assert verify(str(root), full=True).ok, where
        assert_whole(root)
        shutil.rmtree(root)

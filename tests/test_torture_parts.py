"""What `make torture` compares and damages; the matrix itself takes minutes and is not run here."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import pytest


@pytest.fixture
def parts(repository: Path, monkeypatch: pytest.MonkeyPatch):
    """Modules of benchmarks/torture by name."""
    names = ("contents", "damage", "processes", "world")
    monkeypatch.syspath_prepend(str(repository / "benchmarks" / "torture"))
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


def test_rows_that_are_gone_too_many_or_other_are_named(parts):
    differences = parts["contents"].differences
    pool = {"a": {"id": "a", "rds": [0.5, 1.0]}, "b": {"id": "b", "rds": [0.25, 0.0]}}
    assert differences({"pool": pool}, {"pool": pool}) == {}
    rounded = {**pool, "a": {"id": "a", "rds": [0.5004, 1.0]}}
    assert differences({"pool": rounded}, {"pool": pool}) == {}
    other = {**pool, "a": {"id": "a", "rds": [0.51, 1.0]}}
    assert differences({"pool": other}, {"pool": pool})["pool"].startswith("a: rds is [0.51")
    assert (
        "1 are missing, such as b"
        in differences({"pool": {"a": pool["a"]}}, {"pool": pool})["pool"]
    )
    assert "2 are too many" in differences({"pool": pool}, {})["pool"]


def test_every_way_of_damage_changes_a_file(parts, tmp_path):
    hurt, ways = parts["damage"].hurt, parts["damage"].WAYS
    for number, how in enumerate(ways):
        store = tmp_path / str(number)
        store.mkdir()
        (store / "one.json").write_bytes(bytes(range(1, 200)))
        (store / "two.json").write_bytes(b"another")
        hurt(store, store / "one.json", how, random.Random(3))
        there = (store / "one.json").exists()
        assert there != (how == "gone")
        assert not there or (store / "one.json").read_bytes() != bytes(range(1, 200))


def test_every_command_of_the_matrix_is_one(parts):
    from coresetdb.cli.main import COMMANDS

    lines = parts["world"].COMMANDS.values()
    assert {line.split()[0] for line in lines} <= set(COMMANDS)
    assert all("STORE" in line for line in lines)


def test_leftovers_are_told_from_the_files_of_a_store(parts, tmp_path):
    for path in ("_lock", "_fill/_lock", "_checksums/n.json", "pool.lance/data/1.lance"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert parts["contents"].leftovers(tmp_path) == []
    for path in ("_lost.json.ab.part", "_underway/1.json"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("{}")
    assert parts["contents"].leftovers(tmp_path) == ["_lost.json.ab.part", "_underway/1.json"]

"""Flipped, cut and lost bytes: named by table, file and rows, and brought back."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from lance.file import LanceFileReader

from coresetdb.schemas.canonical import digest
from coresetdb.schemas.recipe import Recipe
from coresetdb.store import catalog
from coresetdb.store.indices import owe
from coresetdb.store.integrity.repair import repair
from coresetdb.store.integrity.report import LostRow
from coresetdb.store.integrity.verify import verify
from coresetdb.store.rows import conform
from coresetdb.store.store import Store


def newest_manifest(store: Store, table: str) -> Path:
    return Path(store.place.absolute(min(manifests(store, table))))


def manifests(store: Store, table: str) -> list[str]:
    return [
        path for path in store.place.sizes(f"{table}.lance/_versions") if path.endswith("manifest")
    ]


def fragment_file(store: Store, table: str, number: int) -> Path:
    part = store.dataset(table).get_fragments()[number]
    return Path(store.place.absolute(f"{table}.lance/data/{part.metadata.files[0].path}"))


def flip(path: Path, start: int, count: int = 64) -> None:
    data = bytearray(path.read_bytes())
    for at in range(start, min(start + count, len(data))):
        data[at] ^= 0x5A
    path.write_bytes(data)


def page_of(store: Store, path: Path, column: str) -> int:
    """Offset of the first page of a column's last leaf."""
    schema = store.dataset("pool").schema
    leaves = {"rds": -3, "messages": 3}  # rds, rds_norm, rds_reason close the row
    assert schema.names[-3:] == ["rds", "rds_norm", "rds_reason"]
    columns = LanceFileReader(str(path)).metadata().columns
    page = columns[leaves[column]].pages[0]
    return max(page.buffers, key=lambda buffer: buffer.size).position


class Toy:
    """Reads lost rows again from the toy corpus, as ingestion would from its files."""

    def __init__(self, store, pool_rows, source_rows):
        self.uri, self.pool_rows, self.source_rows = store.uri, pool_rows, source_rows
        self.asked: list[LostRow] = []

    def __call__(self, lost: list[LostRow]) -> dict[str, str]:
        self.asked = lost
        store = Store.open(self.uri)
        lines = range(200) if any(not row.id for row in lost) else [row.line for row in lost]
        for line in lines:
            assert line < 200
        for start in sorted({line // 40 * 40 for line in lines}):
            store.insert("sources", self.source_rows(start, start + 40))
            store.insert("pool", self.pool_rows(start, start + 40))
        store.sync()
        return {}


@pytest.fixture
def toy(filled, pool_rows, source_rows) -> Toy:
    return Toy(filled, pool_rows, source_rows)


def assert_whole(store: Store, pool_rows) -> None:
    fresh = Store.open(store.uri)
    rows = fresh.take([digest(str(n)) for n in range(200)], ["rds", "messages"])
    assert rows["rds"].to_pylist() == pool_rows(0, 200)["rds"].to_pylist()
    assert rows["messages"][7].as_py()[1]["content"] == "answer 7"
    assert fresh.dataset("pool").count_rows() == 200
    assert fresh.dataset("sources").count_rows() == 200
    assert verify(store.uri, full=True).ok


def ids_in(store: Store, number: int) -> set[str]:
    part = store.dataset("pool").get_fragments()[number]
    return set(part.to_table(columns=["id"])["id"].to_pylist())


def test_a_sound_store(filled):
    report = verify(filled, full=True)
    assert report.ok and not report.damages and not report.late and not report.orphans
    assert report.checked_files >= 10 and "sound" in report.lines()[-1]
    assert repair(filled.uri).ok


@pytest.mark.parametrize("column", ["rds", "messages"])
def test_a_flipped_page_is_named_and_brought_back(filled, toy, pool_rows, column):
    lost = ids_in(filled, 2)
    path = fragment_file(filled, "pool", 2)
    flip(path, page_of(filled, path, column))
    assert verify(filled.uri).ok, "plain verify looks at sizes"
    report = verify(filled.uri, full=True)
    assert [(d.table, d.kind, d.what, d.rows) for d in report.damages] == [
        ("pool", "bytes", "data", 40)
    ]
    assert report.damages[0].path.endswith(path.name)
    assert set(report.lost_ids) == lost
    assert {(row.corpus, row.file) for row in report.lost} == {("toy", "toy.jsonl")}
    assert all(digest(str(row.line)) == row.id for row in report.lost)
    assert path.name in "\n".join(report.lines())
    done = repair(filled.uri, toy)
    assert done.ok and set(done.restored) == lost and {row.id for row in toy.asked} == lost
    assert_whole(filled, pool_rows)
    assert done.as_dict()["ok"] and "rows are back" in "\n".join(done.lines())


@pytest.mark.parametrize("harm", ["cut", "empty", "gone"])
def test_a_cut_data_file_is_seen_by_plain_verify(filled, toy, pool_rows, harm):
    path = fragment_file(filled, "pool", 1)
    lost = ids_in(filled, 1)
    if harm == "gone":
        path.unlink()
    else:
        os.truncate(path, 0 if harm == "empty" else path.stat().st_size // 2)
    report = verify(filled.uri)
    assert not report.ok and set(report.lost_ids) == lost
    assert report.damages[0].kind == ("missing" if harm == "gone" else "size")
    assert repair(filled.uri, toy).ok
    assert_whole(filled, pool_rows)


@pytest.mark.parametrize("harm", ["cut", "empty", "flip", "gone"])
def test_a_torn_newest_manifest_falls_back_one_version(filled, toy, pool_rows, harm):
    path, version = newest_manifest(filled, "pool"), filled.version()
    lost = ids_in(filled, 4)
    if harm == "gone":
        path.unlink()
    elif harm == "flip":
        flip(path, path.stat().st_size - 300, 200)
    else:
        os.truncate(path, 0 if harm == "empty" else path.stat().st_size // 2)
    report = verify(filled.uri)
    assert not report.ok
    damage = next(d for d in report.damages if d.newest)
    assert (damage.table, damage.what, damage.version) == ("pool", "manifest", version)
    assert set(report.lost_ids) == lost
    done = repair(filled.uri, toy)
    assert done.ok, done.lines()
    assert f"manifest of version {version}" in "\n".join(done.actions)
    assert_whole(filled, pool_rows)


def test_an_old_manifest_is_no_reason_to_lose_rows(filled, pool_rows):
    flip(Path(filled.place.absolute(sorted(manifests(filled, "pool"))[2])), 1000)
    report = verify(filled.uri)
    assert report.ok and len(report.damages) == 1 and not report.lost
    assert "only old versions" in "\n".join(report.lines())
    assert repair(filled.uri).ok
    assert verify(filled.uri, full=True).damages == []
    assert_whole(filled, pool_rows)


def test_damaged_sources_have_whole_files_read_again(filled, toy, pool_rows):
    flip(fragment_file(filled, "sources", 1), 40)
    flip(fragment_file(filled, "pool", 1), 40)
    report = verify(filled.uri, full=True)
    assert {d.table for d in report.damages} == {"pool", "sources"}
    assert LostRow("", "toy", "toy.jsonl", 0, unnamed=True) in report.lost
    assert report.unnamed_rows == 40
    done = repair(filled.uri, toy)
    assert done.ok, done.lines()
    assert_whole(filled, pool_rows)


def test_without_a_callback_the_rest_is_named(filled):
    lost = ids_in(filled, 3)
    flip(fragment_file(filled, "pool", 3), 40)
    done = repair(filled.uri)
    assert not done.ok and done.after is not None and not done.after.ok
    assert not any(damage.newest for damage in done.after.damages)
    assert any("40 rows are not back" in line and "ingest" in line for line in done.unrepaired)
    assert set(done.found.lost_ids) == lost
    assert filled.dataset("pool").count_rows() == 160


def test_a_tag_on_damaged_rows_is_told(filled, toy):
    version = filled.version()
    filled.tag("mine", version)
    flip(fragment_file(filled, "pool", 0), 40)
    assert verify(filled.uri, full=True).damages[0].tags == ("mine",)
    assert repair(filled.uri, toy).ok
    left = verify(filled.uri, full=True)
    assert left.ok and left.damages[0].tags == ("mine",) and not left.damages[0].newest
    assert filled.tags() == {"mine": version}


def test_a_tag_on_a_torn_manifest_goes_and_is_told(filled, toy):
    filled.tag("mine", filled.version())
    os.truncate(newest_manifest(filled, "pool"), 50)
    done = repair(filled.uri, toy)
    assert done.ok and any("tag mine" in action for action in done.actions)
    assert filled.tags() == {}


def test_a_tag_of_the_targets_goes_too(filled, toy):
    rows = [{"key": digest("1"), "target": "gsm8k", "id": digest("1")}]
    filled.upsert("targets", pa.Table.from_pylist(rows))
    dataset = filled.dataset("targets")
    dataset.tags.create("coreset-mine-targets", dataset.version)
    os.truncate(newest_manifest(filled, "targets"), 50)
    actions = repair(filled.uri, toy).actions
    assert any(action.startswith("targets: tag coreset-mine-targets") for action in actions)
    assert not filled.dataset("targets").tags.list()


def test_a_torn_tag(filled):
    filled.tag("mine", filled.version())
    os.truncate(filled.place.absolute("pool.lance/_refs/tags/mine.json"), 5)
    assert [d.what for d in verify(filled.uri).damages] == ["tag"]
    assert repair(filled.uri).after.damages == []


def test_targets_are_named_with_what_to_type(filled):
    rows = [{"key": digest(str(n)), "target": "gsm8k", "id": digest(str(n))} for n in range(3)]
    filled.upsert("targets", pa.Table.from_pylist(rows))
    filled.sync()
    path = fragment_file(filled, "targets", 0)
    flip(path, path.stat().st_size // 2)
    report = verify(filled.uri, full=True)
    assert [(d.table, d.rows) for d in report.damages] == [("targets", 3)]
    done = repair(filled.uri)
    assert not done.ok and "target add" in done.unrepaired[0] and "3 rows" in done.unrepaired[0]
    assert verify(filled.uri, full=True).ok


def test_a_table_with_its_only_manifest_torn_is_made_anew(filled):
    os.truncate(newest_manifest(filled, "targets"), 20)
    names = ["rds", "rds_norm", "rds_reason"]
    done = repair(filled.uri)
    assert any("made it anew" in action for action in done.actions)
    assert verify(filled.uri, full=True).ok
    assert Store.open(filled.uri).dataset("targets").schema.names[-3:] == names


def test_recipes_come_back_from_their_copies(filled):
    recipe = Recipe("rds", 1, {"layer": -1}, {"model": "toy"}, ("rds",))
    catalog.put_recipe(filled, recipe)
    filled.sync()
    flip(fragment_file(filled, "recipes", 0), 0, 400)
    assert not verify(filled.uri, full=True).ok
    done = repair(filled.uri)
    assert done.ok, done.lines()
    assert catalog.recipes(Store.open(filled.uri)) == {"rds": recipe}


@pytest.mark.parametrize("harm", ["manifest", "data", "note"])
def test_damage_to_the_checksums_themselves(filled, pool_rows, harm):
    if harm == "manifest":
        os.truncate(newest_manifest(filled, "files"), 30)
    elif harm == "data":
        path = fragment_file(filled, "files", -1)
        flip(path, 0, path.stat().st_size)
    else:
        filled.insert("pool", pool_rows(0, 1))
        filled.insert("pool", pool_rows(200, 201))
        note = next(p for p in filled.place.sizes("_checksums") if "/pool-" in p)
        flip(Path(filled.place.absolute(note)), 40, 4)
        filled.delete("pool", f"id = '{digest('200')}'")
    report = verify(filled.uri, full=True)
    assert not report.ok and {d.table for d in report.damages} == {"files"}
    done = repair(filled.uri)
    assert done.ok, done.lines()
    assert_whole(filled, pool_rows)
    flip(fragment_file(filled, "pool", 0), 40)
    assert not verify(filled.uri, full=True).ok, "it knows again what files were"


def test_a_pool_that_does_not_open_at_all_is_said(filled):
    for path in manifests(filled, "pool"):
        os.truncate(filled.place.absolute(path), 10)
    report = verify(filled.uri)
    assert not report.ok and "no version of this table opens" in "\n".join(report.lines())
    done = repair(filled.uri)
    assert not done.ok and "restore the folder" in done.unrepaired[0]


def test_an_unnoted_damaged_file_is_read_elsewhere(filled, pool_rows):
    """Neither a checksum nor trust: the file is tried in a process of its own."""
    pool = filled.dataset("pool")
    rows = conform("pool", pool_rows(300, 320), pool.schema)
    pool.merge_insert("id").when_not_matched_insert_all().execute(rows)
    path = fragment_file(filled, "pool", -1)
    data = path.read_bytes()
    path.write_bytes(os.urandom(len(data) - 100) + data[-100:])
    report = verify(filled.uri)
    assert [(d.kind, d.rows) for d in report.damages] == [("unreadable", 20)]
    after = repair(filled.uri).after
    assert after is not None and not after.damages and after.unnamed_rows == 20
    assert filled.dataset("pool").count_rows() == 200


def test_plain_verify_hashes_no_data(filled, monkeypatch):
    seen: list[str] = []
    kind = type(filled.place)
    whole = kind.checksum
    monkeypatch.setattr(
        kind, "checksum", lambda self, path: (seen.append(path), whole(self, path))[1]
    )
    assert verify(filled.uri).ok
    tables = {path.split("/")[0] for path in seen if not path.endswith(".manifest")}
    assert tables <= {"files.lance"}


def test_a_damaged_index_of_another_tool_is_dropped_and_its_maker_named(filled):
    filled.change(
        "pool",
        "indexing corpora",
        lambda pool: pool.create_scalar_index("corpus", "BTREE", name="theirs"),
    )
    filled.sync()
    (index,) = filled.dataset("pool").list_indices()
    folder = Path(filled.uri) / "pool.lance" / "_indices" / index["uuid"]
    path = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    path.write_bytes(b"\xff" * path.stat().st_size)
    done = repair(filled.uri)
    assert done.ok and not filled.dataset("pool").list_indices()
    (said,) = (line for line in done.actions if "theirs" in line)
    assert said.endswith("another tool made it: make it again there")


def test_only_an_index_of_a_feature_is_said_to_be_made_again(filled):
    owe(filled, ["corpus", "theirs"])
    ours, theirs = (line for line in verify(filled.uri, full=True).notes if "dropped" in line)
    assert "the index of corpus; the next command" in ours and "theirs" not in ours
    assert "the index theirs," in theirs and theirs.endswith("make it again with that tool")

"""Coresets whose rows another tool chose: every kind of file, and what is refused."""

from __future__ import annotations

import json

import polars as pl
import pytest

from coresetdb.database import Database
from coresetdb.query.distances import distances
from coresetdb.query.queries import load_queries
from coresetdb.query.snapshot import Snapshot
from coresetdb.schemas.errors import InputError, NoSuchFileError, UsageError


@pytest.fixture
def database(store) -> Database:
    return Database(store)


@pytest.fixture
def ids(store) -> list[str]:
    return store.dataset("pool").to_table(columns=["id"])["id"].to_pylist()[5:25:3]


def rows(ids):
    return [{"id": row_id, "score": 1.5 - n, "x": 0.25} for n, row_id in enumerate(ids)]


def write(kind, path, ids):
    frame = pl.DataFrame(rows(ids))
    match kind:
        case "parquet":
            frame.write_parquet(path)
        case "csv":
            frame.write_csv(path)
        case "tsv":
            frame.write_csv(path, separator="\t")
        case "jsonl":
            frame.write_ndjson(path)
        case "json":
            path.write_text(json.dumps(rows(ids), indent=1))
        case "ids.json":
            path.write_text(json.dumps(ids))
        case "manifest.json":
            path.write_text(json.dumps({"coreset": "x", "ids": ids}, indent=2))
        case "txt":
            path.write_text("\ufeff\n" + "\r\n".join(row_id.upper() for row_id in ids) + "\n\n")


@pytest.mark.parametrize(
    "kind", ["parquet", "csv", "tsv", "jsonl", "json", "ids.json", "manifest.json", "txt"]
)
def test_every_kind_of_file(database, ids, tmp_path, kind):
    path = tmp_path / f"chosen.{kind}"
    write(kind, path, ids)
    coreset = database.import_coreset("theirs", path)
    assert coreset.ids == ids and coreset.method == "imported" and coreset.saved
    scores = coreset.members["score"].to_pylist()
    has_scores = kind in ("parquet", "csv", "tsv", "jsonl", "json")
    assert scores == ([row["score"] for row in rows(ids)] if has_scores else [None] * len(ids))
    again = database.open_coreset("theirs")
    assert again.ids == ids and again.parameters["imported"]["file"] == path.name
    assert again.members.equals(coreset.members)


def test_ranks_order_and_repeated_ids_count_once(database, ids, tmp_path):
    path = tmp_path / "ranked.csv"
    ranked = [*rows(ids), rows(ids)[0]]
    pl.DataFrame([row | {"rank": 100 - n} for n, row in enumerate(ranked)]).write_csv(path)
    coreset = database.import_coreset("theirs", path)
    assert coreset.ids == ids[::-1]
    assert coreset.notes == ("1 id comes again in " + str(path) + ", and count once",)


def test_another_column_and_ids_in_memory(database, ids, tmp_path):
    pl.DataFrame({"__row_id": ids, "id": range(len(ids))}).write_parquet(tmp_path / "a.parquet")
    coreset = database.import_coreset("theirs", tmp_path / "a.parquet", column="__row_id")
    assert coreset.ids == ids
    assert database.import_coreset("mine", ids[:3]).ids == ids[:3]


def test_it_is_a_coreset_like_any_other(database, ids, tmp_path):
    coreset = database.import_coreset("theirs", ids, targets="arithmetic")
    assert coreset.targets == ("arithmetic",) and len(list(coreset)) == len(ids)
    assert f"{len(ids)} rows imported from memory for arithmetic" in repr(coreset)
    database.export("theirs", tmp_path / "rows.jsonl")
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(ids)
    other = database.select("arithmetic", budget=10, exclude="theirs", name="other")
    assert not set(other.ids) & set(ids)
    compared = database.compare("theirs", "other")
    assert compared.common == 0
    snapshot = Snapshot(database.store)
    feature = snapshot.feature("rds")
    queries = [load_queries(snapshot, "arithmetic", feature)]
    assert compared.measured[0].first == distances(snapshot, feature, queries, ids)
    with pytest.raises(UsageError, match="was imported from memory"):
        database.replay("theirs")
    explained = database.explain("theirs", 1)
    assert explained.messages and "was imported from memory" in explained.cannot[0]
    database.remove_coreset("theirs")
    assert [row["coreset"] for row in database.list_coresets()] == ["other"]


def test_what_is_refused_is_named_and_nothing_is_recorded(database, ids, tmp_path):
    strangers = ["0" * 31 + str(n) for n in range(7)]
    with pytest.raises(
        UsageError, match=f"7 ids are in no row of the pool: {strangers[0]}.*2 more"
    ):
        database.import_coreset("theirs", [*ids, *strangers])
    database.remove(ids=ids[:2], why="bad")
    with pytest.raises(UsageError, match="2 of them were removed from the pool"):
        database.import_coreset("theirs", ids)
    files = {
        "words.txt": "one\ntwo\n",
        "empty.txt": "\n",
        "none.csv": "name,score\na,1\n",
        "broken.jsonl": '{"id": "' + ids[5] + '"}\n{"id": \n',
        "number.json": "[1, 2]",
        "object.json": '{"rows": 3,\n"name": "x"}',
        "score.csv": f"id,score\n{ids[5]},high\n",
        "list.jsonl": '{"id": "' + ids[5] + '"}\n[1]\n',
        "no.parquet": "no parquet",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=name):
            database.import_coreset("theirs", tmp_path / name)
    with pytest.raises(NoSuchFileError):
        database.import_coreset("theirs", tmp_path / "absent.csv")
    with pytest.raises(UsageError, match="no target 'nosuch'"):
        database.import_coreset("theirs", ids[5:], targets=["nosuch"])
    with pytest.raises(UsageError, match="no ids"):
        database.import_coreset("theirs", [])
    assert database.list_coresets() == []
    database.import_coreset("theirs", ids[5:])
    with pytest.raises(UsageError, match="already"):
        database.import_coreset("theirs", ids[5:])

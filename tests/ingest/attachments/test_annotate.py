"""Columns of files in the pool: joining, types, counts, what is refused, and going on later."""

from __future__ import annotations

import csv
import gzip
import json
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import toy_stores

from coresetdb.ingest.attachments import attaching
from coresetdb.ingest.attachments.typed_values import parsed_text
from coresetdb.schemas.errors import InputError, StoreBusyError, UsageError
from coresetdb.store.features import features_of
from coresetdb.store.fill import fill_lock
from coresetdb.store.integrity.verify import verify
from coresetdb.store.status import status_of


def jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def scores(world, first: int, last: int, **more) -> list[dict]:
    return [{"id": world.rows[number].id, "score": number, **more} for number in range(first, last)]


def test_rows_get_the_values_of_their_ids(world, tmp_path):
    rows = [
        {
            "id": row.id,
            "score": number / 4,
            "rank": number,
            "good": number % 2 == 0,
            "why": f"w{number}",
        }
        for number, row in enumerate(world.rows[:20])
    ]
    rows.append({"id": "0" * 32, "score": 1.0})
    rows.append({"id": None, "score": 1.0})
    account = world.database.annotate(jsonl(tmp_path / "judged.jsonl", rows), prefix="judge_")
    assert (account.filled, account.unmatched, account.read) == (20, 1, 22)
    assert account.files[0].without_key == 1
    assert account.without == {"not in the file": 10}
    names = ("judge_score", "judge_rank", "judge_good", "judge_why", "judge_missing")
    expected = {row["id"]: (*list(row.values())[1:], None) for row in rows[:20]}
    nothing = (None, None, None, None, "not in the file")
    assert world.column(*names) == {row.id: expected.get(row.id, nothing) for row in world.rows}
    types = {name: world.store.dataset("pool").schema.field(name).type for name in names}
    assert list(types.values()) == [pa.float64(), pa.int64(), pa.bool_(), pa.string(), pa.string()]
    report = verify(world.store.uri, full=True)
    assert report.ok and not report.late and not report.orphans


def test_ids_may_be_written_in_capitals(world, tmp_path):
    rows = [{**row, "id": row["id"].upper()} for row in scores(world, 0, 5)]
    account = world.database.annotate(jsonl(tmp_path / "judged.jsonl", rows), key="id")
    assert (account.filled, account.unmatched) == (5, 0)


def test_an_annotation_is_a_recipe_and_a_run_with_the_hash_of_its_file(world, tmp_path):
    import xxhash

    file = tmp_path / "judged.jsonl"
    jsonl(file, scores(world, 0, 30))
    world.database.annotate(file, prefix="judge_")
    recipe = features_of(world.store)["judge"]
    assert recipe.options["files"] == [xxhash.xxh3_64_hexdigest(file.read_bytes())]
    assert recipe.columns == ("judge_score", "judge_missing")
    (run,) = world.store.dataset("runs").to_table().to_pylist()
    assert (run["status"], run["read"], run["new"]) == ("done", 30, 30)
    assert run["files"][0]["file"] == str(file)
    (listed,) = world.database.list_annotations()
    assert (listed["annotation"], listed["rows"], listed["not yet annotated"]) == ("judge", 30, 0)


def written(rows: list[dict], kind: str, folder: Path) -> object:
    """The rows in one of the containers that people use."""
    file = folder / f"values.{kind}"
    if kind in ("csv", "tsv"):
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl.gz":
        file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    elif kind == "json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif kind == "decimal.parquet":
        table = pa.Table.from_pylist(rows)
        exact = pa.array([Decimal(str(row["score"])) for row in rows], pa.decimal128(10, 3))
        coded = table["topic"].dictionary_encode()
        table = table.set_column(1, "score", exact).set_column(3, "topic", coded)
        pq.write_table(table, file)
    elif kind == "polars":
        return pl.DataFrame(rows)
    else:
        return rows
    return file


@pytest.mark.parametrize(
    "kind", ["csv", "tsv", "jsonl.gz", "json", "parquet", "decimal.parquet", "polars", "list"]
)
def test_every_container_gives_the_same_columns(world, tmp_path, kind):
    rows = [
        {
            "id": row.id,
            "score": number / 8,
            "good": number % 3 == 0,
            "topic": f"t{number % 4}",
            "n": number,
        }
        for number, row in enumerate(world.rows)
    ]
    world.database.annotate(written(rows, kind, tmp_path), name="judge")
    found = world.column("score", "good", "topic", "n")
    assert found == {row["id"]: tuple(row.values())[1:] for row in rows}
    schema = world.store.dataset("pool").schema
    types = [schema.field(name).type for name in ("score", "good", "topic", "n")]
    assert types == [pa.float64(), pa.bool_(), pa.string(), pa.int64()]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        (" -12 ", -12),
        ("1.50", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("TRUE", True),
        ("false", False),
        ("", None),
        ("  ", None),
        ("NaN", None),
        ("007", "007"),
        ("1,5", "1,5"),
        ("inf", "inf"),
        ("1_000", "1_000"),
        ("x", "x"),
    ],
)
def test_a_text_is_a_number_only_where_it_is_written_as_one(text, value):
    parsed = parsed_text(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_mixed_column_is_an_error_that_says_where(world, tmp_path, kind):
    file = tmp_path / f"judged.{kind}"
    ids = [row.id for row in world.rows]
    if kind == "csv":
        file.write_text(f"id,score\n{ids[0]},4\n{ids[1]},n/a\n")
    else:
        jsonl(file, [{"id": ids[0], "score": 4}, {"id": ids[1], "score": "n/a"}])
    line = 3 if kind == "csv" else 2
    with pytest.raises(
        UsageError, match=rf"'score' mixes .*n/a.* at .*judged.{kind}:{line}.*--text"
    ):
        world.database.annotate(file)
    assert not features_of(world.store).keys() - {"rds"}
    world.database.annotate(file, texts="score")
    assert {world.column("score")[row] for row in ids[:2]} == {"4", "n/a"}


def test_whole_numbers_and_fractions_are_numbers_even_far_apart(world, tmp_path, monkeypatch):
    from coresetdb.ingest.attachments import typed_values

    monkeypatch.setattr(typed_values, "PART_ROWS", 4)
    rows = scores(world, 0, 30)
    rows[29]["score"] = 0.25
    world.database.annotate(jsonl(tmp_path / "a.jsonl", rows))
    assert world.column("score") == {row["id"]: float(row["score"]) for row in rows}


def test_what_is_inside_objects_is_reached_by_name(world, tmp_path):
    rows = [{"id": row.id, "judge": {"score": 3, "all": [1]}} for row in world.rows]
    file = jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(UsageError, match=r"'judge' holds a list or object.*judge\.score"):
        world.database.annotate(file)
    world.database.annotate(file, columns="judge.score")
    assert set(world.column("judge_score").values()) == {3}


def test_the_sources_own_ids_are_looked_up_in_every_place_a_row_was_seen(world, tmp_path):
    world.saw(world.rows[3], "other", "other.jsonl", 9, "b3")
    rows = [{"id": "a0", "score": 0}, {"id": "b3", "score": 3}, {"id": "zz", "score": 9}]
    account = world.database.annotate(jsonl(tmp_path / "a.jsonl", rows), key="source_id")
    found = world.column("score")
    assert (account.filled, account.unmatched) == (2, 1)
    assert {number for number, row in enumerate(world.rows) if found[row.id] is not None} == {0, 3}


def test_numbers_are_ids_as_they_are_at_ingestion(world, tmp_path):
    world.saw(world.rows[5], "other", "other.jsonl", 1, "17")
    file = jsonl(tmp_path / "a.jsonl", [{"uuid": 17, "score": 1}])
    assert world.database.annotate(file, key="source_id").filled == 1
    (found,) = {id for id, score in world.column("score").items() if score == 1}
    assert found == world.rows[5].id


def test_an_id_of_two_corpora_needs_one_of_them(world, tmp_path):
    world.add(100, 105, corpus="other", ids=False)
    world.saw(world.rows[30], "other", "other.jsonl", 900, "a0")
    file = jsonl(tmp_path / "a.jsonl", [{"id": "a0", "score": 1}])
    with pytest.raises(UsageError, match=r"'a0' stands for 2 rows .*--corpus \(other, toy\)"):
        world.database.annotate(file, key="source_id")
    with pytest.raises(UsageError, match="no such corpus; corpora: other, toy"):
        world.database.annotate(file, key="source_id", corpus="nix")
    world.database.annotate(file, key="source_id", corpus="other")
    assert world.column("score")[world.rows[30].id] == 1
    assert world.column("score")[world.rows[0].id] is None


def test_an_id_of_two_records_of_one_corpus_is_refused_but_not_of_one_record(world, tmp_path):
    for number, line in ((1, 7), (2, 7)):
        world.saw(world.rows[number], "trees", "trees.jsonl", line, "tree")
    world.database.annotate(
        jsonl(tmp_path / "a.jsonl", [{"id": "tree", "score": 1}]), key="source_id", corpus="trees"
    )
    found = world.column("score")
    assert [found[world.rows[number].id] for number in range(4)] == [None, 1, 1, None]
    world.saw(world.rows[4], "trees", "trees.jsonl", 8, "tree")
    with pytest.raises(UsageError, match=r"stands for 3 rows .* --key id or --key messages"):
        world.database.annotate(
            [{"id": "tree", "score": 1}], key="source_id", corpus="trees", name="again", prefix="x_"
        )


def test_a_record_is_known_by_its_content_in_any_shape(world, tmp_path):
    rows = [
        {
            "instruction": row.messages[0].content,
            "output": row.messages[1].content,
            "quality": number,
        }
        for number, row in enumerate(world.rows[:12])
    ]
    rows.append({"instruction": "not in the pool", "output": "no", "quality": 1})
    rows.append({"instruction": "no answer", "output": "", "quality": 1})
    account = world.database.annotate(jsonl(tmp_path / "a.jsonl", rows), key="messages")
    assert (account.filled, account.unmatched) == (12, 1)
    assert account.files[0].unreadable == {"empty response": 1}
    found = world.column("quality")
    assert [found[row.id] for row in world.rows[:12]] == list(range(12))


def test_equal_repetitions_are_counted_and_others_refused(world, tmp_path):
    twice = scores(world, 0, 4) + scores(world, 0, 2)
    assert world.database.annotate(jsonl(tmp_path / "a.jsonl", twice)).repeated == 2
    twice[-1]["score"] = 7
    with pytest.raises(
        UsageError, match=r"b.jsonl:2 and .*b.jsonl:6 have the same key.*\(1 and 7\)"
    ):
        world.database.annotate(jsonl(tmp_path / "b.jsonl", twice), prefix="b_")


def test_the_same_file_again_changes_nothing(world, tmp_path):
    file = jsonl(tmp_path / "a.jsonl", scores(world, 0, 12))
    world.database.annotate(file)
    tables = ("pool", "targets", "runs", "recipes", "files")
    before = [world.store.version(table) for table in tables]
    again = world.database.annotate(file)
    assert not again.changed and again.present == 12 and "nothing to do" in str(again)
    assert [world.store.version(table) for table in tables] == before


def test_later_rows_are_counted_and_a_later_file_completes_them(world, tmp_path):
    world.database.annotate(jsonl(tmp_path / "a.jsonl", scores(world, 0, 12)), name="judge")
    world.add(40, 50)
    status = status_of(world.store)
    assert status.waiting["judge"] == 10
    (advice,) = [line for line in status.advice() if "judge" in line]
    assert "judge lacks 10 rows that came after it" in advice and "--name judge" in advice
    world.database.annotate(jsonl(tmp_path / "b.jsonl", scores(world, 10, 36)), name="judge")
    found = world.column("score", "judge_missing")
    expected = {
        row.id: (number, None) if number < 36 else (None, "not in the file")
        for number, row in enumerate(world.rows)
    }
    assert found == expected
    assert "judge" not in " ".join(status_of(world.store).advice())


def test_a_value_that_stands_in_the_pool_is_not_replaced(world, tmp_path):
    world.database.annotate(jsonl(tmp_path / "a.jsonl", scores(world, 0, 12)), name="judge")
    version = world.store.version("pool")
    others = scores(world, 5, 20)
    others[2]["score"] = 99
    with pytest.raises(
        UsageError, match=r"score = 7 already, and .*b.jsonl:3 has 99.*annotation remove"
    ):
        world.database.annotate(jsonl(tmp_path / "b.jsonl", others), name="judge")
    assert world.store.version("pool") == version


def test_a_later_file_must_have_the_columns_and_their_kinds(world, tmp_path):
    world.database.annotate(jsonl(tmp_path / "a.jsonl", scores(world, 0, 12)), name="judge")
    with pytest.raises(UsageError, match="has the columns score, and not 'other'"):
        world.database.annotate(
            jsonl(tmp_path / "b.jsonl", scores(world, 12, 13, other=1)), name="judge"
        )
    halves = [{**row, "score": row["score"] / 4} for row in scores(world, 13, 20)]
    with pytest.raises(UsageError, match=r"holds whole numbers, and the file has numbers"):
        world.database.annotate(jsonl(tmp_path / "c.jsonl", halves), name="judge")


def test_several_files_are_one_annotation(world, tmp_path):
    files = [
        jsonl(tmp_path / "a.jsonl", scores(world, 0, 12)),
        jsonl(tmp_path / "b.jsonl", [{"id": world.rows[20].id, "score": 0.5}]),
    ]
    account = world.database.annotate(files, prefix="judge_")
    assert (account.filled, account.read) == (13, 13)
    assert world.column("judge_score")[world.rows[20].id] == 0.5
    assert len(features_of(world.store)["judge"].options["files"]) == 2


def test_a_file_about_no_row_is_refused_and_leaves_nothing(world, tmp_path):
    file = jsonl(tmp_path / "a.jsonl", [{"id": "0" * 32, "score": 1}])
    before = world.store.dataset("pool").schema
    with pytest.raises(
        UsageError, match=r"no row of .* matches the file \(1 key, .*--key source_id"
    ):
        world.database.annotate(file)
    with pytest.raises(UsageError, match=r"32 hexadecimal digits.*--key source_id"):
        world.database.annotate(jsonl(tmp_path / "b.jsonl", [{"id": "a1", "score": 1}]))
    with pytest.raises(UsageError, match="no column id to join by"):
        world.database.annotate(jsonl(tmp_path / "c.jsonl", [{"uid": "a1", "score": 1}]))
    with pytest.raises(UsageError, match="no column to take beside the key"):
        world.database.annotate([{"id": world.rows[0].id}])
    with pytest.raises(UsageError, match="no row with a key and values"):
        world.database.annotate([{"id": None, "score": 1}])
    assert world.store.dataset("pool").schema == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prefix": "rds_", "columns": "norm", "name": "x"}, "has a column 'rds_norm'"),
        ({"columns": "Corpus"}, "has a column 'corpus'"),
        ({"name": "rds", "columns": "norm"}, "a method has this name"),
        ({"name": "fast", "columns": "norm"}, "a method has this name"),
        ({"name": "two words", "columns": "norm"}, "letters, digits and underscores"),
        ({"columns": "7"}, "begins with a letter: give a --prefix"),
        ({"columns": ["a b", "a-b"]}, "would both be 'a_b'"),
        ({"columns": "nix"}, "nix: no row has a value there"),
        ({"corpus": "toy"}, "the key is id"),
        ({"key": "line"}, "choose from id, source_id, messages"),
    ],
)
def test_what_is_refused(world, tmp_path, arguments, message):
    names = ("norm", "Corpus", "7", "a b", "a-b")
    rows = [{"id": row.id, **dict.fromkeys(names, 1)} for row in world.rows]
    with pytest.raises(UsageError, match=message):
        world.database.annotate(jsonl(tmp_path / "a.jsonl", rows), **arguments)


def test_a_file_that_breaks_off_is_refused(world, tmp_path):
    whole = gzip.compress("\n".join(map(json.dumps, scores(world, 0, 30))).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-40])
    with pytest.raises(InputError):
        world.database.annotate(tmp_path / "a.jsonl.gz")


def test_a_run_that_was_killed_is_finished_by_the_same_command(world, tmp_path, monkeypatch):
    file = jsonl(tmp_path / "a.jsonl", scores(world, 0, 25))
    monkeypatch.setattr(attaching, "ROWS_PER_COMMIT", 1)
    real, calls = attaching.fill, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(attaching, "fill", dies)
    with pytest.raises(KeyboardInterrupt):
        world.database.annotate(file, name="judge")
    assert status_of(world.store).waiting["judge"] == 20
    monkeypatch.setattr(attaching, "fill", real)
    account = world.database.annotate(file, name="judge")
    assert (account.filled, account.present) == (15, 10)
    expected = {row.id: n if n < 25 else None for n, row in enumerate(world.rows)}
    assert world.column("score") == expected
    assert verify(world.store.uri, full=True).ok


def test_deleted_rows_and_compaction_are_no_obstacle(world, tmp_path):
    for number in (3, 14):
        world.store.delete("pool", f"id = '{world.rows[number].id}'")
    gone = {world.rows[number].id for number in (3, 14)}
    account = world.database.annotate(jsonl(tmp_path / "a.jsonl", scores(world, 0, 30)))
    assert (account.filled, account.unmatched) == (28, 2)
    world.database.compact()
    expected = {row.id: n for n, row in enumerate(world.rows) if row.id not in gone}
    assert world.column("score") == expected


def test_it_waits_for_nobody_who_fills_columns(world, tmp_path):
    file = jsonl(tmp_path / "a.jsonl", scores(world, 0, 3))
    with fill_lock(world.store), pytest.raises(StoreBusyError):
        world.database.annotate(file)


def test_an_annotation_is_removed_unless_coresets_were_chosen_by_it(world, tmp_path):
    world.database.annotate(jsonl(tmp_path / "a.jsonl", scores(world, 0, 9)), prefix="judge_")
    world.database.annotate(jsonl(tmp_path / "b.jsonl", scores(world, 0, 9)), prefix="other_")
    world.database.select(method="top(score=judge_score)", budget=3, name="best")
    with pytest.raises(UsageError, match=r"judge was used for 1 coreset \(best\)"):
        world.database.remove_annotation("judge")
    with pytest.raises(UsageError, match="no annotation 'rds'; it has judge, other"):
        world.database.remove_annotation("rds")
    world.database.remove_annotation("judge", force=True)
    world.database.remove_annotation("other")
    assert world.database.list_annotations() == []
    assert not {"judge_score", "other_score"} & set(world.store.dataset("pool").schema.names)
    world.database.annotate(jsonl(tmp_path / "c.jsonl", scores(world, 0, 30)), prefix="judge_")
    assert world.column("judge_score")[world.rows[20].id] == 20


def test_a_metadata_field_of_the_same_name_is_told(world, tmp_path):
    run = {"run": "r1", "metadata_keys": ["score"]}
    from coresetdb.schemas.tables import RUNS

    world.store.insert("runs", pa.Table.from_pylist([run], RUNS))
    account = world.database.annotate(jsonl(tmp_path / "a.jsonl", scores(world, 0, 9)))
    assert "SQL reaches the metadata field score as meta_score from now on" in str(account)
    found = world.database.sql("SELECT sum(score), count(meta_score) FROM pool").to_polars().rows()
    assert next(iter(found)) == (36, 0)


def test_values_open_filters_sql_and_methods(world, tmp_path):
    values = [
        {**row, "score": (row["score"] * 7) % 30, "topic": f"t{row['score'] % 3}"}
        for row in scores(world, 0, 20)
    ]
    world.database.annotate(jsonl(tmp_path / "a.jsonl", values), prefix="judge_")
    by_score = sorted(values, key=lambda row: (-row["score"], row["id"]))
    best = world.database.select(method="top(score=judge_score)", budget=100)
    assert best.ids == [row["id"] for row in by_score]
    assert any("left out: 10 eligible rows without judge_score" in note for note in best.notes)
    worst = world.database.select(
        method="top(score=judge_score,order=ascending)", budget=3, where="judge_topic = 't1'"
    )
    assert worst.ids == [row["id"] for row in by_score[::-1] if row["topic"] == "t1"][:3]
    apart = world.database.select(
        method="rds:deita_filter(score=judge_score,threshold=2)", budget=5
    )
    assert apart.ids == best.ids[:5]
    (counted,) = world.database.sql("SELECT count(judge_score) FROM pool").to_polars().rows()
    assert counted == (20,)
    assert world.database.replay(best.name).same
    recipe = features_of(world.store)["judge"]
    for coreset in (best, worst, apart):
        assert coreset.parameters["annotations"] == {"judge": recipe.fingerprint}
    plain = world.database.select(method="random", budget=2)
    assert "annotations" not in plain.parameters
    with pytest.raises(UsageError, match=r"name a representation.*or a column of the pool: top"):
        world.database.select(method="top", budget=5)
    toy_stores.add_target(world.store, "sums", world.rows[:2])
    with pytest.raises(UsageError, match="is a score already"):
        world.database.score("sums", ["top(score=judge_score)"])


def test_quotas_and_caps_are_of_any_columns_values(world, tmp_path):
    values = [
        {"id": row.id, "topic": f"t{n % 3}", "level": n % 2, "good": n % 5 == 0, "score": n}
        for n, row in enumerate(world.rows[:24])
    ]
    world.database.annotate(jsonl(tmp_path / "a.jsonl", values), name="judge")
    topic_of = {row["id"]: row["topic"] for row in values}
    options = {"method": "top(score=score)", "budget": 8, "quota_by": "topic"}
    chosen = world.database.select(quota={"t1": 6}, **options)
    by_score = sorted(values, key=lambda row: -row["score"])
    best = {
        kept: [row["id"] for row in by_score if (row["topic"] == "t1") is kept]
        for kept in (True, False)
    }
    assert set(chosen.ids) == {*best[True][:6], *best[False][:2]}
    assert world.database.replay(chosen.name).same
    capped = world.database.select(cap=["2"], **options)
    assert len(capped) == 6
    assert sorted(topic_of[row] for row in capped.ids) == ["t0", "t0", "t1", "t1", "t2", "t2"]
    for by, value, column in (("level", "1", "level"), ("good", "true", "good")):
        one = world.database.select(
            method="top(score=score)", budget=4, quota={value: 4}, quota_by=by
        )
        own = [row["id"] for row in by_score if str(row[column]).lower() == value]
        assert one.ids == own[:4]
    with pytest.raises(UsageError, match="the pool has no topic; values: t0, t1, t2"):
        world.database.select(quota={"t9": 1}, **options)
    with pytest.raises(UsageError, match="no column of texts, whole numbers or truth values"):
        world.database.select(method="random", budget=3, quota={"1": 1}, quota_by="score_by")
    with pytest.raises(UsageError, match="add --quota or --cap"):
        world.database.select(method="random", budget=3, quota_by="topic")
    with pytest.raises(UsageError, match="judge was used for"):
        world.database.remove_annotation("judge")


def test_an_empty_pool_has_nothing_to_annotate(tmp_path):
    from coresetdb.database import Database

    empty = Database(toy_stores.toy_store(tmp_path / "empty"))
    with pytest.raises(UsageError, match=r"is empty\. Next: coresetdb ingest"):
        empty.annotate([{"id": "0" * 32, "score": 1}])

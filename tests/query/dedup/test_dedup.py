"""Deduplication of a store: the columns, which row is kept, runs again, and what is said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from helpers import toy_stores

from coresetdb.database import Database
from coresetdb.schemas.errors import MissingFeatureError, QueryError, StoreBusyError, UsageError
from coresetdb.schemas.instruction import Instruction
from coresetdb.store.features import features_of
from coresetdb.store.fill import only_filler
from coresetdb.store.store import Store


def text(seed, words=90):
    return " ".join(f"w{n}" for n in np.random.default_rng(seed).integers(0, 500, words))


def row(question, answer="fine"):
    return Instruction.from_turns(("user", question), ("assistant", answer))


def changed(question, places=1):
    words = question.split()
    for place in range(places):
        words[3 + 9 * place] = f"changed{place}"
    return " ".join(words)


FIRST = [row(text(n)) for n in range(8)]
SECOND = [
    row(changed(text(0)), "a longer answer than that of the first row"),
    row(text(1).upper() + "!", "fine."),
    row(changed(text(0)) + " too"),
    row(text(50)),
    row("?!", "..."),
]


@pytest.fixture
def database(tmp_path) -> Database:
    """Two corpora in two fragments; row 0 has two near-duplicates, row 1 one, one has no words."""
    store = toy_stores.toy_store(tmp_path / "store")
    store.configure(backbone={"name": "toy"}, features="")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number, (rows, corpus) in enumerate([(FIRST, "one"), (SECOND, "two")]):
        table = toy_stores.pool_rows(rows, [corpus] * len(rows))
        place = table.schema.get_field_index("added_at")
        field = table.schema.field(place)
        added = pa.array([start + timedelta(days=number)] * len(rows), field.type)
        store.insert("pool", table.set_column(place, field, added))
    return Database(store)


def columns(database, *names):
    rows = database.store.dataset("pool").to_table(columns=["id", *names]).to_pylist()
    return {each["id"]: tuple(each[name] for name in names) for each in rows}


def ids(rows):
    return [each.id for each in rows]


def test_every_row_gets_the_row_that_stands_for_it(database):
    found = database.dedup()
    values = columns(database, "cluster", "kept", "dedup_missing")
    first, second = ids(FIRST), ids(SECOND)
    expected = {id: (id, True, None) for id in [*first, second[3]]}
    expected |= dict.fromkeys((second[0], second[2]), (first[0], False, None))
    expected |= {second[1]: (first[1], False, None), second[4]: (None, True, "no words")}
    assert values == expected
    assert (found.rows, found.clusters, found.not_kept, found.across) == (13, 2, 3, 2)
    assert found.without == {"no words": 1}
    (share,) = found.corpora
    assert (share.corpus, share.rows, share.not_kept, share.elsewhere) == ("two", 5, 3, 3)
    largest, other = found.largest
    assert (largest.id, largest.rows, largest.corpora) == (first[0], 3, {"two": 2, "one": 1})
    assert (other.id, other.rows) == (first[1], 2)
    assert largest.begins.startswith(text(0)[:40])
    said = str(found)
    assert "2 clusters of near-duplicates; 3 of 13 rows are not kept" in said
    assert "not compared, so kept, no words: 1 row" in said
    assert "two 2, one 1" in said and first[0][:8] in said
    assert found._repr_html_().startswith("<pre>")


def test_the_columns_are_open_to_filters_and_sql(database):
    database.dedup()
    made = database.select(method="random", budget=100, where="kept", leakage="off")
    assert len(made) == 10 and not set(made.ids) & set(ids(SECOND[:3]))
    query = "SELECT cluster, count(*) AS rows FROM pool GROUP BY 1 HAVING rows > 1 ORDER BY 2"
    assert database.sql(query).to_arrow()["rows"].to_pylist() == [2, 3]


def test_every_cluster_has_one_kept_row(database):
    for linkage in ("single", "star"):
        database.dedup(lexical=0.5, linkage=linkage)
        values = columns(database, "cluster", "kept")
        for id, (cluster, kept) in values.items():
            assert cluster is None or kept == (cluster == id)
            assert cluster is None or values[cluster] == (cluster, True)


def test_which_row_is_kept(database):
    long = SECOND[0].id

    def kept_of_first(**options):
        database.dedup(**options)
        return columns(database, "cluster")[FIRST[0].id][0]

    assert kept_of_first() == FIRST[0].id
    assert kept_of_first(keep="longest") == long
    assert kept_of_first(keep="corpus = 'two'") in ids(SECOND)
    assert kept_of_first(keep=f"CASE WHEN id = '{SECOND[2].id}' THEN 1.5 END") == SECOND[2].id
    assert kept_of_first(keep="added_at") in ids(SECOND)
    assert kept_of_first(keep="-response_tokens") == FIRST[0].id


@pytest.mark.parametrize("keep", ["corpus", "count(*)", "unnest([1, 2])"])
def test_a_preference_that_is_no_number_a_row_is_refused(database, keep):
    with pytest.raises((UsageError, QueryError), match="--keep"):
        database.dedup(keep=keep)


def test_an_unknown_preference_names_the_words(database):
    with pytest.raises(QueryError, match="'longst' is neither first nor longest nor SQL"):
        database.dedup(keep="longst")


def test_stars_do_not_chain(tmp_path):
    """Each row has half of its words from the one before it."""
    store = toy_stores.toy_store(tmp_path / "store")
    words = [f"w{n}" for n in range(60)]
    rows = [row(" ".join(words[start : start + 30]), "") for start in range(0, 31, 3)]
    store.insert("pool", toy_stores.pool_rows(rows, ["one"] * len(rows)))
    database = Database(store)
    chain = database.dedup(lexical=0.6, ngram=1)
    assert (chain.clusters, chain.not_kept) == (1, 10)
    star = database.dedup(lexical=0.6, ngram=1, linkage="star")
    assert star.clusters == 4 and star.not_kept == 7
    by_id = {each.id: set(each.messages[0].content.split()) for each in rows}
    for id, (cluster,) in columns(database, "cluster").items():
        mine, other = by_id[id], by_id[cluster]
        assert len(mine & other) / len(mine | other) >= 0.6


def test_vectors_are_compared_as_they_are_stored(database):
    """Rows whose texts begin alike lie close; blank ones have no vector."""
    blank = [row(f"blank {n}") for n in range(3)]
    alike = [row(f"w{n % 3} {text(n)}") for n in range(100, 130)]
    database.store.insert("pool", toy_stores.pool_rows([*alike, *blank], ["three"] * 33))
    found = database.dedup(near=0.8, feature="rds")
    assert found.without == {"no vector of rds": 3}
    rows = database.store.dataset("pool").to_table(columns=["id", "rds", "cluster"]).to_pylist()
    rows = [each for each in rows if each["rds"] is not None]
    wide = np.array([each["rds"] for each in rows], np.float64)
    units = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    expected = list(range(len(rows)))
    for i, j in zip(*np.nonzero(np.triu(units @ units.T >= 0.8, 1)), strict=True):
        low, high = sorted((expected[i], expected[j]))
        expected = [low if each == high else each for each in expected]
    assert [each["cluster"] for each in rows] == [rows[at]["id"] for at in expected]
    assert found.clusters and "the cosine of rds, at least 0.8" in str(found)
    assert database.dedup(near=0.8).not_kept == found.not_kept  # rds is the default


def test_parts_of_the_conversation(database):
    answers = [row(text(70), text(71)), row(text(72), text(71)), row(text(70), text(73))]
    database.store.insert("pool", toy_stores.pool_rows(answers, ["three"] * 3))
    assert database.dedup(part="prompt").not_kept == 4
    cluster = columns(database, "cluster")
    assert cluster[answers[2].id] == (answers[0].id,) != cluster[answers[1].id]
    database.dedup(part="response")
    cluster = columns(database, "cluster")
    assert cluster[answers[1].id] == (answers[0].id,) != cluster[answers[2].id]
    database.dedup()
    assert len({columns(database, "cluster")[each.id] for each in answers}) == 3


def test_new_rows_wait_and_a_new_run_replaces_the_columns(database):
    database.dedup()
    before = features_of(database.store)["dedup"]
    later = row(changed(text(3)))
    database.store.insert("pool", toy_stores.pool_rows([later], ["three"]))
    assert columns(database, "cluster", "kept")[later.id] == (None, None)
    (listed,) = database.list_annotations()
    assert listed["not yet annotated"] == 1
    (advice,) = (each for each in database.status().advice() if "dedup" in each)
    assert "lacks 1 row" in advice and advice.endswith(f"{database.store.typed} --lexical 0.8")
    kept = database.sql("SELECT id FROM pool WHERE kept IS NOT FALSE").to_arrow()["id"]
    assert later.id in kept.to_pylist()
    database.dedup(lexical=0.7, keep="longest", linkage="star", ngram=2, part="prompt")
    recipe = features_of(database.store)["dedup"]
    assert recipe.fingerprint != before.fingerprint
    assert recipe.options["pool_version"] > before.options["pool_version"]
    assert recipe.options["arguments"] == (
        "--lexical 0.7 --part prompt --ngram 2 --keep longest --linkage star"
    )
    assert columns(database, "kept")[later.id] == (False,)
    assert database.list_annotations()[0]["not yet annotated"] == 0
    runs = database.store.dataset("runs").to_table().to_pylist()
    assert [(run["status"], run["read"]) for run in runs] == [("done", 13), ("done", 14)]


def test_runs_stand_side_by_side_under_names_of_their_own(database):
    database.dedup()
    named = database.dedup(near=0.999, feature="rds", name="tight")
    assert named.columns == ("tight_cluster", "tight_kept")
    values = columns(database, "kept", "tight_kept")
    assert values[SECOND[1].id][0] is False
    database.remove_annotation("dedup")
    assert "tight_kept" in database.store.dataset("pool").schema.names
    assert "kept" not in database.store.dataset("pool").schema.names


def test_rows_that_are_restored_after_another_run_wait_for_the_next(database):
    database.dedup()
    database.remove(where="NOT kept", why="repeats")
    assert database.dedup().clusters == 0
    database.restore(where="why = 'repeats'")
    values = columns(database, "cluster", "kept", "dedup_missing")
    assert {values[each.id] for each in SECOND[:3]} == {(None, None, None)}
    assert database.list_annotations()[0]["not yet annotated"] == 3
    assert database.dedup().not_kept == 3


def test_a_coreset_filtered_by_an_earlier_result_is_replayed(database):
    database.dedup()
    made = database.select(method="random", budget=5, where="kept", name="five", leakage="off")
    database.dedup(lexical=0.3)
    assert database.replay("five").same
    assert database.open_coreset("five").ids == made.ids


def test_names_that_are_taken_are_refused(database, tmp_path):
    rows = [{"id": FIRST[0].id, "kept": 0.5}]
    database.annotate(rows, name="mine")
    with pytest.raises(UsageError, match=r"has a column 'kept'.*--name NAME"):
        database.dedup()
    database.dedup(name="by_words")
    with pytest.raises(UsageError, match="annotation mine"):
        database.dedup(name="mine")
    with pytest.raises(UsageError, match="a method has this name"):
        database.dedup(name="rds")
    again = [{"id": FIRST[0].id, "by_words_kept": True}]
    with pytest.raises(UsageError, match="is the result of coresetdb dedup"):
        database.annotate(again, name="by_words")


def test_a_killed_run_is_done_again(database, monkeypatch):
    import coresetdb.query.dedup.dedup as module

    database.dedup()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "fill", killed)
    with pytest.raises(KeyboardInterrupt):
        database.dedup(lexical=0.5)
    monkeypatch.undo()
    fresh = Database(Store.open(database.store.uri))
    assert fresh.list_annotations()[0]["not yet annotated"] == 13
    assert fresh.dedup(lexical=0.5).clusters >= 2
    assert fresh.list_annotations()[0]["not yet annotated"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"near": 0.9, "lexical": 0.8}, "choose one"),
        ({"feature": "rds", "lexical": 0.8}, "choose one"),
        ({"near": 0.9, "part": "prompt"}, "are about words"),
        ({"near": 0.0}, "above 0 and up to 1"),
        ({"near": 95}, "above 0 and up to 1"),
        ({"lexical": 1.5}, "above 0 and up to 1"),
        ({"lexical": float("nan")}, "above 0 and up to 1"),
        ({"ngram": 0}, "one word or more"),
        ({"part": "answers"}, "choose from conversation, prompt, response"),
        ({"linkage": "complete"}, "choose from single, star"),
    ],
)
def test_options_that_make_no_sense_are_refused(database, options, message):
    with pytest.raises(UsageError, match=message):
        database.dedup(**options)


def test_unknown_features_and_empty_pools_are_refused(database, tmp_path):
    with pytest.raises(MissingFeatureError, match="no feature 'minilm'"):
        database.dedup(near=0.9, feature="minilm")
    empty = Database(toy_stores.toy_store(tmp_path / "empty"))
    with pytest.raises(UsageError, match="is empty"):
        empty.dedup()


def test_only_one_process_fills_columns(database):
    with only_filler(Store.open(database.store.uri)), pytest.raises(StoreBusyError):
        database.dedup()

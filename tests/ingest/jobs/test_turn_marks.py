"""The column of marks: declared when a row needs it, and read by all that read conversations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures.print_all import unpacked
from helpers import toy_stores as toys

import coresetdb
from coresetdb.ingest.create import featurizer_for, load_backbone, recipes_of
from coresetdb.ingest.fits.sampling import sample_of_pool
from coresetdb.ingest.jobs.commit import Commit
from coresetdb.ingest.representations.lexical import word_ids
from coresetdb.query.rules.examples import Evaluation, keep_evaluation, kept_evaluation
from coresetdb.schemas.conversations import conversation_columns, conversations_in
from coresetdb.schemas.instruction import Instruction, Message, Record

PLAIN = [toys.question("sums", number) for number in range(4)]
THOUGHT = Instruction(
    (Message("user", "2+3?"), Message("assistant", "5", reasoning="two and three </think>"))
)
CONTEXT = Instruction(
    (*THOUGHT.messages[:1], Message("assistant", "4", train=False), *THOUGHT.messages)
)
SPECIAL = [THOUGHT, CONTEXT]


def commit(store, rows, features):
    """Write rows as an ingestion does."""
    own = Commit("run")
    records = [Record(row, "mixed", "file.jsonl", n) for n, row in enumerate(rows, start=1)]
    own.add_rows([(row.id, record) for row, record in zip(rows, records, strict=True)], features)
    return own.write(store)


def files_of(store):
    """The files that the newest version of the pool lies in."""
    fragments = store.dataset("pool").get_fragments()
    return {file.path for fragment in fragments for file in fragment.data_files()}


def conversations(store, version=None):
    """Id -> conversation, of a version of the pool."""
    pool = store.dataset("pool", version)
    table = pool.to_table(columns=["id", *conversation_columns(pool.schema)])
    return dict(zip(table["id"].to_pylist(), conversations_in(table), strict=True))


def test_a_store_without_the_column_gets_it_with_the_first_row_that_needs_it(tmp_path):
    store = toys.toy_store(tmp_path / "pool")
    commit(store, PLAIN, toys.ToyFeaturizer().featurize(PLAIN))
    assert "turn_marks" not in store.dataset("pool").schema.names
    before = store.version()
    files = files_of(store)
    commit(store, SPECIAL, toys.ToyFeaturizer().featurize(SPECIAL))
    pool = store.dataset("pool")
    assert "turn_marks" in pool.schema.names
    assert conversations(store) == {row.id: row for row in [*PLAIN, *SPECIAL]}
    assert conversations(store, before) == {row.id: row for row in PLAIN}
    # The rows from before stay in the files they were in.
    assert files <= files_of(store)
    more = [toys.question("python", number) for number in range(3)]
    commit(store, more, toys.ToyFeaturizer().featurize(more))
    assert set(conversations(store)) == {row.id for row in [*PLAIN, *SPECIAL, *more]}


@pytest.fixture
def database(tmp_path):
    """Rows without marks, then rows with some, and no feature yet that reads their words."""
    database = coresetdb.create(tmp_path / "pool", features="lexical", device="cpu")
    featurizer = database._featurizer
    for rows in (PLAIN, SPECIAL):
        commit(database.store, rows, featurizer.featurize(rows))
    return database


def test_features_of_every_age_see_the_reasoning(database):
    pool = database.store.dataset("pool")
    expected = {row.id: word_ids(row).tolist() for row in [*PLAIN, *SPECIAL]}
    assert len(word_ids(THOUGHT)) > len(word_ids(Instruction.from_turns(("user", "2+3? 5"))))
    assert {row["id"]: row["lexical"] for row in pool.to_table().to_pylist()} == expected
    database.remove_feature("lexical")
    account = database.featurize("lexical")
    assert account.rows == len(expected)
    pool = database.store.dataset("pool")
    column = next(name for name in pool.schema.names if name.startswith("lexical"))
    assert {row["id"]: row[column] for row in pool.to_table().to_pylist()} == expected
    sample = sample_of_pool(database.store, 0, lambda total: total)
    assert set(sample.instructions) == {*PLAIN, *SPECIAL}


def test_an_evaluation_is_kept_with_its_reasoning(database):
    evaluation = Evaluation("file.jsonl", (THOUGHT, *PLAIN, CONTEXT))
    keep_evaluation(database.store, evaluation)
    kept = kept_evaluation(database.store, "file.jsonl", evaluation.digest)
    assert kept.instructions == evaluation.instructions and kept.digest == evaluation.digest


def test_the_text_is_open_to_sql_and_the_marks_beside_it(database):
    found = database.sql(
        "SELECT messages[2].content AS text, turn_marks FROM pool WHERE turn_marks IS NOT NULL "
        "ORDER BY len(messages)"
    ).to_polars()
    assert found["text"].to_list() == [THOUGHT.messages[1].text, "4"]
    assert found["turn_marks"].to_list()[1][1] == {"reasoning": None, "train": False}
    features = database.sql("SELECT * FROM features LIMIT 1").to_polars()
    assert "turn_marks" not in features.columns


def test_a_target_keeps_its_marks_and_takes_them_to_another_store(database, tmp_path):
    from coresetdb.query.targets import _rows

    store, records = database.store, [Record(row, "t", "t.jsonl", 1) for row in SPECIAL]
    featurizer = database._featurizer
    store.add_columns("targets", [store.dataset("pool").schema.field("turn_marks")])
    store.insert("targets", _rows(store, "t", records, featurizer.featurize(SPECIAL)))
    other = coresetdb.create(tmp_path / "other", features="lexical", device="cpu")
    database.copy_target("t", other)
    table = other.store.dataset("targets").to_table().sort_by("position")
    assert conversations_in(table) == SPECIAL


def test_a_store_of_version_0_1_takes_such_rows(tmp_path):
    with unpacked(tmp_path):
        database = coresetdb.connect("pool")
        earlier = [row["coreset"] for row in database.list_coresets()]
        recipes = [each for each in recipes_of(database.store) if each.representation == "lexical"]
        featurizer = featurizer_for(database.store, load_backbone(database.store), recipes)
        assert not commit(database.store, SPECIAL, featurizer.featurize(SPECIAL))
        coreset = database.select(method="random", budget="100%", name="all")
        assert len(coreset) == 74
        database.export(coreset, "all.jsonl")
        lines = [json.loads(line) for line in Path("all.jsonl").read_text("utf-8").splitlines()]
        said = {row["id"]: row["messages"] for row in lines}
        assert said[THOUGHT.id][1]["reasoning_content"] == THOUGHT.messages[1].reasoning
        assert [turn["train"] for turn in said[CONTEXT.id]] == [None, False, None, None]
        assert all(database.replay(name).same for name in ["all", *earlier])
        assert coresetdb.verify("pool", full=True).ok

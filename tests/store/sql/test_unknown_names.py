"""A relation that a query names and the store has not: the error says what to do."""

from __future__ import annotations

import pyarrow as pa
import pytest
from helpers.toy_stores import rds_fields

from coresetdb.schemas.errors import QueryError
from coresetdb.store.rows import key_of
from coresetdb.store.sql.session import run_query
from coresetdb.store.store import Store


@pytest.fixture(scope="module")
def unscored(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a target that no row was scored for."""
    uri = str(tmp_path_factory.mktemp("unscored") / "pool")
    store = Store.create(uri, {}, rds_fields(), rds_fields())
    messages = [{"role": "user", "content": "add two numbers"}]
    example = {"key": key_of("mbpp", "q"), "target": "mbpp", "id": "q", "messages": messages}
    schema = store.dataset("targets").schema
    store.insert("targets", pa.Table.from_pylist([example], schema=schema))
    return store


def refusal(store: Store, query: str) -> str:
    with pytest.raises(QueryError) as refused:
        run_query(store.uri, query)
    return str(refused.value)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM scores_mbpp",
        'SELECT * FROM "SCORES_mbpp" LIMIT 1',
        "SELECT id FROM pool WHERE id IN (SELECT id FROM scores_mbpp)",
        "SELECT id FROM pool WHERE scores_mbpp.rds > 0",
    ],
)
def test_scores_that_were_not_made_yet(unscored: Store, query: str) -> None:
    said = refusal(unscored, query)
    assert f"coresetdb score run {unscored.typed} mbpp" in said
    assert "Did you mean" not in said and "Candidate" not in said


def test_scores_of_no_target(store: Store) -> None:
    said = refusal(store, "SELECT * FROM scores_gsm9k")
    assert 'there are "scores_gsm8k"' in said and "Targets: gsm8k" in said


def test_a_relation_that_is_there_but_not_in_the_query(store: Store) -> None:
    said = refusal(store, "SELECT id FROM pool WHERE scores_gsm8k.rds > 0")
    assert 'in a filter: id IN (SELECT id FROM "scores_gsm8k" WHERE ...)' in said


def test_any_other_relation(store: Store) -> None:
    said = refusal(store, "SELECT * FROM gsm8k")
    assert "Relations: pool, sources, targets, scores, " in said and "scores_gsm8k" in said
    assert "Did you mean" not in said and "LINE 1" in said
    assert "x.y" in refusal(store, "SELECT x.y FROM pool"), "DuckDB's own words stay"


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("corpus = gsm8k", "'gsm8k' (there is a corpus of this name)"),
        ('corpus <> "gsm8k"', "'gsm8k' (there is a corpus of this name)"),
        ("corpus IN (dolly, gsm8k)", "'dolly' (there is a corpus of this name)"),
        ("corpus = nowhere", "'nowhere'"),
        ("corpus LIKE nowhere", "'nowhere'"),
    ],
)
def test_a_text_without_its_quotes(store: Store, condition: str, said: str) -> None:
    told = refusal(store, f"SELECT id FROM pool WHERE {condition}")
    assert f"A text stands between single quotes: {said}" in told and "Candidate" not in told


def test_a_column_that_is_not_there(store: Store) -> None:
    told = refusal(store, "SELECT id FROM pool WHERE nosuch = 'gsm8k'")
    assert "quotes" not in told and "Candidate bindings" in told


@pytest.mark.parametrize("column", ["text", "Prompt", "answer"])
def test_a_column_of_texts(store: Store, column: str) -> None:
    told = refusal(store, f"SELECT id FROM pool WHERE {column} LIKE '%a%'")
    assert "messages[1].content is the first turn, messages[-1].content the last" in told

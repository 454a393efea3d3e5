from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from coresetdb.schemas.errors import QueryError
from coresetdb.store.sql.session import SqlSession, eligible_ids
from coresetdb.store.store import Store


@pytest.fixture(scope="module")
def session(store: Store):
    """The warm process that `eligible_ids` would start for each filter."""
    with SqlSession(store.uri) as session:
        yield session


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("tokens < 20", lambda row: row["tokens"] < 20),
        (
            "corpus = 'dolly' AND NOT truncated",
            lambda row: row["corpus"] == "dolly" and not row["truncated"],
        ),
        ("nll IS NULL", lambda row: row["nll"] is None),
        ("nll > 1 OR NULL", lambda row: row["nll"] is not None and not row["nll"] <= 1),
        ("level = '3' -- a metadata field", lambda row: '"level": 3' in row["metadata"]),
        ("try_cast(level AS INT) >= 4", lambda row: '"level": 4' in row["metadata"]),
        ("messages[1].content = 'question 5'", lambda row: row["tokens"] == 15),
        ("source_id = 'a;b'", lambda row: False),
        ("true", lambda row: True),
    ],
)
def test_the_rows_for_which_it_is_true(
    session: SqlSession, store: Store, where: str, wanted: Callable[[dict], bool]
) -> None:
    ids = session.run_filter(where).read_all()["id"]
    naive = [row["id"] for row in store.dataset("pool").to_table().to_pylist() if wanted(row)]
    assert sorted(ids.to_pylist()) == sorted(naive)


def test_it_looks_into_other_relations(store: Store) -> None:
    members = store.dataset("coreset_rows").to_table()["id"].to_pylist()
    inside = eligible_ids(store, "id IN (SELECT id FROM coreset_rows)", store.version())
    assert inside.type == pa.string()
    assert sorted(inside.to_pylist()) == sorted(members)
    best = "(SELECT score FROM scores s WHERE s.id = pool.id AND target = 'gsm8k') > 0.945"
    assert len(eligible_ids(store, best, store.version())) == 5


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("id IN (SELECT id FROM scores_gsm8k WHERE rds_rank <= 7)", 7),
        ("id IN (SELECT id FROM nearest('gsm8k', 'rds', 9))", 9),
        ("id IN (SELECT id FROM members('math'))", 6),
        ("id IN (SELECT id FROM features WHERE rds IS NULL)", 1),
    ],
)
def test_it_looks_into_views_macros_and_vectors(session: SqlSession, where: str, rows: int) -> None:
    assert session.run_filter(where).read_all().num_rows == rows


def test_an_earlier_version_of_the_pool(store: Store) -> None:
    assert eligible_ids(store, "true", 1).to_pylist() == []


def test_an_unknown_column_is_named_with_those_there_are(store: Store) -> None:
    with pytest.raises(QueryError) as error:
        eligible_ids(store, "lenght < 5", store.version())
    assert '"lenght"' in str(error.value)
    assert "The columns of pool are: id, corpus, " in str(error.value)
    assert "nll" in str(error.value) and "category" in str(error.value)


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("", "empty"),
        ("true; DROP VIEW pool", "one expression|syntax error"),
        ("true) UNION SELECT id FROM sources WHERE (true", "one expression"),
        ("tokens <", "syntax error"),
        ("tokens < 'many'", "Could not convert"),
        ("id IN (SELECT content FROM read_text('/etc/hosts'))", "Permission"),
        ("id IN (SELECT id FROM nowhere)", "nowhere"),
        ("sum(tokens) > 5", "aggregate"),
    ],
)
def test_what_is_no_filter_is_refused(session: SqlSession, where: str, why: str) -> None:
    with pytest.raises(QueryError, match=why):
        session.run_filter(where).read_all()


def test_limits_hold(store: Store) -> None:
    with pytest.raises(QueryError, match="time limit"):
        endless = "(SELECT count(*) FROM range(10000000000000)) > tokens"
        eligible_ids(store, endless, store.version(), time_limit=0.5)

"""The wide views of `scores`, one for each target."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coresetdb.schemas.tables import SCORES
from coresetdb.store.rows import key_of
from coresetdb.store.sql.relations import Scoring, register, score_view_queries
from coresetdb.store.store import Store

# (target, method, fingerprint, pool version) -> the rows in order of rank
SCORED = {
    ("gsm8k", "rds:top", "f1", 3): "abc",
    ("gsm8k", "rds:top", "f1", 9): "cbad",
    ("gsm8k", "less", "g", 4): "bd",
    ("gsm8k", "odd \"name\" of 'it'", "h", 4): "a",
    ("my-task.v2", "trim", "t", 5): "ca",
    ("GSM8K", "trim", "t", 6): "d",
}


def rows_of(scored: dict) -> pa.Table:
    rows = [
        {
            "key": key_of(*what, id_),
            **dict(zip(("target", "method", "fingerprint", "pool_version"), what, strict=True)),
            "id": id_,
            "score": 1 - rank / 8,
            "rank": rank,
        }
        for what, ids in scored.items()
        for rank, id_ in enumerate(ids, 1)
    ]
    return pa.Table.from_pylist(rows, schema=SCORES)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    store = Store.create(str(tmp_path_factory.mktemp("scores") / "pool"), {})
    store.insert("scores", rows_of(SCORED))
    connection = duckdb.connect()
    register(connection, store.place)
    return connection


def test_a_row_per_instruction_and_two_columns_per_method(connection) -> None:
    assert connection.sql("FROM scores_gsm8k ORDER BY id").to_arrow_table().to_pylist() == [
        {
            "id": id_,
            "less": less and 1 - less / 8,
            "less_rank": less,
            "odd \"name\" of 'it'": odd and 1 - odd / 8,
            "odd \"name\" of 'it'_rank": odd,
            "rds:top": 1 - rds / 8,
            "rds:top_rank": rds,
        }
        for id_, less, odd, rds in [
            ("a", None, 1, 3),
            ("b", 1, None, 2),
            ("c", None, None, 1),
            ("d", 2, None, 4),
        ]
    ]


def test_names_that_are_no_plain_words_are_quoted(connection) -> None:
    assert connection.sql('SELECT id FROM "scores_my-task.v2" ORDER BY trim_rank').fetchall() == [
        ("c",),
        ("a",),
    ]
    names = [row[0] for row in connection.sql("SHOW TABLES").fetchall()]
    assert {"scores_gsm8k", "scores_GSM8K_2", "scores_my-task.v2"} < set(names)
    assert connection.sql('SELECT id FROM "scores_GSM8K_2"').fetchall() == [("d",)]


def test_the_newest_version_counts_by_method_and_the_oldest_target_keeps_its_name() -> None:
    scored = [Scoring(1, "a", "m", "f"), Scoring(2, "A", "m", "f"), Scoring(3, "a", "m", "g")]
    views = score_view_queries(scored)
    assert list(views) == ["scores_a", "scores_A_2"]
    assert "pool_version = 3" in views["scores_a"] and "pool_version = 1" not in views["scores_a"]
    assert score_view_queries([]) == {}


keys = st.tuples(
    st.sampled_from(["t", "u"]), st.sampled_from(["m", "n"]), st.just("f"), st.integers(1, 3)
)


@settings(max_examples=25)
@given(st.dictionaries(keys, st.permutations("abcd").map(lambda ids: ids[:3]), max_size=6))
def test_against_a_naive_pivot(scored: dict) -> None:
    connection = duckdb.connect()
    connection.register("scores", rows_of(scored))
    views = score_view_queries(sorted(Scoring(v, t, m, f) for t, m, f, v in scored))
    for target in {key[0] for key in scored}:
        newest: dict = {}
        for (of, method, _, version), ids in sorted(scored.items(), key=lambda item: item[0][3]):
            if of == target:
                newest[method] = (version, ids)
        wanted = {
            id_: {
                name: value
                for method, (_, ids) in newest.items()
                for name, value in (
                    (method, 1 - (ids.index(id_) + 1) / 8 if id_ in ids else None),
                    (f"{method}_rank", ids.index(id_) + 1 if id_ in ids else None),
                )
            }
            for id_ in {id_ for _, ids in newest.values() for id_ in ids}
        }
        found = connection.sql(views[f"scores_{target}"]).to_arrow_table().to_pylist()
        assert {row.pop("id"): row for row in found} == wanted

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coresetdb.schemas.tables import TABLES
from coresetdb.store.sql.names import FEATURES, MACROS, RELATIONS
from coresetdb.store.sql.session import SqlSession
from coresetdb.store.store import Store

GUIDE = (Path(__file__).parents[3] / "docs" / "sql.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def session(store: Store):
    with SqlSession(store.uri) as session:
        yield session


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_of_the_guide_runs_and_finds_something(session: SqlSession, query: str) -> None:
    assert session.run(query).read_all().num_rows > 0


def test_the_guide_lists_every_relation_and_column() -> None:
    for relation in RELATIONS:
        [line] = re.findall(rf"^\| `{relation}` \|.*$", GUIDE, re.MULTILINE)
        missing = [name for name in TABLES[relation].names if f"`{name}`" not in line]
        assert missing == [] or (
            relation == "targets"
            and missing == ["tokens", "prompt_tokens", "response_tokens", "truncated"]
        )


@pytest.mark.parametrize("name", [*FEATURES, *MACROS, "scores_<target>"])
def test_the_guide_lists_what_is_no_table(name: str) -> None:
    assert len(re.findall(rf"^\| `{re.escape(name)}` \|", GUIDE, re.MULTILINE)) == 1

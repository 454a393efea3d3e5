"""A result of a query shows its first rows, gives them all once, and says so when they are gone."""

from __future__ import annotations

import pyarrow as pa
import pytest

from coresetdb.schemas.errors import QueryError, UsageError
from coresetdb.store.sql.session import ROWS_SHOWN, SqlSession
from coresetdb.store.store import Store

TWO = "SELECT * FROM (VALUES (1, 'one'), (20, '<b>two</b>')) t(number, name)"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory):
    store = Store.create(str(tmp_path_factory.mktemp("result") / "pool"), {})
    with SqlSession(store.uri) as session:
        yield session


def test_it_shows_its_rows_and_keeps_them(session):
    result = session.run(TWO)
    shown = repr(result)
    assert shown == ("number  name\n------  ----------\n     1  one\n    20  <b>two</b>\n2 rows")
    assert str(result) == shown
    assert "&lt;b&gt;two&lt;/b&gt;" in result._repr_html_() and "<b>" not in result._repr_html_()
    assert result.to_arrow().to_pydict() == {"number": [1, 20], "name": ["one", "<b>two</b>"]}


def test_a_long_result_shows_its_first_rows_and_loses_none(session):
    result = session.run("SELECT range AS n FROM range(10_000)")
    lines = repr(result).splitlines()
    assert lines[2].strip() == "0" and lines[-1] == f"the first {ROWS_SHOWN} rows"
    assert len(lines) == ROWS_SHOWN + 3
    first = next(result)
    after = f"the next {ROWS_SHOWN} rows, after {first.num_rows:,} that were read already"
    assert repr(result).splitlines()[-1] == after
    assert pa.Table.from_batches([first, *result])["n"].to_pylist() == list(range(10_000))


def test_frames(session):
    assert session.run(TWO).to_polars()["number"].to_list() == [1, 20]
    pytest.importorskip("pandas")
    assert session.run(TWO).to_pandas()["name"].tolist() == ["one", "<b>two</b>"]


def test_without_rows(session):
    result = session.run("SELECT 1 AS one WHERE false")
    assert repr(result) == "one\n---\n0 rows"
    assert result.to_arrow().num_rows == 0


def test_rows_that_were_read_are_gone_in_words(session):
    result = session.run(TWO)
    result.read_all()
    assert "2 rows of this result (number, name) were read already" in repr(result)
    for again in (result.to_arrow, result.to_polars):
        with pytest.raises(UsageError, match="a result can be read only once; run the query again"):
            again()
    assert result.read_all().num_rows == 0
    single = session.run("SELECT 1 AS one")
    single.read_all()
    assert "1 row of this result (one) was read already" in repr(single)


def test_a_closed_result_says_so(session):
    result = session.run("SELECT range AS n FROM range(1_000_000)")
    repr(result)
    result.close()
    assert repr(result) == "this result (n) was closed; run the query again"
    assert list(result) == []


def test_a_failure_while_it_is_shown_is_not_lost(session, monkeypatch):
    result = session.run("SELECT range AS n FROM range(10_000)")
    next(result)

    def fail(clock):
        raise QueryError("no more")

    monkeypatch.setattr(result._process, "answer", fail)
    assert repr(result) == "the rows cannot be shown: no more"
    with pytest.raises(QueryError, match="no more"):
        result.read_all()

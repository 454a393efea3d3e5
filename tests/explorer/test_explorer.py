"""What the page asks of a store: columns, selections, neighbours, SQL, coresets."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.hostile_texts import IMAGE, SCRIPT

from coresetdb.explorer.condition import Filters, among, number_or_none, within_lasso
from coresetdb.explorer.explorer import OF_SQL, OTHER, Explorer
from coresetdb.explorer.histogram import histogram_svg
from coresetdb.explorer.map_view import MapView, polygon_holds
from coresetdb.explorer.row_html import row_html
from coresetdb.query.distributions import distribution
from coresetdb.reports.page import number
from coresetdb.schemas.errors import QueryError, UsageError
from coresetdb.store.sql.session import eligible_ids


@pytest.fixture(scope="module")
def explorer(explored):
    explorer = Explorer(explored)
    yield explorer
    explorer.close()


def test_points_lie_on_a_map_that_is_kept(explorer, explored):
    assert explorer.points.shape == (128, 2)
    assert np.abs(explorer.points).max() == pytest.approx(1)
    assert explorer.rows == 132
    kept = explored.sql("SELECT id, map_rds_x AS x, map_rds_y AS y FROM pool WHERE x IS NOT NULL")
    places = {row["id"]: (row["x"], row["y"]) for row in kept.to_arrow().to_pylist()}
    units = explorer.in_map_units(explorer.points)
    for row_id, place in zip(explorer.map.ids, units, strict=True):
        np.testing.assert_allclose(place, places[row_id], rtol=1e-4, atol=1e-4)
    second = Explorer(explored)
    np.testing.assert_array_equal(second.map.places, explorer.map.places)
    second.close()


def test_columns_to_colour_by(explorer, explored):
    names = [str(each) for each in explorer.columns]
    assert names[0] == "corpus" and {"tokens", "kind", "rds_norm"} <= set(names)
    assert "rds, score for arithmetic" in names
    assert sum(" score for " in name for name in names) == 1  # not its rank as well
    assert not {"id", "messages", "map_rds_x", "rds_reason"} & set(names)
    tokens = explorer.numbers(explorer.column("tokens"))
    stored = explored.sql("SELECT id, tokens FROM pool").to_arrow().to_pylist()
    by_id = {row["id"]: row["tokens"] for row in stored}
    assert tokens.tolist() == [by_id[row_id] for row_id in explorer.map.ids]
    corpora = explorer.categories(explorer.column("corpus"))
    assert set(corpora) == {f"evil {SCRIPT}", "sums", "code", "poems"}
    with pytest.raises(UsageError, match="nosuch"):
        explorer.column("nosuch")


def test_rare_values_share_a_colour(explorer, monkeypatch):
    monkeypatch.setattr("coresetdb.explorer.explorer.CATEGORIES", 2)
    values = explorer.categories(explorer.column("corpus"))
    assert len(set(values)) == 3 and OTHER in values


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (Filters(), 132),
        (Filters(corpora=("sums", "code")), 80),
        (Filters(corpora=(f"evil {SCRIPT}",)), 8),
        (Filters(contains="POEMS question 1"), 11),
        (Filters(contains="'"), 0),
        (Filters(column="response_tokens", least=7.0), 15),
        (Filters(column="tokens", least=6.0, most=6.5, expression="corpus = 'code' -- mine"), 6),
    ],
)
def test_filters_are_conditions_for_select(explorer, explored, filters, count):
    conditions = filters.conditions()
    ids = explorer.ids_where(conditions)
    assert len(ids) == count
    if conditions:
        where = " AND ".join(conditions)
        assert ids == sorted(eligible_ids(explored.store, where).to_pylist())


def test_a_condition_stays_by_itself(explorer):
    with pytest.raises(QueryError):
        explorer.ids_where(["corpus = 'sums'", "(\ntrue) OR (true\n)) OR ((true"])
    assert explorer.ids_where(["true", "false OR true"]) == explorer.ids_where([])


def test_a_lasso_is_a_condition(explorer, explored):
    corners = np.array([[-0.7, -0.9], [0.8, -0.3], [0.1, 0.1], [0.5, 0.9], [-0.9, 0.4]])
    in_units = explorer.in_map_units(corners)
    condition = within_lasso(explorer.map_columns, in_units.tolist())
    held = polygon_holds(explorer.map.places, in_units)
    assert 0 < held.sum() < 128
    inside = sorted(np.array(explorer.map.ids)[held].tolist())
    assert explorer.ids_where([condition]) == inside
    assert sorted(explorer.ids_where([among(inside)])) == inside
    chosen = explored.select("arithmetic", budget=5, where=condition)
    assert set(chosen.ids) <= set(inside)


def test_polygons():
    places = np.array([[0.5, 0.5], [1.5, 0.5], [-0.1, 0.2], [0.9, 0.95]])
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    assert polygon_holds(places, square).tolist() == [True, False, False, True]


@pytest.mark.parametrize("text", ["seven", "nan", "inf", "1e999"])
def test_a_bound_is_a_number(text):
    with pytest.raises(UsageError, match="from"):
        number_or_none(text, "from")
    assert number_or_none(" ", "from") is None and number_or_none("1e3", "from") == 1000


def test_order_and_list(explorer):
    by = explorer.column("rds, score for arithmetic")
    ids = explorer.ids_where(["corpus = 'sums'"])
    ordered = explorer.ordered(ids, by)
    values = dict(zip(explorer.map.ids, explorer.numbers(by), strict=True))
    assert [values[each] for each in ordered] == sorted(
        (values[each] for each in ids), reverse=True
    )
    assert explorer.ordered(ids, by, 3) == ordered[:3]
    assert explorer.listed(ordered[:3])["id"].to_list() == ordered[:3]
    blank = explorer.ids_where(["corpus = 'blank'"])
    assert explorer.ordered([*blank, *ordered], by)[-4:] == sorted(blank)


def test_distributions(explorer):
    points = explorer.points_of(explorer.ids_where(["corpus = 'sums'"]))
    [tokens] = explorer.distributions(points, [explorer.column("tokens")])
    assert sum(tokens.pool) == 128 and sum(tokens.picked) == 40
    assert "median 9 of the selection" in histogram_svg(tokens)


def test_a_histogram_says_what_its_bars_are():
    skewed = distribution("ppl", np.array([0.0, *np.geomspace(1, 1e6, 999) ** 1.5]), None)
    drawn = histogram_svg(skewed)
    assert skewed.logarithmic and drawn.count("ppl (logarithmic)") == 2
    assert f">≤ {number(skewed.edges[0])}</text>" in drawn
    assert f">≥ {number(skewed.edges[-1])}</text>" in drawn
    even = histogram_svg(distribution("n", np.linspace(2, 5, 4), np.array([0.0, 1.0, np.nan])))
    assert "logarithmic" not in even and "≤ 0.005" in even and "≥" in even
    same = histogram_svg(distribution("n", np.full(4, 2.5), None))
    assert "≤" not in same and "≥" not in same


def test_neighbours_are_the_nearest(explorer, explored):
    table = explored.store.dataset("pool").to_table(columns=["id", "rds"])
    table = table.filter(table["rds"].is_valid())
    vectors = np.array(table["rds"].to_pylist(), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors[3]
    cosines[3] = -2
    near = explorer.neighbours(table["id"][3].as_py(), 5)
    wanted = np.sort(cosines)[::-1][:5]
    np.testing.assert_allclose([row["cosine"] for row in near], wanted, atol=1e-3)


def test_a_row_is_shown_as_text(explorer):
    row_id = explorer.ids_where(["starts_with(corpus, 'evil')"])[0]
    row = explorer.row(row_id)
    for explanation in (
        None,
        explorer.explain(explorer.database.open_coreset("near").ids[0], "near"),
    ):
        page = row_html(row, explanation, explorer.neighbours(row_id), "rds")
        assert SCRIPT not in page and IMAGE not in page and "<img" not in page
    assert "Pulled by example" in page and "Nearest by rds" in page
    with pytest.raises(UsageError, match="no row"):
        explorer.row("0" * 32)


def test_sql_shows_the_first_rows(explorer):
    table, more = explorer.sql("SELECT 1 AS one")
    assert table.to_pylist() == [{"one": 1}] and not more
    table, more = explorer.sql("FROM range(100000)")
    assert table.num_rows == OF_SQL and more


ESCAPES = [
    "FROM read_csv('/etc/passwd')",
    "FROM read_text('/etc/hostname')",
    "FROM '/etc/passwd'",
    "FROM glob('/etc/*')",
    "FROM read_parquet('https://example.com/x.parquet')",
    "FROM 's3://bucket/x.parquet'",
    "FROM read_text('/proc/self/environ')",
    "COPY pool TO '/tmp/coresetdb-escaped.csv'",
    "WITH x AS (COPY (SELECT 1) TO '/tmp/coresetdb-escaped.csv') SELECT 1",
    "EXPORT DATABASE '/tmp/coresetdb-escaped'",
    "ATTACH '/tmp/coresetdb-escaped.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "CREATE TABLE t AS SELECT 1",
    "CREATE OR REPLACE VIEW pool AS SELECT 1",
    "DROP VIEW pool",
    "DELETE FROM pool",
    "UPDATE pool SET id = 'x'",
    "INSERT INTO pool (id) VALUES ('x')",
    "SELECT 1; DROP VIEW pool",
    "SET enable_external_access = true",
    "SET memory_limit = '100GB'",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "SELECT getenv('HOME')",
    "FROM query('SELECT 1')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "FROM duckdb_secrets()",
    "CREATE MACRO inside(x, y, polygon) AS true",
    "FROM os",
    "FROM artifacts",
    "SELECT inside(1, 1, (SELECT content FROM read_text('/etc/hostname')))",
]


def test_no_query_gets_out(explorer):
    for text in ESCAPES:
        with pytest.raises(QueryError) as refused:
            explorer.sql(text)
        assert "process" not in str(refused.value), text
        with pytest.raises(QueryError):
            explorer.ids_where([f"id IN ({text})"])
    assert explorer.sql("SELECT count(*) AS n FROM pool")[0].to_pylist() == [{"n": 132}]


def test_a_selection_becomes_a_coreset(explorer, explored):
    by = explorer.column("tokens")
    made = explorer.make_coreset(
        "mine", ["corpus = 'code'", "tokens > 6"], by=by, most=7, targets=["python"]
    )
    found = explored.open_coreset("mine")
    assert found.ids == made.ids and len(made) == 7 and found.targets == ("python",)
    assert found.filter == "corpus = 'code' AND tokens > 6"
    origin = found.parameters["imported"]
    assert (origin["file"], origin["ordered_by"]) == ("explorer", "tokens")
    again = explored.sql(
        f"SELECT id FROM pool WHERE {found.filter} ORDER BY tokens DESC, id LIMIT 7"
    )
    assert again.to_arrow()["id"].to_pylist() == found.ids
    assert "mine" in explorer.coresets
    for name, conditions, words in (
        ("mine", [], "mine"),
        ("none", ["false"], "no row is selected"),
        ("a/b", [], "a/b"),
    ):
        with pytest.raises(UsageError, match=words):
            explorer.make_coreset(name, conditions)


def test_the_map_says_what_is_drawn(explorer):
    lassos, rows = [], []
    view = MapView(explorer, lassos.append, rows.append)
    for colour in ("corpus", "tokens", "rds, score for arithmetic", "kind"):
        view.draw(colour, "near")
    view.draw("corpus")
    view.show_only(np.arange(5, dtype=np.uint32))
    view.show_only(None)
    view.widget.set_trait("selection", np.array([3], np.uint32))
    assert rows == [explorer.map.ids[3]]
    view.widget.set_trait("lasso_selection_polygon", np.array([[-1, -1], [1, -1], [1, 1]], "f4"))
    assert lassos[-1].startswith("inside(")
    view.widget.set_trait("lasso_selection_polygon", np.zeros((0, 2), "f4"))
    assert lassos[-1] is None

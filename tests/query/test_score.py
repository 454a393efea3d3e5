"""Scores of whole pools: the numbers a selection ranks by, replaced and never doubled."""

from __future__ import annotations

import json
import re
import threading

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.files import write_jsonl
from helpers.tiny_models import tiny_folder

from coresetdb.cli.main import commands
from coresetdb.database import Database
from coresetdb.query.score import score, split_methods
from coresetdb.query.scores import load_scores, remove_scores
from coresetdb.query.targets import remove_target
from coresetdb.schemas.canonical import digest
from coresetdb.schemas.errors import MissingFeatureError, QueryError, UsageError
from coresetdb.store import catalog
from coresetdb.store.rows import key_of
from coresetdb.store.scores import SetKey, put_scores, score_sets
from coresetdb.store.store import Store

torch.set_num_threads(1)


def naive(store, target, by, allowed=lambda row: True):
    """(id, score) of eligible rows with the feature, best first, from the full matrix."""
    pool = store.dataset("pool").to_table(columns=["id", "corpus", "rds"]).to_pylist()
    rows = [row for row in pool if row["rds"] is not None and allowed(row)]
    examples = store.dataset("targets").to_table(filter=f"target = '{target}'").to_pylist()
    queries = np.array([row["rds"] for row in examples], np.float64)
    similarity = queries @ np.array([row["rds"] for row in rows], np.float64).reshape(-1, 16).T
    scores = similarity.mean(axis=0) if by == "mean" else similarity.max(axis=0)
    return sorted(
        zip((row["id"] for row in rows), scores, strict=True), key=lambda row: (-row[1], row[0])
    )


def kept(store, **wanted):
    rows = store.dataset("scores").to_table().to_pylist()
    rows = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return sorted(rows, key=lambda row: row["rank"])


@pytest.mark.parametrize(("asked", "by"), [("rds+", "mean"), ("rds:top(by=max)", "max")])
def test_every_row_by_cosine(store, asked, by):
    scores = score(store, "python", [asked])
    expected = naive(store, "python", by)
    name = "rds" if by == "mean" else "rds(by=max)"
    rows = kept(store, target="python", method=name)
    assert scores.methods == [name] and len(rows) == 240
    assert [row["id"] for row in rows] == [row[0] for row in expected]
    np.testing.assert_allclose(
        [row["score"] for row in rows], [row[1] for row in expected], atol=1e-6
    )
    assert [row["rank"] for row in rows] == list(range(1, 241))
    fingerprint, version = catalog.recipes(store)["rds"].fingerprint, store.version()
    assert {(row["fingerprint"], row["pool_version"]) for row in rows} == {(fingerprint, version)}
    assert all(
        row["key"] == key_of("python", name, fingerprint, version, row["id"]) for row in rows
    )
    assert "6 of 246 rows lack rds" in scores.notes[0] and "rds_reason" in scores.notes[0]


def test_scoring_again_replaces(store, toys, monkeypatch):
    monkeypatch.setattr("coresetdb.query.score.ROWS_PER_COMMIT", 90)  # a set in many commits
    score(store, "python", ["rds"])
    before = kept(store)
    assert len(before) == 240
    score(store, "python", ["rds"])
    assert kept(store) == before
    score(store, "python", ["rds"], where="corpus = 'code'")
    expected = naive(store, "python", "mean", lambda row: row["corpus"] == "code")
    assert [row["id"] for row in kept(store)] == [row[0] for row in expected]
    score(store, "arithmetic", ["rds"])
    more = [toys.question("sums", 5000 + number) for number in range(10)]
    store.insert("pool", toys.pool_rows(more, ["late"] * 10))
    score(store, "python", ["rds", "rds(by=max)"], keep=True)
    counts = {(each.key.target, each.key.method): 0 for each in score_sets(store)}
    for score_set in score_sets(store):
        counts[score_set.key.target, score_set.key.method] += score_set.rows
    assert counts == {
        ("arithmetic", "rds"): 240,
        ("python", "rds"): 60 + 250,
        ("python", "rds(by=max)"): 250,
    }
    newest = load_scores(store, "python")
    assert [each.pool_version for each in newest.sets] == [store.version()] * 2
    score(store, "python", ["rds"])
    assert len(kept(store, target="python", method="rds")) == 250
    assert all(each.whole for each in score_sets(store))


def test_a_set_cut_by_a_kill_is_told_and_made_anew(store, monkeypatch):
    monkeypatch.setattr("coresetdb.query.score.ROWS_PER_COMMIT", 100)
    score(store, "python", ["rds"])
    store.delete("scores", "rank BETWEEN 101 AND 200")
    assert [(score_set.rows, score_set.whole) for score_set in score_sets(store)] == [(140, False)]
    score(store, "python", ["rds"])
    assert [(each.rows, each.whole) for each in score_sets(store)] == [(240, True)]


def test_two_writers_at_once_leave_a_whole_set(store):
    ids = [digest(str(number)) for number in range(300)]
    of = SetKey("python", "made", None, store.version())

    def write() -> None:
        parts = (ids[start : start + 30] for start in range(0, 300, 30))
        put_scores(Store.open(store.uri), of, parts, np.linspace(1, 0, 300, dtype="f4"), False)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [(each.rows, each.whole) for each in score_sets(store)] == [(300, True)]
    assert [row["id"] for row in kept(store)] == ids


def test_degenerate_pools(tmp_path, toys):
    store = toys.toy_store(tmp_path / "one")
    toys.add_target(store, "python", [toys.question("code", 1)])
    nothing = score(store, "python", ["rds"])
    assert nothing.table().num_rows == 0 and kept(store) == []
    store.insert("pool", toys.pool_rows([toys.question("code", 2)], ["only"]))
    alone = score(store, "python", ["rds"]).to_polars()
    assert alone["rds_rank"].to_list() == [1]
    with pytest.raises(UsageError, match="one or more methods"):
        score(store, "python", [])


def test_equal_scores_go_by_id(tmp_path, toys):
    store = toys.toy_store(tmp_path / "tied")
    same = [toys.question("code", number) for number in range(30)]
    rows = toys.pool_rows(same, ["tied"] * 30)
    column = rows.column_names.index("rds")
    rows = rows.set_column(column, rows.schema.field("rds"), rows["rds"].take([0] * 30))
    store.insert("pool", rows)
    toys.add_target(store, "python", [toys.question("code", 100)])
    score(store, "python", ["rds"])
    assert [row["id"] for row in kept(store)] == sorted(each.id for each in same)


@pytest.mark.parametrize(
    ("target", "method", "error", "said"),
    [
        ("nosuch", "rds", UsageError, "no target 'nosuch'"),
        ("python", "nosuch", UsageError, "no representation 'nosuch'"),
        ("python", "rds:round_robin", UsageError, "rds:top gives each row a score"),
        ("python", "random", UsageError, "no row has a score of its own"),
        ("python", "rds:top(by=least)", UsageError, "choose from mean, max"),
        ("python", "trim", MissingFeatureError, "coresetdb featurize"),
    ],
)
def test_wrong_calls(store, target, method, error, said):
    with pytest.raises(error, match=said):
        score(store, target, ["rds", method])
    assert kept(store) == [], "refused before the first method runs"


def test_a_filter_is_sql_or_refused(store):
    with pytest.raises(QueryError):
        score(store, "python", ["rds"], where="nosuch = 1")
    score(store, "python", ["rds"])
    with pytest.raises(UsageError, match="no row of the pool passes it"):
        score(store, "python", ["rds"], where="corpus = 'nowhere'")
    assert load_scores(store, "python").table().num_rows == 240, "kept scores stay"


def test_side_by_side(store):
    scores = score(store, "python", split_methods("rds,rds:top(by=max)"))
    score(store, "python", ["rds"], where="corpus = 'code'")
    table = load_scores(store, "python", ["rds", "rds(by=max)"]).table()
    assert table.column_names == ["id", "rds", "rds_rank", "rds(by=max)", "rds(by=max)_rank"]
    assert table.num_rows == 240 and table["rds_rank"].null_count == 180
    assert table["rds_rank"].to_pylist()[:60] == list(range(1, 61))
    rest = table["rds(by=max)_rank"].to_pylist()[60:]
    assert rest == sorted(rest)
    assert "rds(by=max): 240 rows" in repr(scores)
    row = next(iter(scores.rows("corpus")))
    assert row["messages"] and row["corpus"] == "code" and row["rds_rank"] == 1


def test_removing(store):
    score(store, "python", ["rds", "rds(by=max)"])
    score(store, "arithmetic", ["rds"])
    with pytest.raises(UsageError, match=r"no scores by 'trim'.*rds, rds\(by=max\)"):
        remove_scores(store, "python", ["trim"])
    assert remove_scores(store, "python", ["rds"]) == 240
    remove_target(store, "python")  # a later target of the name has other examples
    assert [score_set.key.target for score_set in score_sets(store)] == ["arithmetic"]
    with pytest.raises(UsageError, match="no scores for target 'python'"):
        load_scores(store, "python")


def test_commas_inside_parentheses_stay():
    text = "less, trim(scope=prompt,penalty=0.3) ,rds"
    assert split_methods(text) == ["less", "trim(scope=prompt,penalty=0.3)", "rds"]


def test_command_line(store):
    run = CliRunner()

    def call(*words, code=0):
        done = run.invoke(commands, ["score", *words])
        assert done.exit_code == code, done.output
        return done

    done = call("run", store.uri, "python", "arithmetic", "--with", "rds,rds(by=max)", "--json")
    sets = json.loads(done.stdout)
    assert [(row["target"], row["method"], row["rows"]) for row in sets] == [
        (target, method, 240)
        for target in ("arithmetic", "python")
        for method in ("rds", "rds(by=max)")
    ]
    assert "6 of 246 rows lack rds" in done.stderr
    assert json.loads(call("list", store.uri, "--json").stdout) == sets
    assert "rds(by=max)" in call("list", store.uri).stdout
    assert "removed 480 scores" in call("remove", store.uri, "python").stderr
    call("run", "--with", "rds", store.uri, "python")
    assert len(json.loads(call("list", store.uri, "--json").stdout)) == 3
    call(code=2)
    call("--help")
    call("run", store.uri, code=2)


WORDS = "the sky is blue and two plus three make five while green trees grow by rivers".split()


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A store of 40 rows with features of every kind, a target of six examples and one of two."""
    place = tmp_path_factory.mktemp("scored")
    generator = np.random.default_rng(0)

    def write(name, count):
        texts = [generator.choice(WORDS, generator.integers(2, 9)).tolist() for _ in range(count)]
        rows = [
            {"prompt": f"{number} {' '.join(words)}", "completion": " ".join(words[1:])}
            for number, words in enumerate(texts)
        ]
        return write_jsonl(place / f"{name}.jsonl", rows)

    features = "rds,losses,nait,mads,lexical,trim:warmup=none"
    database = Database.create(
        str(place / "store"), backbone=str(tiny_folder()), dtype="float32", features=features
    )
    database.ingest(write("pool", 40))
    database.add_target("gsm8k", write("gsm8k", 6))
    database.add_target("two", write("two", 2))
    return database


def test_scores_are_what_selections_rank_by(database):
    methods = {
        "rds": "rds:top",
        "rds:uot": "rds:uot",
        "trim": "trim",
        "nait": "nait",
        "nait(score=cosine)": "nait(score=cosine)",
        "losses(score=nll)": "losses(score=nll)",
        "bm25": "bm25(by=mean)",
        "dsir(gumbel=false)": "dsir(gumbel=false)",
    }
    frame = database.score("gsm8k", ",".join(methods)).to_polars()
    for name, method in methods.items():
        chosen = database.select("gsm8k", method=method, budget=40)
        assert frame.sort(f"{name}_rank")["id"].to_list() == chosen.ids
        np.testing.assert_array_equal(frame.sort(f"{name}_rank")[name], chosen.table()["score"])


def test_mads_counts_the_neurons_of_the_target(database):
    def sets(table, where=None):
        rows = database.store.dataset(table).to_table(columns=["id", "mads"], filter=where)
        return {row["id"]: set(row["mads"]) for row in rows.to_pylist()}

    wanted = set().union(*sets("targets", "target = 'gsm8k'").values())
    overlap = {key: len(own & wanted) for key, own in sets("pool").items()}
    expected = sorted(overlap.items(), key=lambda row: (-row[1], row[0]))
    frame = database.score("gsm8k", ["mads"]).to_polars()
    assert list(zip(frame["id"], frame["mads"].cast(int), strict=True)) == expected
    first = database.select("gsm8k", method="mads(weights=target)", budget=1)
    assert first.ids == frame["id"].to_list()[:1]
    assert first.table()["score"][0].as_py() == expected[0][1]
    assert database.score("gsm8k", ["mads:coverage(weights=target)"]).methods == ["mads"]
    with pytest.raises(UsageError, match="weights would only change"):
        database.score("gsm8k", ["mads(weights=idf)"])


def test_all_that_store_and_target_allow(database):
    everything = {"rds", "nait", "mads", "trim", "losses", "bm25"}
    assert set(database.score("gsm8k").methods) == everything
    two = database.score("two")
    assert "nait" not in two.methods and {"rds", "mads"} <= set(two.methods)
    assert any("not scored by nait" in note and "3" in note for note in two.notes)
    with pytest.raises(UsageError):
        database.score("two", ["nait"])


def test_the_queries_of_the_docs(database, repository):
    text = (repository / "docs" / "scores.md").read_text(encoding="utf-8")
    queries = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    queries += re.findall(r'coresetdb sql pool "(.*)"', text)
    database.score("gsm8k", "rds,trim,mads")
    assert queries  # those of the cookbook run in tests/store/sql
    for query in queries:
        assert database.sql(query).read_all().num_rows

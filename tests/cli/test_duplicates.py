"""dedup and leaks at the command line: what is printed, exit codes, what comes next."""

from __future__ import annotations

import json

import pytest
from helpers import toy_stores
from helpers.files import write_jsonl

from coresetdb.cli.main import main
from coresetdb.schemas.instruction import Instruction

QUESTION = "which river crosses the largest number of countries on its way down to the black sea"


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = toy_stores.toy_store(tmp_path / "pool")
    store.configure(backbone={"name": "toy"}, features="")
    questions = [QUESTION, QUESTION.upper(), *(f"story w{n} x{n} y{n}" for n in range(9))]
    rows = [Instruction.from_turns(("user", q), ("assistant", "the danube")) for q in questions]
    store.insert("pool", toy_stores.pool_rows(rows, ["web"] * len(rows)))
    write_jsonl(tmp_path / "test.jsonl", [{"question": QUESTION, "answer": "danube"}])
    write_jsonl(tmp_path / "other.jsonl", [{"question": "is two even", "answer": "yes"}])

    def call(*arguments, code=0):
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        out, err = capsys.readouterr()
        assert left.value.code == code, (out, err)
        return out, err

    return call


def test_dedup_prints_the_clusters_and_what_comes_next(run):
    out, err = run("dedup", "pool", "--ngram", "2")
    assert out.startswith("dedup: 1 cluster of near-duplicates; 1 of 11 rows are not kept\n")
    assert "web 2" in out and "which river crosses" in out
    assert "coresetdb select pool TARGET --where kept" in err
    assert 'coresetdb remove pool --where "NOT kept"' in err
    out, err = run("dedup", "pool", "--near", "0.99", "--name", "near", "--linkage", "star")
    assert "the cosine of rds" in out and "linkage star" in out
    out, _ = run("dedup", "pool", "--json")
    facts = json.loads(out)
    assert facts["columns"] == ["cluster", "kept"] and facts["largest"][0]["rows"] == 2


def test_dedup_refuses_in_a_sentence(run):
    _, err = run("dedup", "pool", "--near", "0.9", "--lexical", "0.8", code=2)
    assert err.startswith("Error: --near and --feature compare vectors")
    _, err = run("dedup", "pool", "--keep", "longst", code=2)
    assert "neither first nor longest" in err


def test_leaks_exits_with_one_where_it_finds_any(run, tmp_path):
    out, err = run("leaks", "pool", "test.jsonl", code=1)
    assert "2 rows give 1 example away" in out
    assert "Next: coresetdb leaks pool test.jsonl --out leaks.csv" in err
    out, err = run("leaks", "pool", "test.jsonl", "other.jsonl", "--out", "found.csv", code=1)
    assert (tmp_path / "found.csv").read_text().count("\n") == 3
    assert "coresetdb remove pool --ids found.csv --why 'leaks test.jsonl, other.jsonl'" in err
    out, err = run("leaks", "pool", "other.jsonl")
    assert "none is given away" in out and "Next" not in err
    out, _ = run("leaks", "pool", "test.jsonl", "--json", code=1)
    assert len(json.loads(out)["found"]) == 2


def test_leaks_refuses_a_file_before_it_looks(run, tmp_path):
    _, err = run("leaks", "pool", "test.jsonl", "--out", "found.txt", code=2)
    assert ".csv, .jsonl or .parquet" in err
    (tmp_path / "mine.csv").write_text("precious")
    _, err = run("leaks", "pool", "test.jsonl", "--out", "mine.csv", code=2)
    assert "--overwrite" in err and (tmp_path / "mine.csv").read_text() == "precious"
    run("leaks", "pool", "test.jsonl", "--out", "mine.csv", "--overwrite", code=1)
    assert (tmp_path / "mine.csv").read_text() != "precious"


def test_leaks_reads_a_benchmark_as_ingest_does(run, tmp_path):
    (tmp_path / "test.csv").write_text(f"q,a\n{QUESTION},danube\n")
    out, _ = run("leaks", "pool", "test.csv", "--map", "user=q,assistant=a", "--json", code=1)
    assert len(json.loads(out)["found"]) == 2


def test_a_benchmark_that_slipped_in_is_found_and_removed(run):
    """The file that leaks writes is what remove reads; near-duplicates go by their column."""
    run("leaks", "pool", "test.jsonl", "--out", "found.csv", code=1)
    out, _ = run("remove", "pool", "--ids", "found.csv", "--why", "leaks test.jsonl")
    assert out.startswith("2 rows removed")
    out, _ = run("leaks", "pool", "test.jsonl")
    assert "looked through 9 rows" in out and "none is given away" in out
    run("restore", "pool", "--ids", "found.csv")
    run("leaks", "pool", "test.jsonl", code=1)
    run("dedup", "pool", "--ngram", "2")
    out, _ = run("remove", "pool", "--where", "NOT kept")
    assert out.startswith("1 row removed")

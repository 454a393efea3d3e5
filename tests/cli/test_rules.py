"""The rules of a selection at the command line: what is asked, what is said, what is refused."""

from __future__ import annotations

import json

import pytest
from helpers.files import write_jsonl

from coresetdb.cli.main import main
from coresetdb.database import Database

QUESTION = "Ann has {} apples and buys seven more, how many apples does she have in the end?"


def questions(numbers, answer="She has {}."):
    return [{"question": QUESTION.format(n), "answer": answer.format(n + 7)} for n in numbers]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_llama):
    """A store of two corpora; one row asks an example's question, one a question of the test."""
    place = tmp_path_factory.mktemp("rules")
    database = Database.create(str(place / "store"), backbone=str(tiny_llama), dtype="float32")
    database.ingest(write_jsonl(place / "sums.jsonl", questions(range(20))))
    database.ingest(write_jsonl(place / "more.jsonl", questions([300, 500], "Guess: {}")))
    database.add_target("sums", write_jsonl(place / "examples.jsonl", questions([300, 301])))
    write_jsonl(place / "test.jsonl", questions([500, 501]))
    return place


@pytest.fixture
def run(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)

    def call(command, *, code=0):
        with pytest.raises(SystemExit) as left:
            main(command.split())
        out, err = capsys.readouterr()
        assert left.value.code == code, (out, err)
        return out if code == 0 else err

    return call


def test_leaks_are_said_and_listed(run):
    out = run("select store sums --budget 21 --name guarded")
    assert "left out for leakage: 1 row that gives examples away (1 equal)" in out
    assert "of sums: 'ann has 300 apples and buys seven more how many apples does she'" in out
    facts = json.loads(run("coreset show store guarded --json"))
    (row,) = facts["parameters"]["rules"]["leakage"]["rows"]
    assert row["how"] == "equal" and row["of"] == "sums" and row["id"] not in facts["ids"]
    assert "left out for leakage: 1 row that" in run("coreset show store guarded")
    assert "the same 21 ids" in run("coreset replay store guarded")

    out = run("select store sums --budget 21 --eval test.jsonl --leakage full")
    assert "left out for leakage: 2 rows that give examples away (2 equal)" in out
    both = json.loads(run("select store sums --budget 22 --allow-leakage --json"))
    assert row["id"] in both["ids"] and both["rows"] == 22
    assert both["parameters"]["rules"]["asked"]["leakage"] == "off"


def test_shares_and_near_duplicates(run):
    made = json.loads(run("select store sums --budget 10 --quota more=1 --cap 100% --json"))
    assert {share["corpus"]: share["picked"] for share in made["mix"]} == {"sums": 9, "more": 1}
    out = run("select store sums --budget 10 --cap sums=20% --distinct 1 --allow-leakage")
    assert "cap reached: sums 2" in out and "short by" in out
    run("select store sums --budget 5 --name five")
    out = run(
        "select store --method random --budget 50% --exclude five --distinct 1 --distinct-by rds"
    )
    assert "eligible: 17 of 22 rows" in out and "not eligible: the 5 rows of coreset five" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--quota none=3", "no corpus of that name; corpora: more, sums"),
        ("--quota sums=60% --quota more=1 --budget 1", "less than one"),
        ("--exclude nothing", "no coreset 'nothing'"),
        ("--distinct 2", "a cosine above 0"),
        ("--leakage off --eval test.jsonl", "leave out one of the two"),
        ("--leakage some", "is not one of"),
    ],
)
def test_wrong_calls_exit_two(run, words, said):
    assert said in run(f"select store sums {words}", code=2)


def test_an_evaluation_file_that_is_not_there(run):
    assert "nowhere.jsonl" in run("select store sums --eval nowhere.jsonl", code=2)

"""Coresets looked into at the command line: list, show, explain and compare."""

from __future__ import annotations

import json

import pytest
from helpers.files import write_jsonl

from coresetdb.cli.main import main
from coresetdb.database import Database

SUMS = [
    {"question": f"What is {i} plus 1?", "answer": f"It is {i + 1}." + " So." * (i % 3)}
    for i in range(24)
]
ODD = [{"question": "Ring\x1b[31m the \x07bell", "answer": "[bold]ding[/bold]\nand dong"}]


@pytest.fixture(scope="module")
def uri(tmp_path_factory, tiny_llama) -> str:
    """A store with features of four kinds, a target of four examples, and coresets of each."""
    place = tmp_path_factory.mktemp("facts")
    made = Database.create(
        str(place / "store"),
        backbone=str(tiny_llama),
        dtype="float32",
        features="rds,trim:rank=16,nait,mads:share=0.2",
    )
    made.ingest(write_jsonl(place / "sums.jsonl", SUMS[:20]))
    made.ingest(write_jsonl(place / "odd.jsonl", ODD))
    made.add_target("sums", write_jsonl(place / "examples.jsonl", SUMS[20:]))
    for method in ("rds", "trim", "nait", "mads"):
        made.select("sums", method=method, budget=21, name=method)
    made.select(method="random", budget="50%", where="corpus = 'sums'", name="drawn", seed=4)
    made.select("sums", budget=9, quota="odd=1", exclude="drawn", name="ruled")
    return made.store.uri


@pytest.fixture
def run(uri, capsys):
    """Runs a command on the store; stdout, and stderr with `code=`."""

    def call(command, *words, code=0):
        with pytest.raises(SystemExit) as left:
            main([*command.split(), uri, *map(str, words)])
        assert left.value.code == code
        out, err = capsys.readouterr()
        return out if code == 0 else err

    return call


def test_list_and_show(run):
    rows = json.loads(run("coreset list", "--json"))
    assert [row["coreset"] for row in rows] == ["rds", "trim", "nait", "mads", "drawn", "ruled"]
    assert rows[0]["distance"] is not None and rows[0]["mmd"] is not None
    assert rows[4]["filter"] == "corpus = 'sums'" and rows[4]["mmd"] is None
    assert "rds:round_robin" in run("coreset list")
    shown = run("coreset show", "rds")
    assert "Coreset rds: 21 rows by rds:round_robin for sums" in shown
    for word in ("created", "21 rows eligible", "budget", "distance", "MMD", "95.2%"):
        assert word in shown
    drawn = run("coreset show", "drawn")
    assert "corpus = 'sums'" in drawn and "50%" in drawn and "seed" in drawn
    assert "distance" not in drawn
    ruled = run("coreset show", "ruled")
    for words in (
        "leakage   ranked",
        "drawn (10 rows)",
        "quota     odd=1",
        "quota odd: 1 of 1 row",
    ):
        assert words in ruled
    assert json.loads(run("coreset show", "rds", "--json"))["mmd"] == rows[0]["mmd"]


def test_explain_by_each_method(run):
    told = run("explain", "rds", 3)
    assert told.startswith("#3 of 21 in rds: ")
    for words in ("Pulled by example 3 of sums (rds 0.", "Runner-up: example", "Next row: #4"):
        assert words in told
    told = run("explain", "trim", "#2")
    assert "Tokens: " in told and "The strongest:" in told and "The most similar example" in told
    assert (
        "Not known. Which example pulled it: trim:top compares rows with target sums as a whole"
        in told
    )
    assert "Layers; contribution sums to" in run("explain", "nait", 2)
    told = run("explain", "mads", 2)
    assert "Neurons; gain sums to" in told and "more, " in told
    assert "score none: rows are drawn at random" in run("explain", "drawn", 1)
    found = json.loads(run("explain", "trim", 2, "--json"))
    assert found["tokens"][0].keys() == {"token", "text", "class", "seen", "counts", "score"}
    assert "no rank 22" in run("explain", "rds", 22, code=2)
    assert "Rows added without it: " in run("explain", "drawn", 1, "--without")


def test_text_of_the_pool_moves_no_cursor(run):
    odd = next(
        row
        for row in range(1, 22)
        if json.loads(run("explain", "rds", row, "--json"))["corpus"] == "odd"
    )
    told = run("explain", "rds", odd)
    assert "Ring\\x1b[31m the \\x07bell" in told and "[bold]ding[/bold]\n    and dong" in told
    assert "\x1b" not in told and "\x1b" not in run("explain", "trim", 21)


def test_compare(run):
    told = run("compare", "rds", "drawn")
    assert "10 rows in both: 47.6% of rds, 100.0% of drawn; Jaccard 0.476 (10.0 expected" in told
    for words in ("Spearman", "Corpora", "Lengths in tokens", "response_tokens", "MMD of drawn"):
        assert words in told
    found = json.loads(run("compare", "rds", "rds", "--json"))
    assert found["jaccard"] == found["spearman"] == 1.0
    assert "no coreset 'gone'" in run("compare", "rds", "gone", code=2)

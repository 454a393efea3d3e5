"""How files are read, at the command line: what is asked, typed, said and recorded."""

from __future__ import annotations

import json
import shlex

import pytest
from helpers.files import write_jsonl

from coresetdb import connect
from coresetdb.cli.main import main
from coresetdb.database import Database

CHOICES = ["three", "seven", "nine", "ten"]
MAPPED = '--map "user=context+question+choices,assistant=answer" --choices letters'


def questions(numbers):
    return [
        {"context": f"The hall has {n} lamps and a door.", "question": f"How many lamps, {n}?",
         "choices": CHOICES, "answer": n % 4}
        for n in numbers
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_llama):
    place = tmp_path_factory.mktemp("reading")
    Database.create(str(place / "store"), backbone=str(tiny_llama), dtype="float32")
    write_jsonl(place / "pool.jsonl", questions(range(12)))
    write_jsonl(place / "target.jsonl", questions([20, 21]))
    write_jsonl(place / "test.jsonl", questions([5]))
    ended = [{"prompt": f"p {n}", "completion": f"c {n}<|endoftext|>"} for n in range(8)]
    write_jsonl(place / "ended.jsonl", [*ended, {"prompt": "q", "completion": "<|endoftext|>"}])
    cast = [{"role": "Narrator", "content": "It is dark."}, {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "Me."}]  # fmt: skip
    write_jsonl(place / "cast.jsonl", [{"messages": cast}])
    return place


@pytest.fixture
def run(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)

    def call(command, *, code=0):
        with pytest.raises(SystemExit) as left:
            main(shlex.split(command))
        out, err = capsys.readouterr()
        assert left.value.code == code, (out, err)
        return out, err

    return call


@pytest.mark.parametrize("command", ["ingest store pool.jsonl", "target add store t target.jsonl"])
def test_the_error_shows_the_command(run, command):
    _, err = run(command, code=2)
    assert "would leave out a part of the conversation: context, choices" in err
    assert err.endswith(f"Type: coresetdb {command} {MAPPED}\n")


def test_columns_and_choices(run):
    out, _ = run(f"ingest store pool.jsonl {MAPPED}")
    assert "pool: read 12: 12 new" in out
    out, _ = run(f"target add store sums target.jsonl {MAPPED}")
    assert "2 examples" in out
    rows = connect("store").sql("SELECT messages FROM pool").to_polars()["messages"].to_list()
    said = sorted(tuple(turn["content"] for turn in turns) for turns in rows)[0]
    assert said == (
        "The hall has 0 lamps and a door.\n\nHow many lamps, 0?\n\n"
        "A. three\nB. seven\nC. nine\nD. ten",
        "A",
    )

    _, err = run("select store sums --eval test.jsonl", code=2)
    assert "--eval-format question_answer" in err
    assert err.endswith(f"Type: coresetdb select store sums --eval test.jsonl {MAPPED}\n")
    out, _ = run(f"select store sums --budget 20 --eval test.jsonl --leakage full {MAPPED}")
    assert "1 equal" in out


def test_markers_at_the_end_are_said_and_stripped(run):
    out, err = run("ingest store ended.jsonl")
    share = "of the 9 answers (100.0%) end in '<|endoftext|>', which would be trained on"
    assert f"9 of the first {share.removeprefix('of the ')}" in err
    assert f"9 {share}; --strip-end '<|endoftext|>' takes it off" in out
    assert "rejected, empty response: 1" in out

    out, _ = run("ingest store ended.jsonl --strip-end '<|endoftext|>' --json")
    (file,) = json.loads(out)["files"]
    assert json.loads(file["options"])["strip_end"] == "<|endoftext|>"
    assert file["remarks"] == ["'<|endoftext|>' was taken off 9 of the 9 answers (100.0%)"]
    assert (file["new"], file["rejected"]) == (8, 1)

    out, _ = run("target add store ends ended.jsonl --strip-end '<|endoftext|>'")
    assert "'<|endoftext|>' was taken off 9 of the 9 answers" in out
    out, _ = run("select store sums --eval ended.jsonl --budget 3")
    assert f"ended.jsonl: 9 {share}" in out


def test_roles(run):
    out, _ = run("ingest store cast.jsonl")
    assert "rejected, unknown role 'Narrator': 1" in out
    assert "1 record rejected for the unknown role 'Narrator': --role Narrator=user reads it" in out
    out, _ = run("ingest store cast.jsonl --role narrator=system")
    assert "1 new" in out
    _, err = run("ingest store cast.jsonl --role narrator=god", code=2)
    assert "the roles are user, assistant, system, tool" in err
    _, err = run("ingest store cast.jsonl --role narrator", code=2)
    assert "NAME=ROLE" in err


def test_in_python(folder, monkeypatch):
    monkeypatch.chdir(folder)
    database = connect("store")
    mapping = {"user": ["context", "question", "choices"], "assistant": "answer"}
    account = database.ingest(
        questions(range(40, 43)), mapping=mapping, choices="text", corpus="memory"
    )
    assert account.total("new") == 3
    added = database.add_target("py", questions([50]), mapping=mapping, choices="letters")
    assert added.target.examples == 1
    coreset = database.select(
        "py", budget=3, evaluation="test.jsonl", mapping=mapping, choices="letters"
    )
    assert len(coreset) == 3

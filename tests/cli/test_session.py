"""A whole session at the command line: what is printed where, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.files import write_jsonl
from helpers.warm_processes import WarmParent

COLOURS = ("red", "green", "blue", "white")


class Shell:
    """Runs `coresetdb` in a folder, as a person would."""

    def __init__(self, folder: Path, warm: WarmParent) -> None:
        self.folder, self.warm = folder, warm

    def __call__(self, *words: str, code: int = 0, typed: str = "") -> tuple[str, str]:
        program = "from coresetdb.cli.main import main; main()"
        ran = self.warm.start(program, *words, cwd=self.folder, typed=typed)
        out, err = ran.communicate(timeout=300)
        assert ran.returncode == code, (words, out, err)
        assert "Traceback" not in err, err
        return out, err


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, warm: WarmParent) -> Shell:
    """A shell in a folder with a store `pool` of 60 rows and a target `sums` of 4 examples."""
    folder = tmp_path_factory.mktemp("session")
    colours = [
        {"instruction": f"Name colour {i}.", "output": f"{COLOURS[i % 4]} {i}", "hue": i % 4}
        for i in range(40)
    ]
    sums = [{"question": f"What is {i} plus 1?", "answer": f"It is {i + 1}."} for i in range(24)]
    write_jsonl(folder / "colours.jsonl", [*colours, {"instruction": "Say nothing.", "output": ""}])
    write_jsonl(folder / "sums.jsonl", sums[:20])
    write_jsonl(folder / "examples.jsonl", sums[20:])
    run = Shell(folder, warm)
    run("init", "pool", "--backbone", str(tiny_llama), "--dtype", "float32")
    run("ingest", "pool", "colours.jsonl", "sums.jsonl")
    run("target", "add", "pool", "sums", "examples.jsonl")
    return run


def test_ingest_says_what_became_of_every_record(shell):
    out, err = shell("ingest", "pool", "colours.jsonl", "sums.jsonl")
    assert "colours: read 41: 0 new, 40 duplicate, 1 rejected" in out
    assert "rejected, empty response: 1" in out
    assert "all: read 61: 0 new, 60 duplicate, 1 rejected" in out
    assert "alpaca" in err
    out, _ = shell("ingest", "pool", "sums.jsonl", "--json")
    account = json.loads(out)
    assert (account["read"], account["duplicate"]) == (20, 20)


def test_ingest_reads_stdin(shell):
    typed = json.dumps({"prompt": "Say aye.", "response": "aye"}) + "\n"
    out, _ = shell("ingest", "pool", "-", "--corpus", "typed", typed=typed)
    assert "typed: read 1: 1 new" in out


def test_a_broken_archive_is_said_and_exits_one(shell):
    (shell.folder / "cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00 nothing")
    out, err = shell("ingest", "pool", "cut.jsonl.gz", code=1)
    assert "cut.jsonl.gz" in out + err


def test_a_file_that_is_not_there_is_the_callers_mistake(shell):
    _, err = shell("ingest", "pool", "nowhere.jsonl", code=2)
    assert "nowhere.jsonl" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status", "elsewhere"], "no store here"),
        (["init", "pool"], "there is a store already"),
        (["select", "pool", "nosuch"], "nosuch"),
        (["select", "pool", "sums", "--method", "rds:nosuch"], "nosuch"),
        (["select", "pool", "sums", "--budget", "many"], "budget"),
        (["select", "pool", "sums", "--where", "nosuch = 1"], "nosuch"),
        (["target", "add", "pool", "sums", "examples.jsonl"], "already"),
        (["select", "pool", "sums", "--name", "lost", "--out", "no/such/x.jsonl"], "no folder"),
        (["select", "pool", "sums", "--name", "lost", "--out", "x.txt"], "suffix"),
        (["select", "pool", "sums", "--dry-run", "--out", "x.jsonl"], "--dry-run writes nothing"),
        (["select", "pool", "sums", "--by", "nosuch", "--dry-run"], "no field 'nosuch'"),
        (["select", "pool", "sums", "--where", "1 = 2"], "no row of the pool passes it"),
        (["select", "pool", "sums", "--where", ""], "the filter is empty"),
        (["select", "pool", "sums", "--weights", "other=1"], "'other' is no target"),
        (["coreset", "show", "pool", "lost"], "lost"),
        (["export", "pool", "nosuch", "--out", "x.jsonl"], "nosuch"),
        (["sql", "pool", "DROP TABLE pool"], "SELECT"),
        (["frobnicate"], "frobnicate"),
        (["ingest", "pool"], "SOURCE"),
    ],
)
def test_wrong_calls_exit_two_with_a_sentence(shell, words, said):
    out, err = shell(*words, code=2)
    assert out == ""
    assert said in err


def test_status_counts_corpora_features_and_targets(shell):
    out, _ = shell("status", "pool", "--json")
    status = json.loads(out)
    rows = {row["corpus"]: row["rows"] for row in status["corpora"]}
    assert rows["colours"] == 40
    assert rows["sums"] == 20
    assert {"rds", "nll", "ifd"} <= {row["feature"] for row in status["features"]}
    assert status["targets"] == [{"target": "sums", "examples": 4}]
    text, _ = shell("status", "pool")
    assert "Corpora" in text


def test_select_shows_rows_and_origins_and_may_save_nothing(shell):
    words = ("select", "pool", "sums", "--budget", "12", "--dry-run")
    out, err = shell(*words, "--by", "hue", "--show", "2")
    assert "nothing was saved, because this is a dry run" in out and "Next:" not in err
    assert "hue" in out and "(none)" in out and "What is" in out
    assert "\n   2   " in out and "\n   3   " not in out
    assert "prompt" not in shell(*words, "--show", "0")[0]
    found = json.loads(shell(*words, "--by", "hue", "--json")[0])
    assert found["saved"] is False and sum(row["picked"] for row in found["origins"]["hue"]) == 12
    assert "sums-rds" not in shell("coreset", "list", "pool")[0]


def test_select_export_and_replay(shell):
    out, _ = shell("select", "pool", "sums", "--budget", "10", "--name", "ten", "--json")
    coreset = json.loads(out)
    assert len(coreset["ids"]) == len(set(coreset["ids"])) == 10
    out, _ = shell("export", "pool", "ten", "--out", "ten.jsonl")
    assert "ten.jsonl: 10 rows" in out
    rows = [json.loads(line) for line in (shell.folder / "ten.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == sorted(coreset["ids"])
    manifest = json.loads((shell.folder / "ten.jsonl.manifest.json").read_text())
    assert manifest["ids"] == [row["id"] for row in rows]
    out, _ = shell("coreset", "replay", "pool", "ten")
    assert "the same 10 ids" in out
    shell("select", "pool", "sums", "--budget", "10", "--name", "ten", code=2)
    out, _ = shell("coreset", "list", "pool")
    assert "ten" in out
    out, _ = shell("coreset", "show", "pool", "ten")
    assert "10 rows" in out


def test_filters_reach_metadata_and_select_at_random(shell):
    words = ("--method", "random", "--budget", "50%", "--where", "hue = '1'", "--json")
    out, _ = shell("select", "pool", *words)
    coreset = json.loads(out)
    assert coreset["eligible"] == 10
    assert coreset["rows"] == 5


def test_sql_answers_on_stdout(shell):
    query = "SELECT corpus, count(*) AS n FROM pool WHERE corpus <> 'typed' GROUP BY 1 ORDER BY 1"
    out, _ = shell("sql", "pool", query, "--csv")
    assert out.split() == ['"corpus","n"', '"colours",40', '"sums",20']


def test_verify_is_clean_and_compact_keeps_every_row(shell):
    out, _ = shell("verify", "pool")
    assert "sound" in out
    before, _ = shell("sql", "pool", "SELECT id FROM pool ORDER BY id", "--csv")
    shell("compact", "pool", "--keep-hours", "0")
    after, _ = shell("sql", "pool", "SELECT id FROM pool ORDER BY id", "--csv")
    assert before == after
    out, _ = shell("verify", "pool", "--full", "--json")
    assert json.loads(out)["ok"]
    out, _ = shell("coreset", "list", "pool", "--json")
    for coreset in json.loads(out):
        shell("coreset", "replay", "pool", coreset["coreset"])


def test_targets_can_be_listed_and_removed(shell):
    shell("target", "add", "pool", "spare", "examples.jsonl")
    out, _ = shell("target", "list", "pool")
    assert "spare" in out
    shell("target", "remove", "pool", "spare")
    out, _ = shell("target", "list", "pool", "--json")
    assert [target["name"] for target in json.loads(out)] == ["sums"]


def test_completion_prints_a_script(shell):
    out, _ = shell("completion", "bash")
    assert "_CORESETDB_COMPLETE" in out

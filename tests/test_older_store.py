"""A store that version 0.1 left: it opens, answers, replays, goes on and prints as it did.

`fixtures/make_store.py` says what it holds. Nothing but the command line is called here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.print_all import (
    ANSWERS,
    call,
    differences,
    every_choice,
    every_coreset,
    every_print,
    late_feature,
    ok,
    unpacked,
)
from helpers.files import write_jsonl

ROWS = 72
SHARD = 16
"""Rows of the late feature that were made before its run was killed."""


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Path]:
    """The folder of the stores, unpacked anew, as the working directory."""
    with unpacked(tmp_path) as folder:
        yield folder


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, list[str]]]:
    return json.loads(ANSWERS.read_text())


def test_it_opens(older):
    status = json.loads(ok("status", "pool", "--json"))
    assert status["rows"] == ROWS
    assert {row["corpus"] for row in status["corpora"]} == {"sums", "programs", "facts"}
    assert {row["target"] for row in status["targets"]} == {"sums", "programs"}
    features = {row["representation"] for row in status["features"]}
    assert features == {
        "gradfiltering",
        "less",
        "lexical",
        "losses",
        "mads",
        "nait",
        "rds",
        "trim",
    }
    assert status["waiting"].pop(late_feature()) == ROWS
    assert set(status["waiting"].values()) == {0}


def test_it_is_sound_but_for_a_note_that_a_kill_tore(older):
    out = ok("verify", "pool", "--full")
    assert "had no checksum (the run was killed before recording it)" in out
    assert "sound" in out.splitlines()[-1]
    again = ok("verify", "pool", "--full")
    assert "had no checksum" not in again and "sound" in again.splitlines()[-1]
    assert "sound" in ok("verify", "encoder_pool", "--full")


def test_a_note_cut_short_is_damage_and_is_repaired(older):
    (note,) = (older / "pool" / "_checksums").glob("[!f]*.json")
    note.write_bytes(note.read_bytes()[:100])
    _, _, code = call("verify", "pool", "--full")
    assert code == 1
    ok("verify", "pool", "--repair")
    assert "sound" in ok("verify", "pool", "--full")


def test_coresets_are_what_they_were_and_replay(older, answers):
    assert every_coreset("pool") == answers["coresets"]
    for name, ids in answers["coresets"].items():
        assert f"the same {len(ids)} ids" in ok("coreset", "replay", "pool", name)


def test_without_its_encoder_it_answers_all_the_same(older, answers):
    assert every_coreset("encoder_pool") == answers["encoder coresets"]
    assert "the same 4 ids" in ok("coreset", "replay", "encoder_pool", "few")
    words = ("sums", "--method", "embed", "--budget", "4", "--json")
    assert (
        json.loads(ok("select", "encoder_pool", *words))["ids"]
        == (answers["encoder coresets"]["few"])
    )


def test_every_method_chooses_the_same_rows(older, answers):
    assert every_choice() == answers["methods"]


def test_what_were_defaults_then_chooses_the_same_rows_spelled_out(older, answers):
    """NAIT's default was the published one; another finds more."""
    for method, ids in answers["with the defaults of 0.1"].items():
        words = ("sums", "programs", "--method", method, "--budget", "8", "--json")
        assert json.loads(ok("select", "pool", *words))["ids"] == ids
    for name, method in (
        ("sums-nait", "nait:top(direction=pca,score=dot)"),
        ("sums-kde", "rds:knn_kde"),
    ):
        assert json.loads(ok("coreset", "show", "pool", name, "--json"))["method"] == method


def test_it_takes_rows_and_the_killed_feature_is_completed(older, answers):
    late = late_feature()
    rows = [
        {"question": "What is 2 plus 3?", "answer": "It is 5."},
        {"question": "What is 4 plus 3?", "answer": "It is 7."},
    ]
    write_jsonl(older / "more.jsonl", rows)
    account = json.loads(ok("ingest", "pool", "more.jsonl", "sums.jsonl", "--json"))
    assert account["new"] == len(rows)
    done = json.loads(ok("featurize", "pool", late, "--json"))
    assert (done["rows"], done["resumed"]) == (ROWS - SHARD, SHARD)
    status = json.loads(ok("status", "pool", "--json"))
    assert status["rows"] == ROWS + len(rows)
    assert set(status["waiting"].values()) == {0}
    assert "sound" in ok("verify", "pool", "--full")
    words = ("--method", f"{late}(score=nll)", "--budget", "100%", "--json")
    chosen = json.loads(ok("select", "pool", *words))
    assert chosen["rows"] == ROWS + len(rows)
    ok("compact", "pool", "--keep-hours", "0")
    for name in ("sums-rds", "sums-warm", "both-uot", "quick"):
        ids = answers["coresets"][name]
        assert f"the same {len(ids)} ids" in ok("coreset", "replay", "pool", name)
    assert "sound" in ok("verify", "pool", "--full")


def test_it_prints_what_it_printed(older):
    found = differences(every_print())
    advice = "If this was meant: python tests/fixtures/print_all.py --update"
    assert not found, "\n\n".join([*found, advice])

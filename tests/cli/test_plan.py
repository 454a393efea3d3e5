"""`plan`, `fit` and what is said while a feature waits to be fitted."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest
from helpers.tiny_models import tiny_folder

from coresetdb.cli.main import main
from coresetdb.ingest.planning import duration


@pytest.fixture
def say(tmp_path, capsys, monkeypatch):
    """Runs a command in a folder with 40 rows in a.jsonl: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text(lines(40))

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(words))
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    run("init", "pool", "--backbone", str(tiny_folder()), "--device", "cpu", "--features", WAITING)
    return run


WAITING = "rds,trim:sample=30"


def lines(n, start=0):
    rows = [
        {"prompt": f"What is {i} plus {i % 7}? {'well ' * (i % 5)}", "response": f"It is {i}."}
        for i in range(start, start + n)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_feature_waits_is_planned_fitted_and_made(say, tmp_path):
    code, _, err = say("init", "other", "--backbone", str(tiny_folder()), "--features", "rds,trim")
    assert code == 0 and "To be fitted first, by ingest or by coresetdb fit: trim." in err
    code, out, err = say("status", "pool")
    assert "Not fitted yet: trim:sample=30. That is done at the next ingestion" in err
    code, out, err = say("plan", "pool", "a.jsonl")
    assert code == 0 and "40 records (counted), 40 new to the pool" in out
    for words in ("trim_codes", "fitted first", "trim-basis", "forward, whole rows", "rds, trim"):
        assert words in out
    assert "fits were tried on" in err
    code, out, _ = say("plan", "pool", "a.jsonl", "--features", "losses", "--json")
    assert json.loads(out)["features"] == ["losses"] and json.loads(out)["rows"] == 40
    (tmp_path / "t.jsonl").write_text(lines(5, 100))
    code, out, _ = say("target", "add", "pool", "sums", "t.jsonl")
    assert code == 0 and "trim:sample=30 is not fitted yet; after the first ingestion run" in out
    code, out, err = say("fit", "pool", "a.jsonl")
    assert code == 0 and "trim-basis" in out and "fitting on 30 of 40 rows" in err
    code, out, err = say("fit", "pool", "a.jsonl")
    assert code == 0 and out == "" and "nothing to fit" in err
    code, out, _ = say("ingest", "pool", "a.jsonl")
    assert code == 0 and "40 new" in out
    code, out, err = say("status", "pool", "--json")
    status = json.loads(out)
    assert status["pending"] == [] and [each["corpus"] for each in status["bases"]] == ["a"]
    assert 0 < status["bases"][0]["kept"] <= 1 and status["bases"][0]["of the sample"] > 0


def test_standard_input_is_fitted_on_and_ingested(say, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines(40).encode())))
    code, out, err = say("ingest", "pool", "-", "--corpus", "typed")
    assert code == 0 and "typed: read 40: 40 new" in out
    assert "standard input: copied to" in err


def test_a_fit_without_rows_exits_two_and_ingests_nothing(say, tmp_path):
    (tmp_path / "none.jsonl").write_text('{"prompt": "?", "response": ""}\n')
    code, out, err = say("ingest", "pool", "none.jsonl")
    assert (code, out) == (2, "")
    assert "nothing can be fitted" in err and "needed for trim:sample=30; nothing was" in err


def test_times_are_spelled_in_the_unit_a_person_would_use():
    assert [duration(each) for each in (0.25, 100, 150, 9000, 400_000)] == [
        *("0.2 s", "100.0 s", "2.5 min", "2.5 h", "4.6 d"),
    ]

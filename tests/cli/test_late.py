"""`featurize` and `feature remove` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.files import write_jsonl

from coresetdb.cli.main import main


@pytest.fixture
def run(
    tmp_path: Path,
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Runs `coresetdb` in a folder with a store `pool` of 40 rows with losses, and a target."""
    monkeypatch.chdir(tmp_path)

    def shell(*words: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as left:
            main(list(words))
        said = capsys.readouterr()
        assert (left.value.code or 0) == code, (words, said)
        return said.out, said.err

    sums = [{"question": f"What is {i} plus 1?", "answer": f"It is {i + 1}."} for i in range(44)]
    for name, some in (("sums", sums[:40]), ("examples", sums[40:])):
        write_jsonl(tmp_path / f"{name}.jsonl", some)
    made = ("--dtype", "float32", "--features", "losses:alone=false")
    shell("init", "pool", "--backbone", str(tiny_llama), *made)
    shell("ingest", "pool", "sums.jsonl")
    shell("target", "add", "pool", "sums", "examples.jsonl")
    return shell


def test_a_feature_comes_later_and_goes_again(run):
    _, err = run("select", "pool", "sums", "--budget", "5", code=2)
    assert "coresetdb featurize" in err
    out, err = run("featurize", "pool", "rds")
    assert "rds: featurized 40 rows" in out
    assert "4 examples of targets" in out
    assert "40 rows to featurize" in err
    out, _ = run("featurize", "pool", "--json")
    assert json.loads(out)["rows"] == 0
    run("select", "pool", "sums", "--budget", "5", "--name", "five")
    out, err = run("status", "pool")
    assert "not yet featurized" in out and "coresetdb featurize" not in err
    _, err = run("feature", "remove", "pool", "nope", code=2)
    assert "it has losses, rds" in err
    _, err = run("feature", "remove", "pool", "rds", code=2)
    assert "five" in err and "--force" in err
    _, err = run("feature", "remove", "pool", "rds", "--force")
    assert "rds: removed (rds, rds_norm, rds_reason)" in err
    out, _ = run("coreset", "replay", "pool", "five")
    assert "the same 5 ids" in out
    _, err = run("featurize", "pool", "nope", code=2)
    assert "unknown feature 'nope'" in err


def test_progress_while_no_row_is_made_yet(monkeypatch, capsys):
    """Examples of targets come first: on a slow model the first line is due before any row."""
    from coresetdb.cli import options

    monkeypatch.setattr(options, "LINE_SECONDS", 0.0)
    with options.ShownProgress() as shown:
        shown.fill(rows=0, rows_total=10, tokens=5)
        shown.fill(rows=5, rows_total=10, tokens=9)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("0 of 10 rows") and not first.endswith("left")
    assert second.startswith("5 of 10 rows") and second.endswith("left")

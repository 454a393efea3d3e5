"""Methods and targets at the command line: options of the comparison, notes, a copy elsewhere."""

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
    """Runs `coresetdb` in a folder with a store `pool` of 40 rows and a target of 4 examples."""
    monkeypatch.chdir(tmp_path)

    def shell(*words: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as left:
            main(list(words))
        said = capsys.readouterr()
        assert (left.value.code or 0) == code, (words, said)
        return said.out, said.err

    sums = [{"question": f"What is {i} plus 1?", "answer": f"It is {i + 1}."} for i in range(44)]
    for name, some in (("sums", sums[:40]), ("examples", sums[40:]), ("pair", sums[:2])):
        write_jsonl(tmp_path / f"{name}.jsonl", some)
    for store, features in (("pool", "rds,nait"), ("other", "nait,losses:alone=false")):
        shell("init", store, "--backbone", str(tiny_llama), "--features", features)
        shell("ingest", store, "sums.jsonl")
    shell("target", "add", "pool", "sums", "examples.jsonl")
    return shell


def test_a_method_by_its_name_and_with_options(run):
    out, _ = run("select", "pool", "sums", "--method", "nait", "--budget", "5", "--json")
    plain = json.loads(out)
    assert plain["method"] == "nait:top" and len(plain["ids"]) == 5
    words = ("--method", "nait(activation=drift,score=cosine)", "--budget", "5", "--name", "drift")
    out, _ = run("select", "pool", "sums", *words)
    assert "5 rows by nait:top(activation=drift,score=cosine) for sums" in out
    out, _ = run("coreset", "replay", "pool", "drift")
    assert "the same 5 ids" in out
    _, err = run("select", "pool", "sums", "--method", "nait(scope=all)", code=2)
    assert "no option 'scope'; top has by, nait has activation, direction, score" in err
    _, err = run("select", "pool", "sums", "--method", "nait(score=best)", code=2)
    assert "choose from dot, cosine, zscore, centred" in err
    _, err = run("select", "pool", "sums", "--method", "trim", code=2)
    assert "coresetdb featurize" in err and "trim" in err


def test_what_a_target_is_too_small_for_is_said(run):
    out, _ = run("target", "add", "pool", "pair", "pair.jsonl")
    assert "nait cannot use it: a direction needs at least 3 examples" in out
    _, err = run("select", "pool", "pair", "--method", "nait", "--budget", "3", code=2)
    assert "target 'pair'" in err and "at least 3 examples" in err
    run("select", "pool", "pair", "--method", "rds", "--budget", "3")


def test_a_target_is_copied_to_another_store(run):
    out, err = run("target", "copy", "pool", "sums", "other", "--as", "adding")
    assert out.startswith("adding: copied 4 examples, with nait\n")
    assert "losses was not copied" in out
    assert "coresetdb select other adding --method nait --budget 1000" in err  # it has no rds
    found = []
    for store, target in (("pool", "sums"), ("other", "adding")):
        out, _ = run("select", store, target, "--method", "nait", "--budget", "9", "--json")
        found.append(json.loads(out)["ids"])
    assert found[0] == found[1]
    run("target", "copy", "pool", "sums", "other", "--as", "adding", code=2)
    _, err = run("target", "copy", "pool", "nobody", "other", code=2)
    assert "targets: sums" in err

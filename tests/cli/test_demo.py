"""The demo, whole: what it prints, and that a trainer can read what it leaves."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


def run_demo(folder: Path) -> str:
    command = [sys.executable, "-c", "from coresetdb.cli.main import main; main()", "demo"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_demo_selects_what_each_target_is_about(tmp_path, repository, monkeypatch, capsys):
    said = run_demo(tmp_path)
    assert "sample: read 3,000: 3,000 new, 0 duplicate, 0 rejected" in said
    for target, source, share in (
        ("grade_school_math", "gsm8k", 0.5),
        ("python_functions", "mbpp_train", 0.5),
    ):
        lines = (tmp_path / f"coresetdb-demo/{target}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == 150
        for row in rows:
            roles = [turn["role"] for turn in row["messages"]]
            assert roles[-1] == "assistant" and set(roles) <= {"system", "user", "assistant"}
            assert all(turn.keys() == {"role", "content"} for turn in row["messages"])
        assert source in said
        pool = {row["id"]: row["source"] for row in pool_of(tmp_path)}
        picked = [pool[row["id"]] for row in rows]
        assert picked.count(source) / len(picked) >= share
    again = run_demo(tmp_path)
    assert "sample: read 3,000: 0 new, 3,000 duplicate, 0 rejected" in again

    monkeypatch.chdir(tmp_path)
    follow_the_readme(repository, capsys)
    assert (tmp_path / "math.jsonl").exists() and (tmp_path / "report.html").exists()


def follow_the_readme(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paste every command of the README that is about the demo's pool."""
    from coresetdb.cli.main import main

    text = (repository / "README.md").read_text(encoding="utf-8")
    pasted = re.findall(r"^    coresetdb (.*coresetdb-demo/pool.*)$", text, re.MULTILINE)
    pasted.remove("explore coresetdb-demo/pool")  # stays open: tests/explorer
    assert len(pasted) > 5
    for command in pasted:
        with pytest.raises(SystemExit) as left:
            main(shlex.split(command))
        said = capsys.readouterr()
        assert not left.value.code, (command, said.err)


def pool_of(folder: Path) -> list[dict[str, str]]:
    import coresetdb

    database = coresetdb.connect(str(folder / "coresetdb-demo/pool"))
    return database.sql("SELECT id, source FROM pool").read_all().to_pylist()

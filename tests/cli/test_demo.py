"""The demo: what it prints, and that a trainer can read what it leaves."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers.warm_processes import WarmParent

from coresetdb.ingest.sources import open_source
from coresetdb.schemas.instruction import Instruction

DEMO = """
import sys
from pathlib import Path
from coresetdb.cli import demo
demo.DATA = Path(sys.argv.pop())
from coresetdb.cli.main import main
main()
"""
EVERY = 10
"""Of so many rows of the sample one is ingested: the others would take a minute more."""


def test_the_sample_has_3000_instructions(repository):
    rows = list(open_source(str(repository / "demo" / "pool.jsonl.gz")))
    instructions = [row.instruction for row in rows]
    assert all(isinstance(each, Instruction) for each in instructions)
    assert len(instructions) == len({each.id for each in instructions}) == 3000


@pytest.fixture
def sample(repository: Path, tmp_path: Path) -> Path:
    """The folder of the demo's data, with a part of its rows."""
    folder = tmp_path / "sample"
    folder.mkdir()
    for path in (repository / "demo").glob("*.jsonl"):
        shutil.copy(path, folder)
    with gzip.open(repository / "demo" / "pool.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = list(lines)[::EVERY]
    with gzip.open(folder / "pool.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(rows)
    return folder


def run_demo(warm: WarmParent, folder: Path, sample: Path) -> str:
    ran = warm.start(DEMO, "demo", str(sample), cwd=folder)
    out, err = ran.communicate(timeout=1200)
    assert ran.returncode == 0, err
    return out


def test_the_demo_selects_what_each_target_is_about(
    warm, sample, tmp_path, repository, monkeypatch, capsys
):
    said = run_demo(warm, tmp_path, sample)
    assert "sample: read 300: 300 new, 0 duplicate, 0 rejected" in said
    for target, source, found in (
        ("grade_school_math", "gsm8k", 30),
        ("python_functions", "mbpp_train", 18),
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
        assert list(pool.values()).count(source) >= picked.count(source) >= found
    again = run_demo(warm, tmp_path, sample)
    assert "sample: read 300: 0 new, 300 duplicate, 0 rejected" in again

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

"""Every command of the docs runs, one document after another as its reader would type it."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from helpers.docs_world import DOCUMENTS, ROOT, copy_of

from coresetdb.cli.main import main

RECORDED = {"docs/results.md": "runs of hours on real corpora, with their figures beside them"}

NOT_HERE = {
    "coresetdb init pool --backbone Qwen/": "a model from a hub",
    "coresetdb init pool --backbone HuggingFaceTB/": "a model from a hub",
    "coresetdb init pool --features fast,embed": "an encoder from a hub",
    "coresetdb init pool --features paper": "an encoder from a hub",
    "coresetdb plan pool data/*.jsonl.gz --features paper": "an encoder from a hub",
    "coresetdb featurize pool trim,less --gpus": "GPUs",
    "coresetdb ingest pool data/*.jsonl.gz --engine ray --address": "a cluster that runs",
    "coresetdb select pool gsm8k --method less --budget 1000 --engine ray": "a cluster that runs",
    "coresetdb explore ": "a page that stays open: tests/explorer",
    "$ coresetdb": "a recorded session, with what it printed",
}
"""Beginnings of commands that are not run here, and why."""

IN_THE_DEMO = "coresetdb-demo/pool"
"""The store of commands that tests/cli/test_demo.py runs after the demo."""

NAMES = {"STORE": "pool", "OTHER-STORE": "other", "CORESET": "math", "TARGET": "gsm8k",
    "A": "math", "B": "chance"}  # fmt: skip
"""What the capital words of the docs stand for."""


def commands(document: str) -> list[str]:
    """The lines of a document that are commands, in order, without what is said beside them."""
    text = (ROOT / document).read_text()
    lines = re.findall(
        r"^(?:    )?((?:\$ )?coresetdb (?!keeps).*(?:\n {8}.*)*)$", text, re.MULTILINE
    )
    return [re.split(r"[ ]{2,}#|[ ]{12,}", line)[0].strip() for line in lines]


def skipped(command: str) -> str | None:
    """Why a command is not run here; None if it is."""
    if IN_THE_DEMO in command:
        return "run after the demo"
    return next((why for start, why in NOT_HERE.items() if command.startswith(start)), None)


def words_of(command: str, row: str) -> tuple[list[str], Path | None, Path | None]:
    """The arguments, with names and patterns resolved, and where input and output stand."""
    words, streams = [], {"<": None, ">": None}
    parts = iter(shlex.split(command)[1:])
    for part in parts:
        if part in streams:
            streams[part] = Path(next(parts))
        elif part in ("ID", "3f2a8c91"):
            words.append(row if part == "ID" else row[:8])
        elif "*" in part and "/" in part:
            words += sorted(map(str, Path().glob(part)))
        else:
            words.append(NAMES.get(part, part))
    return words, streams["<"], streams[">"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_runs(document, world, first_id, tmp_path, capsys, monkeypatch):
    if document in RECORDED:
        pytest.skip(RECORDED[document])
    to_run = [each for each in commands(document) if skipped(each) is None]
    if not to_run:
        pytest.skip("no command to run")
    with copy_of(world, tmp_path / "there") as folder:
        for number, command in enumerate(to_run):
            words, read, _ = words_of(command, first_id)
            if words[0] == "init":
                words[1] = f"made-{number}"  # each of these makes a store of its own
            if words[:2] == ["target", "add"]:
                words[3] = f"added-{number}"  # a target of that name is there already
            if document != "README.md":  # which starts workers; each takes seconds to load torch
                words = ["1" if word == "auto" else word for word in words]
            with monkeypatch.context() as patch:
                if read:
                    patch.setattr(sys, "stdin", (folder / read).open())
                with pytest.raises(SystemExit) as left:
                    main(words)
            said = capsys.readouterr()
            assert not left.value.code, (command, said.out, said.err)


def test_what_is_not_run_is_there():
    everything = [each for document in DOCUMENTS for each in commands(document)]
    for start in NOT_HERE:
        assert any(each.startswith(start) for each in everything), f"no command begins {start!r}"

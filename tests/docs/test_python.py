"""Every Python block of the docs runs, one document after another as its reader would type it."""

from __future__ import annotations

import re

import pytest
from helpers.docs_world import DOCUMENTS, ROOT, copy_of

from coresetdb import connect

NOT_HERE = {
    "class AnswerMean(Representation)": "run by tests/ingest/test_documented_representation.py",
    'SELECTOR = Selector("nearest_only"': "run by tests/selection/test_documented_selector.py",
}
"""What stands in blocks that are not run here, and why."""


def blocks(document: str) -> list[str]:
    """The Python of a document, block by block."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S)


def skipped(block: str) -> str | None:
    """Why a block is not run here; None if it is."""
    return next((why for mark, why in NOT_HERE.items() if mark in block), None)


WITH_PYTHON = [each for each in DOCUMENTS if any(not skipped(block) for block in blocks(each))]


@pytest.mark.parametrize("document", WITH_PYTHON)
def test_every_block_runs(document, world, tmp_path):
    with copy_of(world, tmp_path / "there"):
        names: dict = {}
        for block in blocks(document):
            if skipped(block):
                continue
            for target in re.findall(r'add_target\("(\w+)"', block):
                connect("pool").remove_target(target)  # the world has it already
            exec(compile(block, document, "exec"), names)


def test_what_is_not_run_is_there():
    everything = "".join(block for document in DOCUMENTS for block in blocks(document))
    for mark in NOT_HERE:
        assert mark in everything, f"no block holds {mark!r}"

"""The documentation's notebook: every cell runs, and what is kept has the shape of its output."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from helpers.docs_world import ROOT, copy_of
from helpers.optional import needs

pytestmark = needs("IPython", "pip install 'coresetdb[dev]'")


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_notebook", ROOT / "docs/run_notebook.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shapes(notebook: dict) -> list[list[list[str]]]:
    """Of each cell of code the kinds of its outputs."""
    return [
        [sorted(output.get("data", {"stream": ""})) for output in cell["outputs"]]
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


def test_every_cell_runs_and_shows_what_is_kept(runner, world, tmp_path):
    kept = json.loads((ROOT / "docs/notebook.ipynb").read_text(encoding="utf-8"))
    with copy_of(world, tmp_path / "there") as folder:
        done = runner.run(kept, {"STORE": "pool", "TARGET": "gsm8k"})
        assert (folder / "notebook-near.jsonl").exists()
    assert shapes(done) == shapes(kept)
    assert shapes(kept).count([["text/html", "text/plain"]]) == 9
    text = json.dumps(kept)
    assert "3,000 rows" in text and str(Path.home()) not in text
    page = runner.as_page(done)
    assert page.count("```python") == 10 and page.count('<div class="output"') == 9
    assert "\n\n" not in page.split('<div class="output"')[1].split("</div>")[0]


def test_a_cell_that_fails_is_named(runner):
    code = {"cell_type": "code", "metadata": {}, "source": ["1 + 1"], "outputs": []}
    broken = {**code, "source": ["print('so far')\n", "1 / 0"]}
    with pytest.raises(RuntimeError, match="cell 2 failed: ZeroDivisionError"):
        runner.run({"cells": [code, broken]})
    [cell] = runner.run({"cells": [{**code, "source": ["print('said')\n", "2 + 2"]}]})["cells"]
    assert [output.get("text") or output["data"] for output in cell["outputs"]] == [
        ["said\n"],
        {"text/plain": ["4"]},
    ]

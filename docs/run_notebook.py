"""Run the notebook of the documentation, and keep what its cells show: `make notebook`.

    python docs/run_notebook.py [NOTEBOOK]

Runs docs/notebook.ipynb in the current folder, from the top, in a fresh IPython; a cell that fails
ends it, and the notebook stays as it was. Needs the extra [dev].
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("notebook.ipynb")


def run(notebook: Mapping[str, Any], names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a notebook with the outputs that its cells have now.

    Args:
        notebook: in the form of nbformat 4.
        names: values of names that its first cell of code assigns, in place of its own.

    Raises:
        RuntimeError: a cell fails; names it and what it raised.
    """
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    cells, number = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            code = "".join(cell["source"])
            if number == 1:
                code += "".join(f"\n{name} = {value!r}" for name, value in (names or {}).items())
            cell = {**cell, "execution_count": number, "outputs": _outputs(shell, code, number)}
        cells.append(cell)
    InteractiveShell.clear_instance()
    return {**notebook, "cells": cells}


def _outputs(shell: Any, code: str, number: int) -> list[dict[str, Any]]:
    """Run a cell; what it printed, and its last expression in every form that it has."""
    said, shown = io.StringIO(), []
    shell.displayhook.flush = lambda: None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        shell.displayhook.write_output_prompt = lambda: None
        shell.displayhook.write_format_data = lambda data, metadata=None: shown.append(data)
        result = shell.run_cell(code)
    failed = result.error_before_exec or result.error_in_exec
    if failed is not None:
        raise RuntimeError(f"cell {number} failed: {type(failed).__name__}: {failed}\n{code}")
    outputs: list[dict[str, Any]] = []
    if text := said.getvalue().strip("\n"):
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(text + "\n")})
    outputs += [
        {
            "output_type": "execute_result",
            "execution_count": number,
            "metadata": {},
            "data": {kind: _lines(value) for kind, value in data.items()},
        }
        for data in shown
    ]
    return outputs


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def as_page(notebook: Mapping[str, Any]) -> str:
    """Return a notebook as a page of Markdown: its cells, each with what it shows below it."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "text/html" in data:
                # A blank line would end the HTML for Markdown.
                html = "".join(data["text/html"]).replace("\n\n", "\n&#8203;\n")
                parts.append(f'<div class="output" style="overflow-x: auto">{html}</div>')
            else:
                plain = output.get("text") or data["text/plain"]
                parts.append(f"```text\n{''.join(plain).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run the notebook and write it."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOK
    done = run(json.loads(path.read_text(encoding="utf-8")))
    text = json.dumps(done, indent=1, ensure_ascii=False)
    text = text.replace(f"{Path.cwd()}/", "")  # whose folder it was is nobody's business
    path.write_text(text + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()

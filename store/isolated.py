"""Reading what may be damaged in a process of its own, with bounded memory and time.

A flipped byte in a page of text can make Lance abort the process or ask for 24 GB. So bytes that
no checksum vouches for are read here: `python -m coresetdb.store.isolated` takes one request as
JSON on stdin and answers with JSON on stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from .place import Place

MEMORY_BYTES = 8 << 30  # of address space; Lance's threads reserve a good part without using it
TIME_SECONDS = 120.0


def readable(
    place: Place, table: str, version: int, fragments: Sequence[int] | None = None
) -> str | None:
    """Why a version (or some fragments of it) cannot be read to the end, or None when it can."""
    answer = _ask(place, table, version, fragments, columns=None)
    return answer if isinstance(answer, str) else None


def keys(place: Place, table: str, version: int, fragment: int, column: str) -> list[str]:
    """What one column of a damaged fragment still tells; nothing when it cannot be read."""
    answer = _ask(place, table, version, [fragment], columns=[column])
    return [] if isinstance(answer, str) else answer


def _ask(
    place: Place,
    table: str,
    version: int,
    fragments: Sequence[int] | None,
    columns: list[str] | None,
) -> Any:
    request = {
        "uri": place.table_uri(table),
        "options": place.options,
        "version": version,
        "fragments": None if fragments is None else list(fragments),
        "columns": columns,
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "coresetdb.store.isolated"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=TIME_SECONDS,
            env={**environment, "LANCE_LOG": "error"},
        )
    except subprocess.TimeoutExpired:
        return f"reading it took longer than {TIME_SECONDS:.0f} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"reading it ended the process ({done.returncode}): {last[:200]}"
    answer = json.loads(done.stdout)
    return answer.get("error") or answer["keys"]


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    import lance

    try:
        dataset = lance.dataset(
            request["uri"], version=request["version"], storage_options=request["options"]
        )
        parts = dataset.get_fragments()
        if request["fragments"] is not None:
            parts = [part for part in parts if part.fragment_id in request["fragments"]]
        columns, found = request["columns"], []
        scanner = dataset.scanner(columns=columns, fragments=parts, batch_size=512)
        for batch in scanner.to_batches() if parts else ():
            if columns:
                found += batch.column(0).to_pylist()
    except BaseException as error:  # a panic inside Lance is no Exception
        return {"error": (str(error).splitlines() or [type(error).__name__])[0][:200]}
    return {"keys": found}


if __name__ == "__main__":
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps(_serve(json.load(sys.stdin))))

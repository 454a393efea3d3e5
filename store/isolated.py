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


def unopenable(place: Place, table: str, versions: Sequence[int]) -> dict[int, str]:
    """Those of the versions whose manifest cannot be read, and why."""
    waiting, bad = list(versions), {}
    while waiting:
        answers, problem = _ask(place, table, [{"version": v, "fragments": []} for v in waiting])
        bad |= {v: a["error"] for v, a in zip(waiting, answers, strict=False) if "error" in a}
        waiting = waiting[len(answers) :]
        if waiting and problem:
            bad[waiting.pop(0)] = problem
    return bad


def unreadable(place: Place, table: str, version: int, fragments: Sequence[int]) -> dict[int, str]:
    """Those fragments of a version that cannot be read to the end, and why."""
    waiting, bad = list(fragments), {}
    while waiting:
        requests = [{"version": version, "fragments": [number]} for number in waiting]
        answers, problem = _ask(place, table, requests)
        bad |= {n: a["error"] for n, a in zip(waiting, answers, strict=False) if "error" in a}
        waiting = waiting[len(answers) :]
        if waiting and problem:
            bad[waiting.pop(0)] = problem
    return bad


def keys(place: Place, table: str, version: int, fragment: int, column: str) -> list[str]:
    """What one column of a damaged fragment still tells; nothing when it cannot be read."""
    request = {"version": version, "fragments": [fragment], "column": column}
    answers, _ = _ask(place, table, [request])
    return answers[0].get("keys", []) if answers else []


def _ask(
    place: Place, table: str, requests: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], str | None]:
    """Answers in order, as far as the process got, and what ended it before the last."""
    task = {"uri": place.table_uri(table), "options": place.options, "requests": requests}
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "LANCE_LOG": "error",
    }
    problem = None
    try:
        done = subprocess.run(
            [sys.executable, "-m", "coresetdb.store.isolated"],
            input=json.dumps(task).encode(),
            capture_output=True,
            timeout=TIME_SECONDS,
            env=environment,
        )
        output = done.stdout
        if done.returncode:
            last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            problem = f"reading it ended the process ({done.returncode}): {last[:200]}"
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
        problem = f"reading it took longer than {TIME_SECONDS:.0f} s"
    lines = [line for line in output.split(b"\n")[:-1] if line]
    return [json.loads(line) for line in lines], problem


def _serve(uri: str, options: dict[str, str], request: dict[str, Any]) -> dict[str, Any]:
    import lance

    try:
        dataset = lance.dataset(uri, version=request["version"], storage_options=options)
        wanted, column, found = set(request["fragments"]), request.get("column"), []
        parts = [part for part in dataset.get_fragments() if part.fragment_id in wanted]
        scanner = dataset.scanner(
            columns=[column] if column else None, fragments=parts, batch_size=512
        )
        for batch in scanner.to_batches() if parts else ():
            if column:
                found += batch.column(0).to_pylist()
    except BaseException as error:  # a panic inside Lance is no Exception
        return {"error": (str(error).splitlines() or [type(error).__name__])[0][:200]}
    return {"keys": found}


def _main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    task = json.load(sys.stdin)
    for request in task["requests"]:
        print(json.dumps(_serve(task["uri"], task["options"], request)), flush=True)


if __name__ == "__main__":
    _main()

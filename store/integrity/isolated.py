"""Reading what may be damaged in a process of its own, with bounded memory and time.

A flipped byte in a page of text can make Lance abort the process or ask for 24 GB. So bytes that
no checksum vouches for are read here: `python -m coresetdb.store.integrity.isolated` takes
requests as lines of JSON on stdin and answers each with a line on stdout. A process that dies is
named as the answer, and the next request gets a new one.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from ...schemas.child_process import hide_pandas
from ...schemas.errors import StoreError
from ...schemas.plain_text import first_line
from ..place import Place, out_of_reach

MEMORY_BYTES = 8 << 30  # of address space; Lance's threads reserve a good part without using it
TIME_SECONDS = 120.0  # for one answer


class Reader:
    """Reads tables of one store elsewhere; started when first asked. A context manager."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._child: subprocess.Popen[bytes] | None = None
        self._talk = tempfile.TemporaryFile()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._talk.close()

    def unopenable(self, table: str, versions: Sequence[int]) -> dict[int, str]:
        """Those of the versions whose manifest cannot be read, and why."""
        answers = {v: self._ask(table, {"version": v, "fragments": []}) for v in versions}
        return {v: answer["error"] for v, answer in answers.items() if "error" in answer}

    def unreadable(self, table: str, version: int, fragments: Sequence[int]) -> dict[int, str]:
        """Those fragments of a version that cannot be read to the end, and why."""
        answers = {n: self._ask(table, {"version": version, "fragments": [n]}) for n in fragments}
        return {n: answer["error"] for n, answer in answers.items() if "error" in answer}

    def keys(self, table: str, version: int, fragment: int, column: str) -> list[str]:
        """What one column of a damaged fragment still tells; nothing when it cannot be read."""
        request = {"version": version, "fragments": [fragment], "column": column}
        return self._ask(table, request).get("keys", [])

    def _ask(self, table: str, request: dict[str, Any]) -> dict[str, Any]:
        place = self._place
        task = {"uri": place.table_uri(table), "options": place.options, **request}
        child = self._child or self._start()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(task).encode() + b"\n")
            child.stdin.flush()
            if select.select([child.stdout], [], [], TIME_SECONDS)[0]:
                if line := child.stdout.readline():
                    answer = json.loads(line)
                    if out_of_reach(answer.get("error", "")):  # says nothing about the bytes
                        raise StoreError(f"{place.uri}: cannot be read: {answer['error']}")
                    return answer
                problem = "reading it ended the process"
            else:
                problem = f"reading it took longer than {TIME_SECONDS:.0f} s"
        except BrokenPipeError:
            problem = "reading it ended the process"
        self._stop()
        self._talk.seek(0)
        last = self._talk.read().decode(errors="replace").strip().splitlines()[-1:]
        return {"error": f"{problem} ({child.returncode}) {''.join(last)[:200]}".rstrip()}

    def _start(self) -> subprocess.Popen[bytes]:
        search = os.pathsep.join(filter(None, sys.path))
        self._talk.seek(0)
        self._talk.truncate()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "coresetdb.store.integrity.isolated"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._talk,
            env={**os.environ, "PYTHONPATH": search, "LANCE_LOG": "error"},
        )
        return self._child

    def _stop(self) -> None:
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # it died with a request unread
                    continue
        self._child = None


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    import lance

    try:
        dataset = lance.dataset(
            request["uri"], version=request["version"], storage_options=request["options"]
        )
        wanted, column, found = set(request["fragments"]), request.get("column"), []
        parts = [part for part in dataset.get_fragments() if part.fragment_id in wanted]
        columns = [column] if column else None
        scanner = dataset.scanner(columns=columns, fragments=parts, batch_size=512)
        for batch in scanner.to_batches() if parts else ():
            if column:
                found += batch.column(0).to_pylist()
    except BaseException as error:  # a panic inside Lance is no Exception
        return {"error": first_line(error)}
    return {"keys": found}


def _main() -> None:
    import resource

    hide_pandas()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), flush=True)


if __name__ == "__main__":
    _main()

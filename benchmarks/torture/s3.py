"""Commands on a store whose S3 is slow, breaks off and lies."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.request import Request, urlopen

from helpers import faulty_s3
from helpers.faulty_s3 import CONTROL, KINDS
from kills import look, other_files
from processes import UNEXPECTED, Run, type_in
from world import COMMANDS, NEW_STORE, REMOTE, World

PASSED_OVER = ("report", "evaluate", "target copy", "fit")
"""Commands whose work is elsewhere, or whose other store is."""

_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
_SHARES = (0.02, 0.1, 0.3)


class Server:
    """A moto server and the proxy before it, in a process of their own, once it is needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.direct = self.faulty = ""

    def begin(self) -> None:
        """Start both, unless they run."""
        if self._process is not None:
            return
        self._process = subprocess.Popen(
            [sys.executable, str(Path(faulty_s3.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.direct, self.faulty = json.loads(self._process.stdout.readline())

    def set_faults(self, kinds: tuple[str, ...], share: float, seed: int) -> dict[str, int]:
        """Make such faults from now on; gives back how many of each kind were made so far."""
        with urlopen(f"{self.faulty}{CONTROL}") as answer:
            made = json.loads(answer.read())
        asked = json.dumps({"kinds": kinds, "share": share, "seed": seed}).encode()
        with urlopen(Request(f"{self.faulty}{CONTROL}", asked)):
            return made

    def put(self, folder: Path | None) -> str:
        """Copy a store there, or none; its address."""
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        self._put(f"/{bucket}", b"")
        for path in folder.rglob("*") if folder else ():
            if path.is_file() and path.name != "_lock":
                self._put(f"/{bucket}/pool/{path.relative_to(folder)}", path.read_bytes())
        return f"s3://{bucket}/pool"

    def _put(self, path: str, data: bytes) -> None:
        headers = {"Content-Type": "application/octet-stream"}  # else moto reads it as a form
        with urlopen(Request(self.direct + path, data, headers, method="PUT"), timeout=60):
            pass

    def end(self) -> None:
        """End both, if they run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def mislead(
    world: World, server: Server, name: str, kinds: tuple[str, ...], draw: random.Random
) -> str:
    """Run a command behind such an S3; then again behind a good one."""
    server.begin()
    _, out = world.fresh()
    new = name in NEW_STORE
    uri = server.put(None if new else world.base)
    words = world.words((COMMANDS | REMOTE)[name], uri, out)
    log = world.folder / "case.log"
    share = draw.choice(_SHARES)
    server.set_faults(kinds, share, draw.randrange(1 << 30))
    run = Run(lambda: _type(words, server.faulty, world.folder), log)
    first = run.wait()
    made = server.set_faults((), 0.0, 0)
    said = run.said
    where = f"{name}, {share:.0%}, {made}"
    if first < 0:
        return f"{where}: it did not end: {said[-600:]}"
    if first == UNEXPECTED or "Traceback" in said:
        return f"{where}: it ended with {first}: {said[-900:]}"
    noise = [line for line in said.splitlines() if "WARN" in line or "object_store" in line]
    if any("Error:" not in line for line in noise):
        return f"{where}: it let retries out: {noise[:3]}"
    found_damage = name == "verify" and "DAMAGED" in said  # what it was given is not what is there
    if first and not found_damage and said.count("Error:") != 1:
        return f"{where}: it ended with {first}, and not in a sentence: {said[-600:]}"
    if first:
        again = Run(lambda: _type(words, server.direct, world.folder), log)
        if (code := again.wait()) not in (0, 2):
            return f"{where}: {said[-300:]}; typed again, it ended with {code}: {again.said[-600:]}"
    expected = world.expected(name)
    for key, value in {**_KEYS, "AWS_ENDPOINT_URL": server.direct}.items():
        os.environ[key] = value
    if why := look(world, uri, expected.contents, compact=True, new=new):
        return f"{where} ({first}): {said[-200:]}: {why}"
    if wrong := other_files(out, expected.files, Path(uri)):
        return f"{where} ({first}): {wrong}"
    if not made:
        return "ok, met no fault"
    return "ok, said it and was done when typed again" if first else "ok, went on"


def _type(words: list[str], endpoint: str, folder: Path) -> None:
    os.environ.update({**_KEYS, "AWS_ENDPOINT_URL": endpoint})
    type_in(words, folder)


ALONE = tuple((kind,) for kind in KINDS)
"""Every kind of fault by itself, and below all that S3 itself may do."""

TOGETHER = ("delay", "reset", "reset after", "half a body", "500", "503", "SlowDown")

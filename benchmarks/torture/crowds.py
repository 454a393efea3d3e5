"""Several processes that write into one store at once, and a disk that is full."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kills import look, other_files
from processes import UNEXPECTED, Run, type_in
from world import COMMANDS, World

_TOGETHER = ("ingest", "featurize", "select", "score", "compact")
_MORE = (
    "annotate", "target add", "remove", "coreset import", "vectors add", "dedup", "export",
    "score remove", "corpus rename", "target remove", "restore",
)  # fmt: skip
_PARTS = ("part1", "part1", "part2")


def crowd(world: World, draw: random.Random) -> str:
    """Let eight commands run at once; those that found the store busy are typed again."""
    store, out = world.fresh()
    lines = [COMMANDS[name] for name in (*_TOGETHER, *draw.sample(_MORE, 2))]
    lines += [f"ingest STORE FILES/{part}.jsonl" for part in _PARTS[1:]]
    draw.shuffle(lines)
    waiting = lines
    for attempt in range(6):
        runs = []
        for number, line in enumerate(waiting):
            words = world.words(line, store, out)
            log = world.folder / f"crowd{number}.log"
            runs.append((line, Run(lambda words=words: type_in(words, world.folder), log)))
            time.sleep(draw.uniform(0, 0.4) if not attempt else 0)
        waiting = []
        for line, run in runs:
            code = run.wait()
            if code == UNEXPECTED or code < 0:
                return f"{line} ended with {code}: {run.said[-900:]}"
            if code and attempt == 5:
                return f"{line} was refused six times ({code}): {run.said[-300:]}"
            if code and not _refusal(run.said):
                return f"{line} ended with {code}: {run.said[-300:]}"
            if code:
                waiting.append(line)
        if not waiting:
            break
    if why := look(world, store, None, compact=True):
        return why
    return missing_rows(world, store, ("part0", "part1", "part2")) or "ok"


def _refusal(said: str) -> bool:
    """Whether a command was told to wait for others, or was too late for one of them."""
    words = (
        "another process",
        "is writing",
        "busy",
        "being featurized",
        "Try again",
        "run it again",
    )
    return any(word in said for word in words)


def missing_rows(world: World, store: Path, parts: tuple[str, ...]) -> str:
    """Which rows of these files are neither in the pool nor removed, or lack a feature."""

    def inspect() -> None:
        import json

        import coresetdb
        from coresetdb.store import removal

        db = coresetdb.connect(str(store)).store
        table = db.dataset("pool").to_table(columns=["messages", "rds", "rds_reason"]).to_pylist()
        texts = {row["messages"][0]["content"] for row in table}
        count = sum(1 for _ in removal.tombstones(db))
        rows = [
            json.loads(line)["messages"][0]["content"]
            for part in parts
            for line in (world.files / f"{part}.jsonl").read_text().splitlines()
        ]
        assert len(table) == len(texts), "rows are there twice"
        missing = set(rows) - texts
        assert len(missing) == count, f"{len(missing)} rows are missing, {count} were removed"
        assert all(row["rds"] or row["rds_reason"] for row in table), "rows lack a feature"

    run = Run(inspect, world.folder / "look.log")
    return "" if not run.wait() else run.said[-600:]


# -- a full disk ----------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of its own of that size, on a machine that allows it.

    Raises:
        PermissionError: it does not.
    """
    folder.mkdir(exist_ok=True)
    options = f"size={kilobytes}k"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        raise PermissionError(done.stderr.decode())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(world: World, name: str, draw: random.Random) -> str:
    """Let the disk be full after some more bytes; then there is room again."""
    disk = world.folder / "disk"
    with small_disk(disk, 64 << 10) as room:
        store, out = world.fresh(room)
        used = os.statvfs(room)
        full = (used.f_blocks - used.f_bfree) * used.f_frsize >> 10
        more = int(draw.choice((0, 8, 30, 80, 200)) * draw.uniform(0.5, 1.5))
        _resize(room, full + more)
        words = world.words(COMMANDS[name], store, out)
        scratch = world.folder / "tmp"
        scratch.mkdir(exist_ok=True)
        run = Run(lambda: type_in(words, world.folder), world.folder / "case.log", None, scratch)
        first = run.wait()
        said = run.said
        _resize(room, 64 << 10)
        return _after(world, name, words, store, out, first, said, f"{more} kB")


def limited_files(world: World, name: str, draw: random.Random) -> str:
    """Let no file become larger than a limit; then they may again."""
    store, out = world.fresh()
    words = world.words(COMMANDS[name], store, out)
    limit = draw.choice((0, 200, 1000, 5000, 20_000))

    def bounded() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            type_in(words, world.folder)
        finally:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)

    run = Run(bounded, world.folder / "case.log")
    first = run.wait()
    return _after(world, name, words, store, out, first, run.said, f"files of {limit} bytes")


def _resize(room: Path, kilobytes: int) -> None:
    options = f"remount,size={kilobytes}k"
    subprocess.run(["mount", "-o", options, str(room)], check=True)


def _after(
    world: World,
    name: str,
    words: list[str],
    store: Path,
    out: Path,
    first: int,
    said: str,
    room: str,
) -> str:
    if first == UNEXPECTED or first < 0 or "Traceback" in said:
        return f"{room}: it ended with {first}: {said[-900:]}"
    if first and "Error" not in said:
        return f"{room}: it ended with {first} and did not say why: {said[-600:]}"
    if why := look(world, store, None):
        return f"{room}; with room again: {why}"
    expected = world.expected(name)
    if first:
        run = Run(lambda: type_in(words, world.folder), world.folder / "case.log")
        if (code := run.wait()) not in (0, 2):
            return f"{room}: {said[-300:]}; typed again, it ended with {code}: {run.said[-900:]}"
    if why := look(world, store, expected.contents, compact=True):
        return f"{room}; typed again: {why}"
    if wrong := other_files(out, expected.files, store):
        return f"{room}; typed again: {wrong}"
    return "ok, said it" if first else "ok, had room"

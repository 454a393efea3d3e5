"""Commands that are killed, at a random moment or at a change of a file, and typed again."""

from __future__ import annotations

import os
import pickle
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from contents import contents, differences, leftovers
from damage import files_of, hurt
from helpers.killing import watched_changes
from processes import Run, type_in
from world import COMMANDS, Expected, World

_ROOM = re.compile(rb"[^\s\"']*/(case|undisturbed|disk)/")
"""Where a case lies, which snippets for trainers name."""

TIMES = 3
"""That a command is killed, at most, before it may end."""


def kill(world: World, name: str, draw: random.Random) -> str:
    """Kill a command, look, type it again and kill it again; at last let it end and compare.

    Every second kill comes at a change of a file, the others at any moment.
    """
    repairing = name.startswith("repair")
    expected = None if repairing else world.expected(name)
    store, out = world.fresh()
    words = world.words(COMMANDS[name], store, out)
    scratch = empty(world.folder / "tmp")
    log = world.folder / "case.log"
    if repairing:
        kinds = [kind for kind in sorted(files_of(store)) if kind.startswith("data of")]
        hurt(store, draw.choice(files_of(store)[draw.choice(kinds)]), "flip", draw)
        expected = _undisturbed(world, store, words, log)
    assert expected is not None
    killed: list[str] = []
    at_step = draw.random() < 0.5
    for _ in range(TIMES):
        at_step = not at_step
        step = draw.randrange(1, expected.moments + 1) if at_step and expected.moments else None
        run = Run(lambda step=step: type_in(words, world.folder), log, step, scratch)
        code = run.wait(None if at_step else draw.uniform(0.0, expected.seconds))
        where = (
            f"killed {[*killed, f'change {step} of {expected.moments}' if step else 'somewhere']}"
        )
        if orphans := run.orphans():
            return f"{where}: processes were left behind: {orphans}"
        if code != -signal.SIGKILL:
            break
        killed.append(f"change {step}" if step else "somewhere")
        if why := look(world, store, None, damaged=repairing):
            return f"{where}: {why}"
        for path in out.iterdir():  # what is there under its own name is whole
            theirs = expected.files.get(path.name)
            if theirs is not None and not same_file(path.read_bytes(), theirs, store):
                return f"{where}: {path.name} is half written"
        for path in scratch.iterdir():  # it is removed when nobody can be about to lock it
            os.utime(path, (time.time() - 3600,) * 2)
    else:
        run = Run(lambda: type_in(words, world.folder), log, None, scratch)
        code = run.wait()
    where = f"killed {killed}"
    if not killed and code == 0:
        return "ok, done before any kill came"
    allowed = (0, 1) if repairing else (0, 2)  # 2: it was done, to the last trace
    if code not in allowed or "Traceback" in run.said:
        return f"{where}; typed again, it ended with {code}: {run.said[-900:]}"
    damaged = repairing and code == 1
    if why := look(world, store, expected.contents, compact=True, damaged=damaged):
        return f"{where}; typed again ({code}): {why}"
    if code == 0 and (wrong := other_files(out, expected.files, store)):
        return f"{where}; typed again: {wrong}"
    if left := sorted(path.name for path in scratch.iterdir()):
        return f"{where}; left in the folder for temporary files: {left}"
    return f"ok, killed {len(killed)} times"


def _undisturbed(world: World, store: Path, words: list[str], log: Path) -> Expected:
    """What a repair of this damaged store comes to."""
    hurt_store = store.with_name("hurt")
    shutil.rmtree(hurt_store, ignore_errors=True)
    shutil.copytree(store, hurt_store)
    result = world.folder / "undisturbed.pickle"

    def work() -> None:
        start = time.process_time()
        with watched_changes(lambda reached: None) as moments:
            try:
                type_in(words, world.folder)
            except SystemExit as end:
                if end.code not in (0, 1):
                    raise
        seconds = time.process_time() - start
        found = Expected(contents(str(store)), {}, seconds, len(moments))
        result.write_bytes(pickle.dumps(found))

    run = Run(work, log)
    if code := run.wait():
        raise RuntimeError(f"an undisturbed repair ended with {code}: {run.said}")
    shutil.rmtree(store)
    hurt_store.rename(store)
    return pickle.loads(result.read_bytes())


def look(
    world: World,
    store: Path | str,
    expected: dict[str, Any] | None,
    *,
    compact: bool = False,
    damaged: bool = False,
    new: bool = False,
) -> str:
    """ "" where a store is whole and holds what is expected; else why not.

    Args:
        expected: what it holds, or None: only that no row of the base is gone.
        compact: clean it as well, and look for files that stay.
        damaged: a repair was at it: `verify` may say what is wrong.
        new: it was made just now, and not copied from the base.
    """
    base = {"pool": {}, "removed": {}} if new else world.base_contents()

    def inspect() -> None:
        import coresetdb

        report = coresetdb.verify(str(store), full=True)
        said = "\n".join(report.lines())
        assert damaged or report.ok, f"verify: {said}"
        if not report.ok:
            assert said
            return
        found = contents(str(store))
        ids = {*found["pool"], *found["removed"]}
        lost = {*base["pool"], *base["removed"]} - ids
        assert damaged or not lost, f"{len(lost)} rows are lost"
        assert not {*found["pool"]} & {*found["removed"]}, "a removed row is in the pool"
        if expected is not None:
            different = differences(found, expected)
            assert not different, f"not as undisturbed: {different}"
        if compact:
            coresetdb.connect(str(store)).compact(0)
            report = coresetdb.verify(str(store), full=True)
            assert report.ok, "after compact, verify: " + "\n".join(report.lines())
            assert not report.orphans, f"files that nothing needs stay: {report.orphans}"
            assert not report.late, f"compact left files without a checksum: {report.late}"
            if isinstance(store, Path):
                assert not (left := leftovers(store)), f"files that nothing needs stay: {left}"
            again = contents(str(store))
            assert not differences(again, found), "compact changed what is in it"

    run = Run(inspect, world.folder / "look.log")
    return "" if not run.wait() else run.said.strip()[-700:]


def other_files(out: Path, files: dict[str, bytes], store: Path) -> str:
    """In what the files that a command wrote differ from those it should have."""
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    if found.keys() != files.keys():
        return f"it wrote {sorted(found)} instead of {sorted(files)}"
    other = [name for name in found if not same_file(found[name], files[name], store)]
    return f"it wrote other bytes into {other}" if other else ""


def same_file(ours: bytes, theirs: bytes, store: Path) -> bool:
    """Whether a file is what was expected: to the byte where it names no times or versions."""
    if b"created" in theirs or b"<html" in theirs[:200].lower():
        return abs(len(ours) - len(theirs)) < 200 and ours[-20:].strip() == theirs[-20:].strip()
    return _ROOM.sub(b"", ours) == _ROOM.sub(b"", theirs)


def empty(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder

"""Every kind of file of a store, damaged in every kind of way."""

from __future__ import annotations

import json
import random
import shlex
import sys
from pathlib import Path

from contents import contents, differences
from processes import Run, type_in
from world import World

WAYS = ("flip", "one bit", "cut", "zero", "empty", "gone", "swap")

_KINDS = {
    "_versions": "manifest",
    "_refs": "tag",
    "_deletions": "deletions",
    "_indices": "index",
    "_transactions": "transaction",
    "data": "data",
}


def files_of(store: Path) -> dict[str, list[Path]]:
    """Kind of file -> those that there are; newest manifests, whose loss costs most, apart."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(store.rglob("*")):
        if not path.is_file() or not path.stat().st_size:
            continue
        parts = path.relative_to(store).parts
        if parts[0].endswith(".lance"):
            kind = f"{_KINDS.get(parts[1], parts[1])} of {parts[0][:-6]}"
            newest = min((store / parts[0] / "_versions").glob("*.manifest"))  # numbered downwards
            if path == newest:
                kind = f"newest {kind}"
        elif parts[0] == "_checksums":
            kind = "seal" if parts[1].startswith("files-") else "note"
        else:
            kind = f"file in {parts[0]}"
        kinds.setdefault(kind, []).append(path)
    return kinds


def hurt(store: Path, path: Path, how: str, draw: random.Random) -> None:
    """Damage a file."""
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: draw.randrange(1, len(data))])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "zero":
        path.write_bytes(bytes(len(data)))
    elif how == "one bit":
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
    elif how == "swap":
        others = [each for each in store.rglob(f"*{path.suffix}") if each.is_file()]
        others = [each for each in others if each.read_bytes() != data]
        if not others:
            path.write_bytes(data[::-1])
            return
        other = draw.choice(sorted(others))
        theirs = other.read_bytes()
        other.write_bytes(data)
        path.write_bytes(theirs)
    else:
        start = draw.randrange(len(data))
        for at in range(start, min(start + 64, len(data))):
            data[at] ^= draw.randrange(1, 256)
        path.write_bytes(data)


READING = (
    "status STORE",
    "status STORE --verbose",
    "coreset list STORE",
    "coreset show STORE kept",
    "coreset replay STORE kept",
    "target list STORE",
    "score list STORE",
    "feature list STORE",
    "evaluate list STORE",
    "index list STORE",
    "annotation list STORE",
    "methods STORE",
    "explain STORE kept 1",
    "remove STORE --list",
    "export STORE kept --out OUT/kept.jsonl",
    "sql STORE 'SELECT count(*) FROM pool'",
    "sql STORE 'SELECT * FROM coreset_rows'",
    "select STORE t --budget 4 --no-save --leakage off",
)
WRITING = ("ingest STORE FILES/part1.jsonl", "select STORE t --budget 4 --leakage off --name more")


def damage(world: World, kind: str, how: str, draw: random.Random) -> str:
    """Damage a file of a kind; read and write; verify; repair; compare with what was there."""
    from kills import look  # which damages stores as well

    store, out = world.fresh()
    file = draw.choice(files_of(store)[kind])
    hurt(store, file, how, draw)
    where = file.relative_to(store)
    log = world.folder / "case.log"
    read = Run(lambda: _each(world, READING, store, out), log)
    if code := read.wait():
        return f"{where}: reading ended with {code}: {read.said[-900:]}"
    checked = Run(lambda: _verified(store, world.folder / "verified.json"), log)
    if code := checked.wait():
        return f"{where}: verify ended with {code}: {checked.said[-900:]}"
    _, found = json.loads((world.folder / "verified.json").read_text())
    if not found:  # then nothing that anyone needs was hurt
        why = look(world, store, world.base_contents(), compact=True)
        return f"{where}: verify found nothing, and {why}" if why else "ok, needed by nobody"
    mended = Run(lambda: type_in(["verify", str(store), "--repair"], world.folder), log)
    code, said = mended.wait(), mended.said
    if code not in (0, 1) or "Traceback" in said:
        return f"{where}: repair ended with {code}: {said[-900:]}"
    again = Run(lambda: _verified(store, world.folder / "verified.json"), log)
    if again.wait():
        return f"{where}: verify after repair: {again.said[-900:]}"
    whole, found = json.loads((world.folder / "verified.json").read_text())
    different = _different(world, store)
    if different.startswith("!"):
        return f"{where}: after repair ({code}): {different[1:]}; {said[-300:]}"
    tables = different.split()
    silent = [table for table in tables if not _named(table, said)]
    if silent:
        return f"{where}: {silent} are other than they were, and repair does not say so: {said}"
    if code == 0 and tables and not all(_named(table, said) for table in tables):
        return f"{where}: repair says that all is well, and {tables} are other: {said[-600:]}"
    if code == 1 and not found and not tables:
        return f"{where}: repair says that something is left to do, and verify does not: {said}"
    writing = Run(lambda: _each(world, WRITING, store, out), log)
    if code := writing.wait():
        return f"{where}: writing after repair ended with {code}: {writing.said[-900:]}"
    if whole and (why := _sound(world, store)):
        return f"{where}: after repair and writing: {why}"
    return "said what is lost" if tables else "ok, mended" if whole else "said what to do"


def _each(world: World, lines: tuple[str, ...], store: Path, out: Path) -> None:
    """Type lines one after the other; whatever ends in anything but a sentence ends this."""
    for line in lines:
        code = 0
        try:
            type_in(shlex.split(" ".join(world.words(line, store, out))), world.folder)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 70
        if code not in (0, 1, 2):
            print(f"{line}: {code}")
            sys.exit(code)


def _verified(store: Path, result: Path) -> None:
    import coresetdb

    report = coresetdb.verify(str(store), full=True)
    found = [
        *map(str, report.damages),
        *map(str, report.contradictions),
        *map(str, report.interrupted),
        *(loss.sentence for loss in report.losses),
        *(row.id for row in report.lost),
        *(row.id for row in report.pending),
    ]
    result.write_text(json.dumps([report.ok, found + ([] if report.ok else report.lines())]))


def _different(world: World, store: Path) -> str:
    """The tables that hold other things than the base, with blanks between; "!" and why not."""
    base = world.base_contents()
    found = world.folder / "different.txt"
    run = Run(
        lambda: found.write_text(" ".join(differences(contents(str(store)), base))),
        world.folder / "look.log",
    )
    return found.read_text() if not run.wait() else f"!{run.said[-600:]}"


def _sound(world: World, store: Path) -> str:
    def inspect() -> None:
        import coresetdb

        report = coresetdb.verify(str(store), full=True)
        assert report.ok, "\n".join(report.lines())

    run = Run(inspect, world.folder / "look.log")
    return "" if not run.wait() else run.said[-600:]


def _named(table: str, said: str) -> bool:
    """Whether what was said names a table, or what stands in it, as lost."""
    others = {"coreset_rows": "coreset", "evaluations": "stud", "targets": "target"}
    return table in said or others.get(table, table) in said

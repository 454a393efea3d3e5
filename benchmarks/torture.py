"""Kill, damage, fill and crowd a store, and count what is lost.

    python benchmarks/torture.py torture --seed 1
    ... --kills 200 --rounds 10 --full-disks 18 --damages 60

Every case starts from a copy of one small store, in a process of its own. Cases that are in
FOLDER/cases.jsonl already are not run again, so a run that was stopped goes on; the same seed draws
the same cases. A case fails if, after the command was typed again (or `repair` was run), `verify
--full` is not content, a row is gone or there twice, or a coreset is not as it was chosen. What a
repair says it could not bring back is no failure: it is counted as said.

Processes are forked from this one, which has loaded everything and opened nothing, so a case takes
about a second.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS, NEW = 60, 30
LONGEST_SECONDS = 300.0


# -- processes ------------------------------------------------------------------------------------


def forked(work: Callable[[], object], log: Path, kill_after: float | None = None) -> int:
    """Run work in a process of its own; its exit status, negative where a signal ended it.

    0 done, 1 an error of coresetdb's own, 2 the call was refused, 70 anything else.
    """
    return ended(begun(work, log), kill_after)


def begun(work: Callable[[], object], log: Path) -> int:
    """Start work in a process of its own; its number."""
    child = os.fork()
    if not child:
        code = 70
        try:
            with open(log, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            code = _code(work)
        finally:
            os._exit(code)
    return child


def ended(child: int, kill_after: float | None = None) -> int:
    """Wait for a process, or kill it after some seconds; its exit status, as of `forked`."""
    start = time.monotonic()
    until = LONGEST_SECONDS if kill_after is None else kill_after
    while time.monotonic() - start < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _code(work: Callable[[], object]) -> int:
    from coresetdb.schemas.errors import CoresetDBError

    try:
        work()
    except CoresetDBError as error:
        print(type(error).__name__, error)
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


# -- the store and what is done to it -------------------------------------------------------------


def make(folder: Path) -> Path:
    """The store that every case starts from, and its files."""
    store = folder / "base"
    if store.exists():
        return store
    with gzip.open(ROOT / "demo" / "pool.jsonl.gz", "rt") as file:
        lines = [line for number, line in enumerate(file) if not number % 20][: ROWS + 4 * NEW]
    for number in range(5):
        start = 0 if not number else ROWS + (number - 1) * NEW
        part = lines[start : start + (ROWS if not number else NEW)]
        (folder / f"part{number}.jsonl").write_text("".join(part))
    (folder / "examples.jsonl").write_text("".join(lines[3:40:5]))
    log = folder / "make.log"

    def build() -> None:
        import coresetdb

        db = coresetdb.create(store, features="lexical,rds", device="cpu")
        for start in range(3):
            db.ingest(str(folder / "part0.jsonl"), limit=20 * (start + 1))
        db.add_target("t", str(folder / "examples.jsonl"))
        db.select("t", budget=12, name="kept", leakage="off")
        db.select("t", method="lexical:bm25", budget=9, name="words", leakage="off")
        db.score("t", "rds")
        removed = db.sql("SELECT id FROM pool ORDER BY id LIMIT 3").read_all()["id"].to_pylist()
        db.remove(ids=removed, why="torture")

    if code := forked(build, log):
        sys.exit(f"the first store could not be made ({code}): {log.read_text()}")
    return store


def commands(folder: Path, store: str) -> dict[str, Callable[[], object]]:
    """Name -> what a user does."""
    import coresetdb

    def db():
        return coresetdb.connect(store)

    def some(table: str) -> list[str]:
        rows = db().sql(f"SELECT id FROM {table} ORDER BY id LIMIT 4 OFFSET 5").read_all()
        return rows["id"].to_pylist()

    def repair() -> None:
        done = coresetdb.repair(store)
        print("\n".join(done.lines()))

    return {
        "ingest": lambda: db().ingest(str(folder / "part1.jsonl")),
        "featurize": lambda: db().featurize("mads"),
        "select": lambda: db().select("t", budget=7, name="new", leakage="off"),
        "score": lambda: db().score("t", "lexical:bm25"),
        "compact": lambda: db().compact(0),
        "repair": repair,
        "remove": lambda: db().remove(ids=some("pool"), why="again"),
        "purge": lambda: db().remove(ids=some("pool"), purge=True),
        "target add": lambda: db().add_target("u", str(folder / "examples.jsonl")),
        "drop": lambda: db().remove_feature("rds", force=True),
    }


def check(store: str, members: dict[str, list[str]] | None, expected: set[str]) -> None:
    """Assert that a store is whole."""
    import coresetdb
    from coresetdb.store import removal

    report = coresetdb.verify(store, full=True)
    assert report.ok, "\n".join(report.lines())
    db = coresetdb.connect(store)
    pool = db.store.dataset("pool").to_table(columns=["id"])["id"].to_pylist()
    assert len(pool) == len(set(pool)), "a row is there twice"
    gone = {stone.id for stone in removal.tombstones(db.store)}
    assert not gone & set(pool), "a removed row is in the pool"
    assert expected <= gone | set(pool), f"{len(expected - gone - set(pool))} rows are lost"
    for name, ids in (members or {}).items():
        assert db.open_coreset(name).ids == ids, f"coreset {name} is another one"


def known(store: str) -> tuple[dict[str, list[str]], set[str]]:
    """Members of the coresets, and all ids, in the pool or removed."""
    import coresetdb
    from coresetdb.store import removal

    db = coresetdb.connect(store)
    pool = db.store.dataset("pool").to_table(columns=["id"])["id"].to_pylist()
    gone = {stone.id for stone in removal.tombstones(db.store)}
    names = [row["coreset"] for row in db.list_coresets()]
    return {name: db.open_coreset(name).ids for name in names}, {*pool, *gone}


# -- damage ---------------------------------------------------------------------------------------


def files_of(store: Path) -> dict[str, list[Path]]:
    """Kind of file -> those that there are."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(store.rglob("*")):
        if not path.is_file() or not path.stat().st_size:
            continue
        parts = path.relative_to(store).parts
        if parts[0].endswith(".lance") and len(parts) > 2:
            part = {"_versions": "manifest", "_refs": "tag", "_deletions": "deletions"}
            kind = part.get(parts[1], parts[1])
            if kind in ("manifest", "tag", "deletions", "data") and path.suffix != "":
                kinds.setdefault(f"{kind} of {parts[0][:-6]}", []).append(path)
        elif parts[0] == "_checksums":
            kinds.setdefault("seal" if parts[1].startswith("files-") else "note", []).append(path)
    return kinds


def hurt(path: Path, how: str, draw: random.Random) -> None:
    """Damage a file."""
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: draw.randrange(len(data))])
    else:
        start = draw.randrange(len(data))
        for at in range(start, min(start + 64, len(data))):
            data[at] ^= draw.randrange(1, 256)
        path.write_bytes(data)


# -- cases ----------------------------------------------------------------------------------------


class Torture:
    """The cases of one run, and their outcomes in a file."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        folder.mkdir(parents=True, exist_ok=True)
        self.base = make(folder)
        self.cases = folder / "cases.jsonl"
        self.log = folder / "case.log"
        done = self.cases.read_text().splitlines() if self.cases.exists() else []
        self.done = {(row["seed"], row["case"]): row for row in map(json.loads, done)}

    def run(self, case: str, work: Callable[[random.Random, Path], str]) -> None:
        """Run a case, unless it was run before, and note how it ended: "" for well."""
        if (self.seed, case) in self.done:
            return
        store = self.folder / "store"
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(self.base, store)
        start = time.monotonic()
        outcome = work(random.Random(f"{self.seed} {case}"), store)
        row = {"seed": self.seed, "case": case, "outcome": outcome}
        row["seconds"] = round(time.monotonic() - start, 2)
        self.done[(self.seed, case)] = row
        with open(self.cases, "a") as file:
            file.write(json.dumps(row) + "\n")
        if not outcome.startswith(("ok", "said")):
            print(f"{case}: {outcome}", flush=True)

    def do(self, work: Callable[[], object], kill_after: float | None = None) -> int:
        """Run work elsewhere."""
        return forked(work, self.log, kill_after)

    def whole(self, store: Path, members: bool = True) -> str:
        """ "" where a store is whole; else why not."""
        base = str(self.base)

        def look() -> None:
            coresets, ids = known(base)
            check(str(store), coresets if members else None, ids)

        return "" if not self.do(look) else self.log.read_text()[-600:]

    def kill(self, name: str, draw: random.Random, store: Path) -> str:
        """Kill a command at a random moment; type it again; look."""
        work = commands(self.folder, str(store))[name]
        if name == "repair":
            kinds = files_of(store)
            kind = draw.choice([each for each in sorted(kinds) if each.startswith("data of")])
            hurt(draw.choice(kinds[kind]), "flip", draw)
        moment = draw.uniform(0.0, {"featurize": 4.0, "ingest": 4.0}.get(name, 1.5))
        first = self.do(work, moment)
        again = self.do(work)
        if again not in (0, 2):
            return f"typed again, it ended with {again}: {self.log.read_text()[-600:]}"
        if why := self.whole(store, members=name != "repair"):
            return why
        return "ok, killed" if first == -9 else "ok, was done before"

    def crowd(self, draw: random.Random, store: Path) -> str:
        """Several writers at once, one of them featurizing."""
        import coresetdb

        every = commands(self.folder, str(store))

        works = [
            every["featurize"],
            every["ingest"],
            lambda: coresetdb.connect(store).ingest(str(self.folder / "part2.jsonl")),
            lambda: coresetdb.connect(store).ingest(str(self.folder / "part1.jsonl")),
            every["select"],
        ]
        children = []
        for number, work in enumerate(works):
            children.append(begun(work, self.folder / f"crowd{number}.log"))
            time.sleep(draw.uniform(0, 0.5))
        codes = {number: ended(child) for number, child in enumerate(children)}
        for number, code in codes.items():
            if code:
                said = (self.folder / f"crowd{number}.log").read_text()[-300:]
                return f"writer {number} ended with {code}: {said}"
        return self.whole(store) or "ok"

    def full_disk(self, name: str, draw: random.Random, store: Path) -> str:
        """No file may become larger than a limit; then there is room again."""
        work = commands(self.folder, str(store))[name]
        limit = draw.choice([0, 200, 1000, 5000, 20_000])

        def bounded() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                work()
            finally:
                resource.setrlimit(
                    resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                )

        first = self.do(bounded)
        if first == 70:
            return f"a traceback: {self.log.read_text()[-600:]}"
        if (again := self.do(work)) not in (0, 2):
            return f"typed again, it ended with {again}: {self.log.read_text()[-600:]}"
        return self.whole(store) or ("ok, said it" if first else "ok, had room")

    def damage(self, kind: str, how: str, draw: random.Random, store: Path) -> str:
        """Damage a file; repair; look."""
        import coresetdb

        hurt(draw.choice(files_of(store)[kind]), how, draw)

        def mend() -> None:
            done = coresetdb.repair(str(store))
            print("\n".join(done.lines()))
            print("SAID" if done.unrepaired else "MENDED")

        code = self.do(mend)
        said = self.log.read_text()
        if code:
            return f"repair ended with {code}: {said[-600:]}"
        if why := self.whole(store, members=False):
            return said[-900:] + why if "SAID" not in said else "said"
        return "said" if "SAID" in said else "ok"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--full-disks", type=int, default=18)
    parser.add_argument("--damages", type=int, default=60)
    asked = parser.parse_args()
    import lance  # noqa: F401
    import torch

    import coresetdb.database
    import coresetdb.ingest.create
    import coresetdb.ingest.featurizer
    import coresetdb.query.selection  # noqa: F401

    torch.set_num_threads(1)
    torture = Torture(asked.folder.resolve(), asked.seed)
    names = list(commands(torture.folder, ""))
    for number in range(asked.kills):
        name = names[number % len(names)]
        torture.run(
            f"kill {name} {number}", lambda draw, store, n=name: torture.kill(n, draw, store)
        )
    for number in range(asked.rounds):
        torture.run(f"crowd writers {number}", torture.crowd)
    disks = [name for name in names if name not in ("repair", "compact")]
    for number in range(asked.full_disks):
        name = disks[number % len(disks)]
        torture.run(
            f"full {name} {number}", lambda draw, store, n=name: torture.full_disk(n, draw, store)
        )
    kinds = sorted(files_of(torture.base))
    for number in range(asked.damages):
        kind, how = kinds[number % len(kinds)], ("flip", "cut", "gone")[number // len(kinds) % 3]
        torture.run(
            f"damage {kind} ({how}) {number}",
            lambda draw, store, k=kind, h=how: torture.damage(k, h, draw, store),
        )
    table: dict[str, Counter[str]] = {}
    for (seed, case), row in torture.done.items():
        if seed == asked.seed:
            words = case.split()
            what = " ".join(words[:-1]) if words[0] != "damage" else " ".join(words[:2])
            outcome = row["outcome"]
            good = outcome.startswith(("ok", "said"))
            table.setdefault(what, Counter())[outcome if good else "FAILED"] += 1
    for what, counts in sorted(table.items()):
        print(f"{what:<24} {sum(counts.values()):>4}   ", dict(counts))
    sys.exit(1 if any("FAILED" in counts for counts in table.values()) else 0)


if __name__ == "__main__":
    main()

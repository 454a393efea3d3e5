"""Kill, damage, fill, crowd and mislead a store, and count what is lost.

    python benchmarks/torture FOLDER --seed 1
    ... --kills 240 --crowds 10 --full-disks 40 --damages 300 --s3 60

Every case starts from a copy of one small store, in a process of its own. Cases that are in
FOLDER/cases.jsonl already are not run again, so a run that was stopped goes on; the same seed draws
the same cases. A case fails if `verify --full` is not content and does not say why, if the command
typed again does not give what an undisturbed one gives (rows, features, members, counts, files), if
a row is gone or there twice, or if a process or a file stays behind. What a repair says it could
not bring back is no failure: it is counted as said.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "tests"))

GOOD = ("ok", "said")


class Cases:
    """The cases of one run, and their outcomes in a file."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        self._file = folder / "cases.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self._done = {(row["seed"], row["case"]): row for row in map(json.loads, lines)}

    def run(self, kind: str, number: int, work: Callable[[random.Random], str]) -> None:
        """Run a case, unless it was run before, and note how it ended."""
        case = f"{kind} #{number}"
        if (self.seed, case) in self._done:
            return
        start = time.monotonic()
        outcome = work(random.Random(f"{self.seed} {case}"))
        row = {"seed": self.seed, "case": case, "outcome": outcome}
        row["seconds"] = round(time.monotonic() - start, 2)
        self._done[(self.seed, case)] = row
        with open(self._file, "a") as file:
            file.write(json.dumps(row) + "\n")
        if not outcome.startswith(GOOD):
            print(f"{case}: {outcome}", flush=True)

    def table(self, every_seed: bool) -> dict[str, Counter[str]]:
        """Kind of case -> outcome -> how many."""
        table: dict[str, Counter[str]] = {}
        for (seed, case), row in self._done.items():
            if every_seed or seed == self.seed:
                outcome = row["outcome"] if row["outcome"].startswith(GOOD) else "FAILED"
                table.setdefault(case.split(" #")[0], Counter())[outcome] += 1
        return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--crowds", type=int, default=10)
    parser.add_argument("--full-disks", type=int, default=60)
    parser.add_argument("--damages", type=int, default=420)
    parser.add_argument("--s3", type=int, default=60)
    parser.add_argument("--only", default="", help="kinds of cases that begin with this")
    parser.add_argument("--table", action="store_true", help="print the table of all seeds, only")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    cases = Cases(folder, asked.seed)
    if not asked.table:
        run_all(folder, cases, asked)
    table = cases.table(asked.table)
    for what, counts in sorted(table.items()):
        print(f"{what:<40} {sum(counts.values()):>4}   ", dict(counts))
    sys.exit(1 if any("FAILED" in counts for counts in table.values()) else 0)


def run_all(folder: Path, cases: Cases, asked: argparse.Namespace) -> None:
    """Run whatever was asked for and was not run before."""
    load_everything()
    from crowds import crowd, full_disk, limited_files
    from damage import WAYS, damage, files_of
    from kills import kill
    from s3 import ALONE, PASSED_OVER, TOGETHER, Server, mislead
    from world import COMMANDS, REMOTE, World

    world = World(folder)
    names = list(COMMANDS)
    writing = [name for name in names if not name.startswith("repair")]
    remote = [name for name in [*writing, *REMOTE] if name not in PASSED_OVER]
    random.Random(asked.seed).shuffle(remote)
    damaged = sorted(files_of(world.base))
    planned: list[tuple[float, str, int, Callable[[random.Random], str]]] = []

    def plan(kind: str, number: int, count: int, work: Callable[[random.Random], str]) -> None:
        if kind.startswith(asked.only):
            planned.append(((number + 1) / count, kind, number, work))

    for number, name in enumerate(_rounds(names, asked.kills)):
        plan(f"kill {name}", number, asked.kills, partial(kill, world, name))
    for number in range(asked.crowds):
        plan("writers at once", number, asked.crowds, partial(crowd, world))
    for number in range(asked.full_disks):
        name = writing[number // 2 % len(writing)]
        how, work = ("files limited", limited_files) if number % 2 else ("disk full", full_disk)
        plan(f"{how} {name}", number, asked.full_disks, partial(work, world, name))
    for number in range(asked.damages):
        kind = damaged[number % len(damaged)]
        how = WAYS[(number + number // len(damaged)) % len(WAYS)]
        plan(f"damage {kind}", number, asked.damages, partial(damage, world, kind, how))
    server = Server()
    for number in range(asked.s3):
        kinds = (*ALONE, TOGETHER)[number % (len(ALONE) + 1)]
        name = remote[number % len(remote)]
        what = kinds[0] if len(kinds) == 1 else "several at once"
        plan(f"S3 {what}", number, asked.s3, partial(mislead, world, server, name, kinds))
    try:
        for _, kind, number, work in sorted(planned, key=lambda each: each[0]):
            cases.run(kind, number, work)
    finally:
        server.end()


def _rounds(names: list[str], count: int) -> list[str]:
    """So many names in turn; those with workers, whose start costs most, every third time."""
    chosen: list[str] = []
    turn = 0
    while len(chosen) < count:
        chosen += [name for name in names if "workers" not in name or turn % 3 == 1]
        turn += 1
    return chosen[:count]


def load_everything() -> None:
    """Import what commands import, so that forked processes need not; open nothing."""
    import lance  # noqa: F401
    import torch

    from coresetdb.cli.main import COMMANDS

    for module, _ in COMMANDS.values():
        importlib.import_module(f"coresetdb.cli.{module}")
    for name in (
        "ingest.create ingest.featurizer ingest.jobs.ingestion ingest.jobs.late_features "
        "ingest.jobs.reingest ingest.attachments.annotate ingest.attachments.vectors "
        "query.selection query.score query.targets query.replay query.export query.dedup.dedup "
        "query.indexing query.removal evaluation.running evaluation.training reports.report "
        "store.integrity.verify store.sql.session"
    ).split():
        importlib.import_module(f"coresetdb.{name}")
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()

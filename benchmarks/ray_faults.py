"""Ingest, featurize and scan by Ray actors on two nodes, while workers, a node and the driver die.

    python benchmarks/ray_faults.py FILE... --rows 20000 [--namespaces] [--seed 1] [--every 60]
    python benchmarks/ray_faults.py demo/pool.jsonl.gz --rows 500 --every 10

A pool is made of the first conversations of the files that have one question and one answer of at
most `--characters` together. One in a hundred lines comes twice, one in two hundred is broken. Two
nodes of one processor each run on this machine, on loopback or in a network namespace each; the
command line works on them as a user types it:

    ingest STORE --engine ray      rds
    featurize STORE losses         without IFD
    select STORE target            an exact scan, four times

During the first two a worker is killed every `--every` seconds, or later where one of them still
loads its model then; at a third of the work all processes of the second node are, and it joins
again half an interval later; at two thirds the driver is, and the same command is typed again at
once. With `--namespaces` the cable is pulled as well, at half of the work, until Ray has given the
second node up. Of the four scans one is left alone, and in the others a worker, the node and the
driver are killed. The seed draws victims and moments. The account is made without the package where
that is possible: lines of the file against rows of the tables. Prints a table, writes JSON, and
ends with 1 if anything is lost, there twice or different from a single process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from feature_difference import differences_by_column
from ray_cluster import MARK, Cluster, Family, Process, cluster_of_two, kill, processes
from report import write_report

import coresetdb
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_sources
from coresetdb.ingest.testing import save_tiny_model
from coresetdb.schemas.instruction import Record
from coresetdb.schemas.plain_text import text_table

TINY = "tiny"
EXAMPLES = 16
SAMPLE = 200
"""Rows whose features one process makes again."""
CLOSE = 1e-4
"""Norm-wise."""

LATE_FEATURE = "losses:alone=false"

MOMENTS = {"node": 1 / 3, "cable": 1 / 2, "driver": 2 / 3}
"""What is hit -> share of the work that is done then, give or take `WAVER`."""
WAVER = 0.05

SCAN_SECONDS = 4.0
"""After a worker is there: in which a scan is hit, as it loads or as it works."""

LOADING = (".__init__", ".make")
"""How the title of a worker ends that has no model yet."""

PAUSE_SECONDS = 0.25
"""Between two looks at the processes."""
SECONDS_TO_END = 60.0
"""In which the workers of a killed driver have to be gone."""
CABLE_SECONDS = 60.0
"""In which Ray gives a node up that it cannot reach (its health checks take 30 to 40)."""
STOPS_ALLOWED = 3
"""Times that a command may give up by itself, as where three workers died of the same rows."""

CODE = "from coresetdb.cli.main import main; main()"

_SHARE = re.compile(r"(\d+) %")


@dataclass
class Job:
    """What became of one command."""

    name: str
    seconds: float = 0.0
    hit: Counter[str] = field(default_factory=Counter)
    stops: list[str] = field(default_factory=list)  # what it said when it gave up by itself
    orphan_seconds: float = 0.0  # from the driver's death until the last of its workers was gone
    driver_seconds: float = 0.0
    worker_seconds: float = 0.0
    said: str = ""

    def row(self) -> dict[str, Any]:
        """The line of the table."""
        return {
            "command": self.name,
            "seconds": round(self.seconds),
            "workers killed": self.hit["worker"],
            "nodes": self.hit["node"],
            "drivers": self.hit["driver"],
            "cables pulled": self.hit["cable"],
            "CPU s of drivers": round(self.driver_seconds, 1),
            "of workers": round(self.worker_seconds, 1),
        }


@dataclass
class Plan:
    """What is done to a command.

    Attributes:
        moments: `worker`, `node`, `cable` or `driver` -> when it is hit: the share of the work that
            is done, or seconds after a worker is there.
        in_seconds: which of the two.
        every: seconds between two kills of a worker, None for none.
    """

    moments: dict[str, float] = field(default_factory=dict)
    in_seconds: bool = False
    every: float | None = None


class Disturbed:
    """A command that is typed, disturbed as its plan says, and typed again until it ends well."""

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        draw: random.Random,
        name: str,
        words: Sequence[str],
        plan: Plan,
    ) -> None:
        self.cluster, self.draw, self.plan = cluster, draw, plan
        self.job = Job(name)
        self._words = words
        self._log, self._said = folder / "driver.log", folder / "said.json"
        self._todo = dict(plan.moments)
        self._to_mend: list[tuple[float, str]] = []
        self._began = time.monotonic()
        self._next_kill = self._began + plan.every if plan.every else float("inf")
        self._first_seen: float | None = None  # a worker of the driver that runs
        self._orphans: set[tuple[int, int]] = set()
        self._driver_killed = 0.0

    def run(self, longest: float) -> Job:
        """Run it to its end; SystemExit where that does not come in so many seconds."""
        before = self._used_by_workers()
        code: int | None = None
        while code != 0:
            family = Family(uuid.uuid4().hex)
            driver = self._type(family.mark)
            self._first_seen = None
            try:
                while (code := driver.poll()) is None:
                    time.sleep(PAUSE_SECONDS)
                    everyone = processes()
                    family.look(everyone)
                    self._look(driver, everyone)
                    if time.monotonic() - self._began > longest:
                        said = self._log.read_text(errors="replace")[-3000:]
                        raise SystemExit(f"{self.job.name} hangs:\n{said}")
            finally:
                driver.kill()
            self.job.driver_seconds += family.used("others")
            if code not in (0, -signal.SIGKILL):
                self._gave_up(code)
        self.job.said = self._said.read_text()
        self.job.seconds = time.monotonic() - self._began
        self._mend(float("inf"))
        self.job.worker_seconds = self._used_by_workers() - before
        if self._todo:
            missed = " and ".join(self._todo)
            print(f"{self.job.name} ended before its {missed} could be hit", file=sys.stderr)
        return self.job

    def _type(self, mark: str) -> subprocess.Popen[bytes]:
        with self._log.open("w") as errors, self._said.open("w") as said:
            return subprocess.Popen(
                [*self.cluster.enter, sys.executable, "-c", CODE, *self._words],
                env={**os.environ, **self.cluster.variables, "OMP_NUM_THREADS": "1", MARK: mark},
                stdout=said,
                stderr=errors,
            )

    def _look(self, driver: subprocess.Popen[bytes], everyone: dict[int, Process]) -> None:
        """Hit whatever is due."""
        now = time.monotonic()
        workers = {each.key: each for each in self.cluster.actors(everyone)}
        if self._orphans:
            self.job.orphan_seconds = now - self._driver_killed
            self._orphans &= workers.keys()
        own = [each for key, each in workers.items() if key not in self._orphans]
        self._mend(now)
        if not own:
            return
        if self._first_seen is None:
            self._first_seen = now
        loading = any(each.title.endswith(LOADING) for each in own)
        if now >= self._next_kill and self.plan.every and not loading:
            self._next_kill = now + self.plan.every
            self._hit("worker", own, driver)
        reached = now - self._first_seen if self.plan.in_seconds else self._share()
        for what in [what for what, moment in self._todo.items() if reached >= moment][:1]:
            del self._todo[what]
            self._hit(what, own, driver)

    def _hit(self, what: str, own: list[Process], driver: subprocess.Popen[bytes]) -> None:
        self.job.hit[what] += 1
        now = time.monotonic()
        if what == "worker":
            kill(self.draw.choice(own).number)
        elif what == "node":
            self.cluster.second.kill()
            self._to_mend.append((now + (self.plan.every or 10.0) / 2, what))
        elif what == "cable":
            self.cluster.pull_cable(out=True)
            self._to_mend.append((now + CABLE_SECONDS, what))
        else:
            self._orphans, self._driver_killed = {each.key for each in own}, now
            driver.kill()

    def _mend(self, now: float) -> None:
        """Plug the cable in, or start the node again, where it is time for that."""
        due = [what for moment, what in self._to_mend if moment <= now]
        if "cable" in due:
            self.cluster.pull_cable(out=False)
            self.cluster.second.kill()  # Ray has given it up, and it may not know yet
        elif any(what == "cable" for _, what in self._to_mend):
            return  # without it no node joins
        self._to_mend = [(moment, what) for moment, what in self._to_mend if what not in due]
        if due:
            self.cluster.second.start()

    def _gave_up(self, code: int) -> None:
        said = self._log.read_text(errors="replace")[-2000:]
        print(f"{self.job.name} ended with {code}:\n{said}", file=sys.stderr)
        self.job.stops.append(said)
        if len(self.job.stops) > STOPS_ALLOWED:
            raise SystemExit(f"{self.job.name} gave up {len(self.job.stops)} times")

    def _share(self) -> float:
        shares = _SHARE.findall(self._log.read_text(errors="replace"))
        return int(shares[-1]) / 100 if shares else 0.0

    def _used_by_workers(self) -> float:
        return sum(node.family.used("workers") for node in self.cluster.nodes)


def left_behind(cluster: Cluster) -> int:
    """Workers that are there though no command runs, after the time they have to end."""
    until = time.monotonic() + SECONDS_TO_END
    while (count := len(cluster.actors(processes()))) and time.monotonic() < until:
        time.sleep(PAUSE_SECONDS)
    return count


Key = tuple[str, str]
"""Question and answer: what makes a row in these files."""


@dataclass
class Corpus:
    """The file that is ingested, and what a reader without the package counts in it."""

    file: Path
    examples: Path
    lines: int
    broken: int
    keys: set[Key]


def write_corpus(files: list[str], folder: Path, options: argparse.Namespace) -> Corpus:
    """Write conversations of the files, some twice, some lines broken; and examples of a target."""
    draw = random.Random(options.seed)
    found: dict[Key, None] = {}
    for key in _conversations(files, options.characters):
        found[key] = None
        if len(found) == options.rows + EXAMPLES:
            break
    else:
        raise SystemExit(f"the files have {len(found)} such rows: give more files, or fewer --rows")
    keys = list(found)
    examples, rows = keys[:EXAMPLES], keys[EXAMPLES:]
    lines = [_line(row) for row in rows]
    lines += [_line(row) for row in draw.sample(rows, len(rows) // 100)]
    broken = len(rows) // 200
    lines += ['{"messages": [{"role": "user", "conte'] * broken
    draw.shuffle(lines)
    file, own = folder / "pool.jsonl", folder / "examples.jsonl"
    file.write_text("\n".join(lines) + "\n")
    own.write_text("\n".join(map(_line, examples)) + "\n")
    return Corpus(file, own, len(lines), broken, set(rows))


def _conversations(files: list[str], characters: int) -> Iterator[Key]:
    for source in open_sources(files, ReadOptions()).sources():
        for item in source:
            if isinstance(item, Record) and len(item.instruction.messages) == 2:
                asked, said = (message.text for message in item.instruction.messages)
                if asked.strip() and said.strip() and len(asked + said) <= characters:
                    yield asked, said


def _line(key: Key) -> str:
    turns = [{"role": "user", "content": key[0]}, {"role": "assistant", "content": key[1]}]
    return json.dumps({"messages": turns}, ensure_ascii=False)


def account(store: Path, corpus: Corpus, said: dict[str, Any]) -> dict[str, int]:
    """Hold the tables against the file; all of it but `rows`, `lines` and so on should be 0."""
    database = coresetdb.connect(store)
    pool = database.store.dataset("pool").to_table(columns=["id", "messages"])
    keys = Counter(tuple(turn["content"] for turn in row) for row in pool["messages"].to_pylist())
    ids = Counter(pool["id"].to_pylist())
    sources = database.store.dataset("sources").to_table(columns=["file", "line"]).to_pylist()
    places = Counter((row["file"], row["line"]) for row in sources)
    rejected = database.store.dataset("rejects").to_table(columns=["line"])["line"].to_pylist()
    report = coresetdb.verify(store, full=True)
    if not report.ok:
        print(report, file=sys.stderr)
    return {
        "rows": pool.num_rows,
        "lines": corpus.lines,
        "rows lost": len(corpus.keys - keys.keys()),
        "rows that no line has": len(keys.keys() - corpus.keys),
        "rows there twice": sum(count - 1 for count in (keys | ids).values() if count > 1),
        "lines not counted": corpus.lines
        - sum(said[name] for name in ("new", "duplicate", "rejected")),
        "lines without a source": corpus.lines - corpus.broken - len(places),
        "lines with two sources": sum(count - 1 for count in places.values()),
        "rejects missing or twice": abs(corpus.broken - len(rejected))
        + len(rejected)
        - len({*rejected}),
        "damages": 0 if report.ok else 1,
        "files that nothing needs": len(report.orphans),
    }


def differences(
    store: Path, folder: Path, backbone: str, draw: random.Random
) -> tuple[dict[str, float], int]:
    """How far features of some rows are from those of one process; and empty ones, of all rows."""
    pool = coresetdb.connect(store).store.dataset("pool").to_table()
    rows = pool.take(sorted(draw.sample(range(len(pool)), min(SAMPLE, len(pool)))))
    file = folder / "sample.jsonl"
    keys = [tuple(turn["content"] for turn in row) for row in rows["messages"].to_pylist()]
    file.write_text("\n".join(map(_line, keys)) + "\n")
    features = f"rds,{LATE_FEATURE}"
    alone = coresetdb.create(folder / "alone", features=features, backbone=backbone)
    alone.ingest(file)
    other = alone.store.dataset("pool").to_table()
    place = {each: number for number, each in enumerate(other["id"].to_pylist())}
    other = other.take([place[each] for each in rows["id"].to_pylist()])
    apart = differences_by_column(rows, other)
    return apart, sum(pool[name].null_count for name in apart)


def measure(cluster: Cluster, corpus: Corpus, folder: Path, options: argparse.Namespace) -> int:
    """Run the commands, hold everything against one process, print and write; the exit status."""
    draw = random.Random(f"{options.seed} kills")
    store = folder / "store"
    tiny = options.backbone == TINY
    backbone = str(save_tiny_model(folder / "model")) if tiny else options.backbone
    database = coresetdb.create(store, features="rds", backbone=backbone)
    database.add_target("some", corpus.examples)
    ray = ["--engine", "ray", "--address", cluster.address, "--json"]
    jobs: list[Job] = []

    def do(name: str, words: Sequence[str], plan: Plan) -> Job:
        command = Disturbed(cluster, folder, draw, name, [*words, *ray], plan)
        jobs.append(command.run(options.longest))
        print(f"{name}: {dict(jobs[-1].hit)}, {jobs[-1].seconds:.0f} s", file=sys.stderr)
        return jobs[-1]

    def long_plan() -> Plan:
        moments = {what: at + draw.uniform(-WAVER, WAVER) for what, at in MOMENTS.items()}
        if not options.namespaces:
            del moments["cable"]
        return Plan(moments, every=options.every)

    ingested = do("ingest", ["ingest", str(store), str(corpus.file)], long_plan())
    do("featurize", ["featurize", str(store), LATE_FEATURE], long_plan())
    checks = account(store, corpus, json.loads(ingested.said))
    apart, checks["empty features"] = differences(store, folder, backbone, draw)
    alone = database.select("some", budget=options.rows // 20, leakage="off", dry_run=True).ids
    checks["scans with other ids"] = 0
    for number, what in enumerate((None, "worker", "node", "driver")):
        plan = Plan({what: draw.uniform(0, SCAN_SECONDS)} if what else {}, in_seconds=True)
        words = ["select", str(store), "some", "--budget", str(len(alone)), "--leakage", "off"]
        do(f"select, {what or 'nothing'} killed", [*words, "--name", f"scan{number}"], plan)
        ids = coresetdb.connect(store).open_coreset(f"scan{number}").ids
        checks["scans with other ids"] += ids != alone
    checks["workers left behind"] = left_behind(cluster)
    report = coresetdb.verify(store, full=True)
    checks["damages"] += not report.ok
    checks["files that nothing needs"] += len(report.orphans)

    stops = [stop for job in jobs for stop in job.stops]
    slowest = max(job.orphan_seconds for job in jobs)
    print(text_table([job.row() for job in jobs]))
    print()
    for name, value in checks.items():
        print(f"{name:<34} {value:,}")
    print(f"{'norm-wise from one process':<34} {max(apart.values()):.1e}")
    print(f"{'driver killed: workers gone after':<34} {slowest:.1f} s")
    print(f"{'commands that gave up':<34} {len(stops)}")
    facts = {
        **{name: getattr(options, name) for name in "rows characters backbone seed every".split()},
        "namespaces": options.namespaces,
        "jobs": [{**job.row(), "orphan_seconds": job.orphan_seconds} for job in jobs],
        "checks": checks,
        "differences": apart,
        "stops": stops,
        "ray": version("ray"),
    }
    write_report(options.out, "ray_faults", facts)
    wrong = [name for name, value in checks.items() if value and name not in ("rows", "lines")]
    return 1 if wrong or stops or max(apart.values()) > CLOSE else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--characters", type=int, default=200)
    parser.add_argument("--backbone", default="builtin", help=f"{TINY}: a random one, quick")
    parser.add_argument("--namespaces", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=60.0, help="seconds")
    parser.add_argument("--longest", type=float, default=14_400.0, help="seconds of a command")
    parser.add_argument("--folder", type=Path, help="keeps the store and the logs")
    parser.add_argument("--out", default="ray_faults.json")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="ray-faults-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        corpus = write_corpus(options.files, folder, options)
        with cluster_of_two(options.namespaces) as cluster:
            sys.exit(measure(cluster, corpus, folder, options))


if __name__ == "__main__":
    main()

"""Exact scans that workers share: each reduces parts of the pool, and one process puts these in
order.

A worker opens the store at the driver's versions, compares rows as the driver would, and runs the
selectors up to the pass at hand with the answers that the driver had of the passes before; so it
needs no model, and the reductions of any selector can be shared. It is handed whole sections of the
table (`scanning/rows.py`), and gives back what their rows came to. Answers are taken in in the
order of the table, so that ids and scores are those of one process to the bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ..schemas.amounts import parse_budget
from ..schemas.errors import StoreNotFoundError, UsageError
from ..schemas.ids import IdSet
from ..schemas.plain_text import count_of
from ..schemas.progress import Progress
from ..selectors.reductions import Fetched, Lists, RowSets
from ..store.catalog import Artifact
from ..store.store import Store
from ..workers.group import WorkerGroup
from ..workers.machine import usable_processors
from ..workers.opening import open_group
from ..workers.options import Placement, WorkerOptions, place
from ..workers.task import Answer, Equipment, Given, Owner, Task
from .comparison import Comparison, comparison
from .methods import Method
from .ranking import Answers, SelectorPasses
from .request import Request, resolve_request
from .scanning.reducers import Block, Reducer
from .scanning.rows import Scanned, sections_of
from .snapshot import PoolStatistic, Snapshot

ROLE = f"{__name__}.ScanWorker"

TASKS_PER_WORKER = 2
"""Parts that every worker is handed: each gives back lists of full length, so few are best."""

MOST_ROWS = 4 << 20
"""Of a part, which is scanned again where its worker dies."""


class ScanWorker:
    """A store at the versions that tasks name, and the comparison and selectors of one pass.

    Args:
        settings: `uri` and `storage_options` of the store.

    Raises:
        StoreNotFoundError: this machine does not see the store.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        try:
            self._store = Store.open(settings["uri"], settings["storage_options"])
        except StoreNotFoundError as error:
            raise StoreNotFoundError(
                f"{error}. Every node has to reach the store at the same place: a shared folder, "
                "or s3"
            ) from error
        self._request: dict[str, Any] | None = None
        self._method: Method | None = None
        self._comparison: Comparison | None = None
        self._eligible: IdSet | None = None
        self._passes: SelectorPasses | None = None

    def equip(self, facts: dict[str, Any], blobs: Sequence[bytes]) -> None:
        """Take the request, the pool's statistics, the eligible rows and the answers so far."""
        waiting = deque(map(Artifact.unpack, blobs))
        statistics = [waiting.popleft() for _ in facts["request"]["statistics"]]
        if facts["request"] != self._request:
            self._resolve(facts["request"], statistics)
            self._request = facts["request"]
        self._eligible = IdSet(waiting.popleft().arrays["keys"]) if facts["filtered"] else None
        assert self._method is not None and self._comparison is not None, "resolved by now"
        self._passes = SelectorPasses(self._method, self._comparison, **facts["numbers"])
        for answers in waiting:
            self._passes.send(unpacked(answers))

    def _resolve(self, facts: dict[str, Any], statistics: Sequence[Artifact]) -> None:
        snapshot = Snapshot(self._store, facts["pool_version"], facts["targets_version"])
        for (fingerprint, kind, digest), artifact in zip(
            facts["statistics"], statistics, strict=True
        ):
            known = PoolStatistic(artifact, digest, freeze=False, kept=True)
            snapshot.statistics[fingerprint, kind] = known
        request = Request(
            targets=tuple(facts["targets"]),
            method=facts["method"],
            budget=parse_budget("1"),  # what a pass looks for is in its numbers
            where=None,
            seed=0,  # alike
            group=facts["group"],
            fitted=facts["fitted"],
        )
        resolved = resolve_request(snapshot, request)
        self._method = resolved.method
        self._comparison = comparison(
            snapshot, resolved.method, resolved.feature, resolved.queries, resolved.lengths
        )

    def do(
        self, facts: dict[str, Any], body: bytes, parts: Sequence[Given], owner: Owner
    ) -> Answer:
        """Scan a part of the pool; returns what was counted, and what each reducer found."""
        assert self._passes is not None and self._comparison is not None, "equipped before"
        reducers = list(self._passes.reducers(in_part=True).values())
        span = range(facts["start"], facts["stop"])
        seen = self._comparison.scan([*reducers, _Seen(owner)], self._eligible, span)
        arrays = {
            f"{number}.{name}": array
            for number, reducer in enumerate(reducers)
            for name, array in reducer.partial().items()
        }
        return {"seen": seen.__dict__}, Artifact(arrays).pack()


class _Seen:
    """Tells the owner how many rows were compared."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def feed(self, block: Block) -> None:
        """Take in the next rows."""
        self._owner.seen(len(block.keys), 0)


class SharedScans:
    """The scans of one request, shared among workers.

    Args:
        group: of `ScanWorker`s.
        snapshot: that the request is answered from.
        request: alike.
        progress: receives how far a scan is.
    """

    def __init__(
        self, group: WorkerGroup, snapshot: Snapshot, request: Request, progress: Progress
    ) -> None:
        self._group, self._snapshot = group, snapshot
        self._request, self._progress = request, progress

    def __call__(
        self,
        numbers: Mapping[str, int],
        earlier: Sequence[Answers],
        reducers: Sequence[Reducer],
        eligible: IdSet | None,
    ) -> Scanned:
        """Feed the reducers of a pass; see `ranking.SharedScan`.

        Raises:
            WorkerError: three workers died of the same part, or none can be started.
        """
        equipment = self._equipment(numbers, earlier, eligible)
        waiting = deque(self._tasks(equipment))
        total = self._snapshot.pool.count_rows() if eligible is None else len(eligible)
        done = 0

        def report(rows: int, tokens: int) -> None:
            nonlocal done
            done += rows
            said = f"{done:,} of {count_of(total, 'row')}"
            self._progress.learn(name=self._request.method, share=done / max(total, 1), said=said)

        in_work: deque[Task] = deque()
        seen = Scanned()
        while waiting or in_work:
            while waiting and len(in_work) < self._group.bound:
                in_work.append(waiting.popleft())
                self._group.submit(in_work[-1])
            task = in_work.popleft()
            self._group.wait(task, report)
            assert task.answer is not None
            facts, body = task.answer
            counted = facts["seen"]
            seen.add(Scanned(**{**counted, "remarks": tuple(counted["remarks"])}))
            found = Artifact.unpack(bytes(body)).arrays
            for number, reducer in enumerate(reducers):
                prefix = f"{number}."
                reducer.absorb(
                    {
                        name.removeprefix(prefix): array
                        for name, array in found.items()
                        if name.startswith(prefix)
                    }
                )
        return seen

    def _equipment(
        self, numbers: Mapping[str, int], earlier: Sequence[Answers], eligible: IdSet | None
    ) -> Equipment:
        snapshot, request = self._snapshot, self._request
        statistics = sorted(snapshot.statistics)
        facts = {
            "request": {
                "pool_version": snapshot.pool_version,
                "targets_version": snapshot.targets_version,
                "targets": request.targets,
                "method": request.method,
                "group": request.group,
                "fitted": dict(request.fitted),
                "statistics": [(*key, snapshot.statistics[key].digest) for key in statistics],
            },
            "numbers": dict(numbers),
            "filtered": eligible is not None,
        }
        blobs = [snapshot.statistics[key].artifact for key in statistics]
        if eligible is not None:
            blobs.append(Artifact({"keys": eligible.keys()}))
        blobs += [packed(answers, request.method) for answers in earlier]
        return Equipment(facts, [each.pack() for each in blobs])

    def _tasks(self, equipment: Equipment) -> Iterator[Task]:
        rows = self._snapshot.pool.count_rows()
        sections = sections_of(rows)
        count = max(TASKS_PER_WORKER * self._group.count, -(-rows // MOST_ROWS))
        for part in np.array_split(np.arange(len(sections)), min(count, len(sections)) or 1):
            if len(part):
                start, stop = sections[part[0]].start, sections[part[-1]].stop
                label = f"rows {start + 1:,} to {stop:,} of the pool"
                yield Task(
                    {"start": start, "stop": stop}, b"", lambda label=label: label, equipment
                )


def packed(answers: Answers, method: str) -> Artifact:
    """Return what a pass found, to be sent.

    Raises:
        UsageError: it is something that was fetched, not scanned.
    """
    arrays: dict[str, np.ndarray] = {}
    kinds: dict[str, list[str]] = {}
    for number, own in answers.items():
        kinds[str(number)] = [type(answer).__name__ for answer in own]
        for place_, answer in enumerate(own):
            if isinstance(answer, np.ndarray):
                fields = {"array": answer}
            elif isinstance(answer, Lists | RowSets):
                fields = {name: each for name, each in answer.__dict__.items() if each is not None}
            else:
                raise UsageError(
                    f"{method} scans the pool again after it fetched rows, which workers do not "
                    "share: leave --workers and --engine out"
                )
            arrays |= {f"{number}.{place_}.{name}": each for name, each in fields.items()}
    return Artifact(arrays, {"kinds": kinds})


def unpacked(artifact: Artifact) -> Answers:
    """Return what `packed` packed."""

    def answer(kind: str, prefix: str) -> Lists | RowSets | np.ndarray:
        fields: dict[str, Any] = {
            name.removeprefix(prefix): array
            for name, array in artifact.arrays.items()
            if name.startswith(prefix)
        }
        match kind:
            case "Lists":
                return Lists(**fields)
            case "RowSets":
                return RowSets(**fields)
            case _:
                return fields["array"]

    return {
        int(number): tuple(answer(kind, f"{number}.{place_}.") for place_, kind in enumerate(kinds))
        for number, kinds in artifact.facts["kinds"].items()
    }


def require_scan(method: Method, compared: Comparison, approximate: bool) -> None:
    """Refuse workers where there is nothing that they could share.

    Raises:
        UsageError: the method looks at every row by itself, or asks an index.
    """
    leave = "leave --workers and --engine out"
    if approximate:
        raise UsageError(f"--approximate asks an index, and no worker has a part of that: {leave}")
    passes = SelectorPasses(method, compared, k=1, rows=1, seed=0, spare=0)
    needs = [need for own in passes.needs.values() for need in own]
    if all(isinstance(need, Fetched) for need in needs):
        raise UsageError(
            f"{method} weighs rows against one another, and its first step reduces nothing that "
            f"workers could share: {leave}"
        )


@contextmanager
def open_scan_workers(
    store: Store, options: WorkerOptions, say: Callable[[str], None]
) -> Iterator[WorkerGroup | None]:
    """Hold workers that scan a store inside the block; None where none are wanted.

    Raises:
        UsageError: Ray is not installed, or the cluster cannot be reached.
    """
    if not options.given:
        yield None
        return
    settings = {"uri": store.uri, "storage_options": store.place.options}
    with open_group(options, placement(options), ROLE, settings, say) as group:
        yield group


def placement(options: WorkerOptions) -> Placement:
    """Where workers that scan run: by default one for each processor."""
    placed = place(options, "cpu", 0)
    if isinstance(options.workers, int):
        return placed
    return replace(placed, why=count_of(usable_processors(), "processor"))

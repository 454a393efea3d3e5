"""Workers that are actors of a Ray cluster, with the same roles; plain Ray core, nothing of its
data sets. Tasks and answers travel as Arrow IPC through Ray's object store.

An actor that dies with its node is started on another as soon as that has room.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

from ..schemas.errors import UsageError, WorkerError
from ..schemas.plain_text import count_of, first_line
from .child import role_of
from .options import Placement, WorkerOptions
from .ray_cluster import Head, connect, leave, require_room, room
from .task import (
    Answer,
    Equipment,
    Given,
    Owner,
    Role,
    Task,
    WorkerDiedError,
    described,
    is_lack_of_memory,
    rebuilt,
)

POLL_SECONDS = 0.5
"""Between two looks at how far an actor is."""

ROOM_SECONDS = 30.0
"""Until an actor that has not begun is said to wait for room: Ray starts a process in less."""

DEATHS = "A worker died or was killed|has been marked dead"
"""What Ray prints of deaths, a paragraph each; the group says it in a sentence."""

MISSING = "the engine ray is not installed: pip install 'coresetdb[ray]', or leave out --engine"


class ActorRole:
    """What runs in the actor: a role, and how far its task is. Errors are answers."""

    def __init__(self, role: str, settings: dict[str, Any]) -> None:
        self._name, self._settings = role, settings
        self._role: Role | None = None
        self._rows = self._tokens = 0
        self._given: list[Given] = []

    def place(self) -> str:
        """Return the name of the node's machine, at once."""
        return platform.node()

    def make(self) -> dict[str, str] | None:
        """Make the role."""
        return _error_of(self._make)

    def _make(self) -> None:
        self._role = role_of(self._name)(self._settings)

    def equip(self, facts: dict[str, Any], blobs: Sequence[bytes]) -> dict[str, str] | None:
        """See Role."""
        assert self._role is not None
        role = self._role
        return _error_of(lambda: role.equip(facts, blobs))

    def do(
        self, facts: dict[str, Any], body: bytes, parts: Sequence[Given]
    ) -> tuple[dict[str, str] | None, dict[str, Any], bytes]:
        """See Role; returns an error (or None), facts and rows."""
        self._rows = self._tokens = 0
        self._given = []
        answers: list[Answer] = []
        assert self._role is not None
        role = self._role
        error = _error_of(lambda: answers.append(role.do(facts, body, parts, self)))
        facts, rows = answers[0] if answers else ({}, b"")
        return error, facts, rows if isinstance(rows, bytes) else rows.to_pybytes()

    def seen(self, rows: int, tokens: int) -> None:
        """See Owner."""
        self._rows, self._tokens = self._rows + rows, self._tokens + tokens

    def give(self, facts: dict[str, Any], body: bytes = b"") -> None:
        """See Owner."""
        self._given.append((facts, body))

    def so_far(self, given: int) -> tuple[int, int, list[Given]]:
        """Return rows and tokens of the task that are done, and what came after `given` parts."""
        return self._rows, self._tokens, self._given[given:]


def _error_of(act: Callable[[], Any]) -> dict[str, str] | None:
    try:
        act()
    except Exception as error:
        if is_lack_of_memory(error):
            os._exit(1)  # the owner has the task done elsewhere
        return described(error, traceback.format_exc())
    return None


class RayWorker:
    """An actor, as its owner sees it (`workers.task.Worker`)."""

    def __init__(self, ray: Any, actor: Any, head: Head, waits: threading.Event) -> None:
        self._ray, self._actor, self._head = ray, actor, head
        self._waits = waits  # set by the first of all workers that says it waits for room
        self._ended = threading.Event()

    def ready(self, news: Callable[[str], None]) -> None:
        """See Worker; a cluster without room lets it wait, and `news` hears of that."""
        began = time.monotonic()

        def tell() -> None:
            if not self._waits.is_set() and time.monotonic() - began > ROOM_SECONDS:
                self._waits.set()
                has, free = self._ray.cluster_resources(), self._ray.available_resources()
                unused = ", ".join(
                    f"{free.get(unit, 0):g} of {has[unit]:g} {unit}"
                    for unit in ("CPU", "GPU")
                    if has.get(unit)
                )
                news(
                    "a worker has not begun yet: its node is busy, or the Ray cluster has no room "
                    f"(free: {unused or 'nothing, as no node is alive'})"
                )

        node = self._get(self._actor.place.remote(), tell)
        error = self._get(self._actor.make.remote())
        if error is not None:
            raise rebuilt({**error, "message": f"a worker on {node}: {error['message']}"})

    def equip(self, equipment: Equipment) -> None:
        """See Worker."""
        self._raise(self._get(self._actor.equip.remote(equipment.facts, list(equipment.blobs))))

    def do(self, task: Task, owner: Owner) -> Answer:
        """See Worker."""
        rows = tokens = given = 0

        def tell() -> None:
            nonlocal rows, tokens, given
            now_rows, now_tokens, more = self._get(self._actor.so_far.remote(given))
            if (now_rows, now_tokens) != (rows, tokens):
                owner.seen(now_rows - rows, now_tokens - tokens)
                rows, tokens = now_rows, now_tokens
            for facts, blob in more:
                owner.give(facts, blob)
            given += len(more)

        body = task.body if isinstance(task.body, bytes) else task.body.to_pybytes()
        doing = self._actor.do.remote(task.facts, body, task.parts())
        error, facts, answer = self._get(doing, tell)
        self._raise(error)
        tell()
        return facts, answer

    def end(self) -> None:
        """See Worker."""
        if not self._ended.is_set():
            self._ended.set()
            if self._ray.is_initialized() and not self._head.lost.is_set():
                self._ray.kill(self._actor, no_restart=True)

    def _get(self, reference: Any, meanwhile: Callable[[], None] = lambda: None) -> Any:
        """Wait for a result; `meanwhile` is called now and then."""
        errors = self._ray.exceptions
        try:
            while not self._ended.is_set():
                if self._head.lost.is_set():
                    raise WorkerError(
                        f"the head of the Ray cluster, {self._head.address}, cannot be reached any "
                        "more. Start it again, and then type the same command: it goes on"
                    )
                done, _ = self._ray.wait([reference], timeout=POLL_SECONDS)
                if done:
                    return self._ray.get(reference)
                meanwhile()
        except errors.RayError as error:
            raise WorkerDiedError(obituary(error)) from error
        raise WorkerDiedError("it was ended")

    def _raise(self, error: dict[str, str] | None) -> None:
        if error is not None:
            raise rebuilt(error)


def obituary(error: BaseException) -> str:
    """How an actor ended, in a sentence, out of the many lines that Ray says about it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if getattr(error, "actor_init_failed", False):
        return f"it could not be made: {lines[-1].strip()[:300]}"  # of a traceback
    if any(line.lstrip().startswith('File "') for line in lines):
        return lines[-1].strip()[:300]
    node = "".join(line.strip().removeprefix("ip: ") for line in lines if "\tip: " in line)
    told = [line for line in lines[1:] if not line.startswith("\t")]
    said = told[0].partition(". ")[0].strip() if told else first_line(error)
    said = said.removeprefix("The actor is dead because ")
    if " is unavailable: " in said:  # for now, Ray says; it is ended, and its task done elsewhere
        said = "it can no longer be reached"
    return f"{said[:300]}, on {node}" if node else said[:300]


@contextmanager
def ray_workers(
    options: WorkerOptions,
    placed: Placement,
    role: str,
    settings: dict[str, Any],
    say: Callable[[str], None],
) -> Iterator[tuple[Callable[[int], RayWorker], int]]:
    """Hold a connection to Ray inside the block: what starts a worker, and how many there are.

    Without an address a cluster of this machine alone is started, and ended with the block. A
    connection that the program has already is used, and stays; without one, what is printed on
    stdout meanwhile goes to stderr.

    Raises:
        UsageError: Ray is not installed, the cluster cannot be reached, or has no room for one.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would give its actors the least share of a busy machine (niceness 15).
    os.environ.setdefault("RAY_worker_niceness", "0")
    # What Ray will do by itself in time: until this is set, it warns of the change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", DEATHS)
    if options.address:
        # Where no cluster but something else listens, Ray takes 45 seconds to try, 20 times.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
    try:
        import ray
    except ImportError as error:
        raise UsageError(MISSING) from error
    connected = ray.is_initialized()
    with ExitStack() as own:
        if not connected:
            # Ray prints what its nodes have to say on stdout, where results are for programs.
            own.enter_context(redirect_stdout(sys.stderr))
            connect(ray, options, placed)
        head = Head(ray.get_runtime_context().gcs_address)
        if not connected:
            own.callback(leave, ray, head)
        own.enter_context(head)
        gpus = 1 if placed.may_use_gpus and ray.cluster_resources().get("GPU", 0) > 0 else 0
        settings = {**settings, "device": "cuda" if gpus else placed.device}
        needs = {"GPU": gpus} if gpus else {"CPU": placed.threads}
        require_room(ray, needs)
        places = room(ray, needs)
        count = options.workers if isinstance(options.workers, int) else places
        unit = "GPU" if gpus else count_of(placed.threads, "CPU")
        say(
            f"{count_of(count, 'Ray actor')} of {unit} each"
            + (f"; the cluster has room for {places} now" if places < count else "")
        )
        actor = ray.remote(ActorRole).options(
            num_cpus=placed.threads, num_gpus=gpus, max_restarts=0, max_concurrency=2
        )
        waits = threading.Event()
        yield lambda number: RayWorker(ray, actor.remote(role, settings), head, waits), count

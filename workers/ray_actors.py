"""Workers that are actors of a Ray cluster, with the same roles; plain Ray core, nothing of its
data sets. Tasks and answers travel as Arrow IPC through Ray's object store.

An actor that dies with its node is started on another as soon as that has room.
"""

from __future__ import annotations

import os
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..schemas.errors import UsageError
from ..schemas.plain_text import count_of, first_line
from .child import role_of
from .options import Placement, WorkerOptions
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

MISSING = "the engine ray is not installed: pip install 'coresetdb[ray]', or leave out --engine"


class ActorRole:
    """What runs in the actor: a role, and how far its task is. Errors are answers."""

    def __init__(self, role: str, settings: dict[str, Any]) -> None:
        self._role: Role | None = None
        self._error: dict[str, str] | None = None
        self._rows = self._tokens = 0
        self._given: list[Given] = []
        self._error = _error_of(lambda: self._make(role, settings))

    def _make(self, role: str, settings: dict[str, Any]) -> None:
        self._role = role_of(role)(settings)

    def ready(self) -> dict[str, str] | None:
        """Return what went wrong when it was made."""
        return self._error

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

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self._ended = threading.Event()

    def ready(self) -> None:
        """See Worker; a cluster without room lets it wait."""
        self._raise(self._get(self._actor.ready.remote()))

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
            if self._ray.is_initialized():
                self._ray.kill(self._actor, no_restart=True)

    def _get(self, reference: Any, meanwhile: Callable[[], None] = lambda: None) -> Any:
        """Wait for a result; `meanwhile` is called now and then."""
        errors = self._ray.exceptions
        try:
            while not self._ended.is_set():
                done, _ = self._ray.wait([reference], timeout=POLL_SECONDS)
                if done:
                    return self._ray.get(reference)
                meanwhile()
        except errors.RayError as error:
            raise WorkerDiedError(first_line(error)) from error
        raise WorkerDiedError("it was ended")

    def _raise(self, error: dict[str, str] | None) -> None:
        if error is not None:
            raise rebuilt(error)


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
    connection that the program has already is used, and stays.

    Raises:
        UsageError: Ray is not installed, the cluster cannot be reached, or has no room for one.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would give its actors the least share of a busy machine (niceness 15).
    os.environ.setdefault("RAY_worker_niceness", "0")
    # What Ray will do by itself in time: until this is set, it warns of the change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(MISSING) from error
    connected = ray.is_initialized()
    if not connected:
        _connect(ray, options, placed)
    try:
        gpus = 1 if placed.may_use_gpus and ray.cluster_resources().get("GPU", 0) > 0 else 0
        settings = {**settings, "device": "cuda" if gpus else placed.device}
        needs = {"GPU": gpus} if gpus else {"CPU": placed.threads}
        _require_room(ray, needs)
        room = _room(ray, needs)
        count = options.workers if isinstance(options.workers, int) else room
        unit = "GPU" if gpus else count_of(placed.threads, "CPU")
        say(
            f"{count_of(count, 'Ray actor')} of {unit} each"
            + (f"; the cluster has room for {room} now" if room < count else "")
        )
        actor = ray.remote(ActorRole).options(
            num_cpus=placed.threads, num_gpus=gpus, max_restarts=0, max_concurrency=2
        )
        yield lambda number: RayWorker(ray, actor.remote(role, settings)), count
    finally:
        if not connected:
            ray.shutdown()


def _connect(ray: Any, options: WorkerOptions, placed: Placement) -> None:
    own = {} if options.address else {"num_cpus": placed.workers * placed.threads}
    try:
        with warnings.catch_warnings():
            # Ray forks and runs another program at once, so that Lance's locks do not matter.
            warnings.filterwarnings("ignore", "lance is not fork-safe")
            ray.init(
                address=options.address or "local",
                include_dashboard=None if options.address else False,
                logging_level="ERROR",
                log_to_driver=False,
                **own,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"the Ray cluster {options.address or 'of this machine'} cannot be reached: "
            f"{first_line(error)}. Start one with `ray start --head`, and name its address"
        ) from error


def _room(ray: Any, needs: dict[str, int]) -> int:
    """How many workers the cluster has room for, each on one node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = (int(min(node.get(name, 0) / need for name, need in needs.items())) for node in nodes)
    return max(1, sum(fits))


def _require_room(ray: Any, needs: dict[str, int]) -> None:
    """An actor that fits no node would be waited for without end."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, need in needs.items():
        most = max((node.get(name, 0) for node in nodes), default=0)
        if most < need:
            raise UsageError(
                f"no node of the Ray cluster has {need} {name}; the largest has {most:g}. "
                "Give it more with `ray start --num-cpus`, or set OMP_NUM_THREADS lower"
            )

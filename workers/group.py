"""A group of workers: it hands out tasks, starts dead workers again, and gives answers back.

A thread per worker takes the next task that waits, so that no worker idles while the owner reads
or commits. Workers are started when tasks wait for them. A task whose worker died goes to the next
worker that is free, twice at most. The owner's callbacks are called in the owner's own thread, from
`submit`, `wait` and `watch`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

from ..schemas.errors import WorkerError
from ..schemas.plain_text import count_of
from .task import Equipment, Task, Worker, WorkerDiedError

RETRIES = 2
"""How often a task is done again after its worker died."""

STARTS = 3
"""Attempts to start a worker, one after the other, before its place stays empty."""

TASKS_PER_WORKER = 2
"""One that it does and one that waits for it: so long may the owner look away."""

NEWS_LETTERS = 160
"""Of what names rows that are done again; an error names them in full."""

WATCH_SECONDS = 0.25
"""Between two looks at what was done, while the owner waits."""


def _shortened(label: str) -> str:
    return label if len(label) <= NEWS_LETTERS else f"{label[:NEWS_LETTERS].rstrip(' ,')} ..."


Report: TypeAlias = Callable[[int, int], None]
"""Receives the rows and tokens done since it was last called; fewer than none where a worker died
and its rows are made again."""


@dataclass
class _Place:
    """The place of one worker, and the thread that serves it."""

    number: int
    thread: threading.Thread | None = None
    worker: Worker | None = None
    idle: bool = True  # or starting: a task that waits will be taken
    empty: bool = False


@dataclass(frozen=True)
class _Owner:
    """Receives what a worker tells about a task."""

    group: WorkerGroup
    task: Task

    def seen(self, rows: int, tokens: int) -> None:
        self.group.note(self.task, rows, tokens)

    def give(self, facts: dict[str, Any], body: bytes = b"") -> None:
        self.task.given.append((facts, body))


class WorkerGroup:
    """Some workers of one role. A context manager, which ends them all.

    Args:
        start: starts the worker with a number (from 0).
        count: of workers.
        say: receives news, such as that a worker died.

    Attributes:
        bound: tasks that are worth having in the group at once.
    """

    def __init__(
        self,
        start: Callable[[int], Worker],
        count: int,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.count, self.bound = count, TASKS_PER_WORKER * count
        self._start, self._say = start, say
        self._changed = threading.Condition()
        self._waiting: deque[Task] = deque()
        self._places = [_Place(number) for number in range(count)]
        self._failure: Exception | None = None
        self._closed = False
        self._news: list[str] = []
        self._done = (0, 0)  # rows and tokens that were not reported yet

    def __enter__(self) -> WorkerGroup:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def submit(self, task: Task) -> None:
        """Queue a task; return at once. A closed group starts anew."""
        with self._changed:
            if self._closed:
                self._closed, self._failure = False, None
                self._places = [_Place(number) for number in range(self.count)]
            self._waiting.append(task)
            free = sum(
                place.thread is not None and place.idle and not place.empty
                for place in self._places
            )
            for place in self._places:
                if place.thread is None and len(self._waiting) > free:
                    place.thread = threading.Thread(target=self._serve, args=[place], daemon=True)
                    place.thread.start()
                    free += 1
            self._changed.notify_all()

    def wait(
        self, task: Task, report: Report, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until a task is done; `meanwhile` is called now and then.

        Raises:
            WorkerError: three workers died of the same task, or none can be started.
            CoresetDBError: what the role raised.
        """
        while task.answer is None:
            self.watch(report)
            meanwhile()
            with self._changed:
                self._changed.wait_for(
                    lambda: task.answer is not None or self._failure, WATCH_SECONDS
                )
        self.tell(report)

    def watch(self, report: Report) -> None:
        """Report what was done meanwhile; raises as `wait`."""
        self.tell(report)
        if self._failure is not None:
            raise self._failure

    def tell(self, report: Report) -> None:
        """Report what was done meanwhile."""
        with self._changed:
            news, self._news = self._news, []
            (rows, tokens), self._done = self._done, (0, 0)
        for sentence in news:
            self._say(sentence)
        if rows or tokens:
            report(rows, tokens)

    def close(self) -> None:
        """End all workers, and forget tasks that are not done; answers that are there stay."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            workers = [place.worker for place in self._places if place.worker is not None]
            self._changed.notify_all()
        for worker in workers:
            worker.end()
        for place in self._places:
            if place.thread is not None:
                place.thread.join()

    def _serve(self, place: _Place) -> None:
        """Keep a worker in a place, and hand it tasks."""
        try:
            while (worker := self._started(place)) is not None:
                with suppress(WorkerDiedError):  # then another is started
                    self._hand_out(place, worker)
                worker.end()
        except Exception as error:  # what the role raised, or a bug: the owner raises it
            self._fail(error)

    def _hear(self, sentence: str) -> None:
        """Keep a sentence until the owner says it."""
        with self._changed:
            if not self._closed:
                self._news.append(sentence)

    def _started(self, place: _Place) -> Worker | None:
        """A worker that is ready; None where the group is closed, or none can be started here."""
        death: WorkerDiedError | None = None
        for _ in range(STARTS):
            try:
                with self._changed:
                    if self._closed or self._failure:
                        return None
                    place.worker = None
                    worker = place.worker = self._start(place.number)
                worker.ready(self._hear)
                return worker
            except WorkerDiedError as error:
                death = error
                if place.worker is not None:
                    place.worker.end()
                self._hear(f"a worker died while it loaded ({death})")
        with self._changed:
            if self._closed:
                return None
            place.empty = True
            if all(other.empty or other.thread is None for other in self._places):
                self._failure = WorkerError(
                    f"no worker can be started: the last one ended while it loaded ({death}). "
                    "Where memory is short, use fewer workers"
                )
            else:
                self._news.append(
                    f"a worker died {STARTS} times while it loaded; the others go on without it"
                )
            self._changed.notify_all()
        return None

    def _hand_out(self, place: _Place, worker: Worker) -> None:
        """Give a worker one task after the other until the group is closed or it dies."""
        equipment: Equipment | None = None
        while (task := self._next(place)) is not None:
            try:
                if task.equipment is not None and task.equipment is not equipment:
                    worker.equip(task.equipment)
                    equipment = task.equipment
                answer = worker.do(task, _Owner(self, task))
            except WorkerDiedError as death:
                self._lost(task, death)
                raise
            with self._changed:
                task.answer = answer
                self._changed.notify_all()

    def _next(self, place: _Place) -> Task | None:
        with self._changed:
            place.idle = True
            self._changed.wait_for(lambda: self._waiting or self._closed or self._failure)
            if self._closed or self._failure:
                return None
            place.idle = False
            return self._waiting.popleft()

    def note(self, task: Task, rows: int, tokens: int) -> None:
        """Count rows and tokens of a task as done, until they are reported."""
        with self._changed:
            task.rows, task.tokens = task.rows + rows, task.tokens + tokens
            self._done = (self._done[0] + rows, self._done[1] + tokens)

    def _lost(self, task: Task, death: WorkerDiedError) -> None:
        """A worker died with a task: have it done again, or give up."""
        self.note(task, -task.rows, -task.tokens)
        with self._changed:
            if self._closed:
                return
            task.deaths += 1
            if task.deaths <= RETRIES:
                self._waiting.appendleft(task)
                again = "once more" if task.deaths == 1 else f"for the {task.deaths + 1}rd time"
                rows = _shortened(task.label())
                self._news.append(f"a worker died ({death}); {rows} are done {again}")
            else:
                self._failure = WorkerError(
                    f"{count_of(task.deaths, 'worker')} died, one after the other, over "
                    f"{task.label()}; the last: {death}. Where memory is short, use fewer workers; "
                    "where one row does it, leave it out"
                )
            self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        with self._changed:
            if not self._closed and self._failure is None:
                self._failure = error
            self._changed.notify_all()

"""Committing to a Lance table among other writers: again when the conflict says so, else clearly.

Inserts, upserts and deletes rebase by themselves inside Lance; what reaches us as "Retryable"
is a race lost too often in a row, or an operation (a new column, a compaction) that any other
commit preempts.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from ..schemas.errors import CoresetDBError, ReadOnlyStoreError, StoreError
from ..schemas.plain_text import first_line, said_by_lance
from .place import disk_full, writing_refused

ATTEMPTS = 12
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 5.0
# "Incompatible" would be final for a stale handle; our actions open the newest version each time
_RETRYABLE = (
    "Retryable commit conflict",
    "Too many concurrent writers",
    "Incompatible transaction",
)

Result = TypeVar("Result")


def committed(what: str, action: Callable[[], Result], attempts: int = ATTEMPTS) -> Result:
    """Run an action that opens the newest version and commits to it, until it gets through.

    Raises:
        StoreError: other writers were quicker every time, the disk is full, or Lance refused.
        ReadOnlyStoreError: the caller may not write to the store.
    """
    last: OSError | None = None
    for attempt in range(attempts):
        try:
            return action()
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            if not lost_race(error):
                kind = ReadOnlyStoreError if writing_refused(str(error)) else StoreError
                raise kind(_sentence(what, error)) from error
            last = error
        except (ValueError, RuntimeError) as error:
            if isinstance(error, CoresetDBError) or not said_by_lance(error):
                raise
            raise StoreError(_sentence(what, error)) from error
        pause = min(_FIRST_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS)
        time.sleep(pause * random.uniform(0.5, 1.0))
    raise StoreError(
        f"{what}: other writers committed first {attempts} times in a row; run it again"
    ) from last


def lost_race(error: OSError) -> bool:
    """Whether an error says no more than that another commit came first."""
    return any(words in str(error) for words in _RETRYABLE)


def _sentence(what: str, error: Exception) -> str:
    if disk_full(str(error)):
        return f"{what}: the disk is full; nothing was committed. Make room and run it again"
    return f"{what}: {first_line(error)}"

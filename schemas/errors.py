"""Every error a user can meet: what was wrong, where, and what to do next.

Each class is also the built-in error a generic handler would expect. The command line prints the
message and leaves with `exit_code`: 1 when the work failed, 2 when the call was wrong. `suggest`
names what there is instead of an unknown name.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_NAMED = 10
"""An error lists up to so many names in full."""

_ALIKE = 3


def suggest(name: str, known: Iterable[str], to_list: str) -> str:
    """Name what there is, for an error about the unknown name `name`.

    Args:
        known: all names.
        to_list: the command that lists them.

    Returns:
        All of them where they are few ("none yet" where there is none); else those most like
        `name`, or the first ones, how many there are, and `to_list`.
    """
    names = sorted(known)
    if len(names) <= _NAMED:
        return ", ".join(names) or "none yet"
    close = get_close_matches(name, names, _ALIKE) or names[:_ALIKE]
    return f"{', '.join([*close, '...'])} ({len(names):,} in all; {to_list})"


class CoresetDBError(Exception):
    """Base of all errors raised on purpose; `str(error)` is a sentence meant for a person."""

    exit_code = 1


class UsageError(CoresetDBError, ValueError):
    """The call itself is wrong: an unknown name, a malformed option, a name already taken."""

    exit_code = 2


class InputError(CoresetDBError, ValueError):
    """A source file cannot be read as a whole (a single bad record is a reject, not an error)."""

    def __init__(self, file: str, problem: str, advice: str) -> None:
        self.file, self.problem, self.advice = file, problem, advice
        super().__init__(f"{file}: {problem}. {advice}")


class NoSuchFileError(InputError):
    """A source names nothing that is there."""

    exit_code = 2


class MappingError(InputError):
    """A mapping names a column that the file does not have."""

    exit_code = 2


class AmbiguousFormatError(InputError):
    """Several shapes fit a file, or none does; the user says which, with --format or --map.

    `options` are those to type, such as `--map "user=context+question,assistant=answer"`; "" where
    nothing suggests itself.
    """

    exit_code = 2

    def __init__(self, file: str, problem: str, advice: str, options: str = "") -> None:
        self.options = options
        super().__init__(file, problem, advice)


class OutputError(CoresetDBError, OSError):
    """A file that was asked for cannot be written: a full disk, a folder without permission."""

    def __init__(self, file: str, problem: str) -> None:
        self.file, self.problem = file, problem
        super().__init__(file, problem)

    def __str__(self) -> str:
        return (
            f"{self.file}: cannot be written ({self.problem}). Make room, or choose another place"
        )


class StoreError(CoresetDBError, OSError):
    """The store cannot be opened, written or trusted."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)

    def __str__(self) -> str:
        return self.message


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no store at this place."""

    exit_code = 2


class ReadOnlyStoreError(StoreError):
    """The store can be read, and whoever asks may not write to it."""


class LayoutError(StoreError):
    """The store was written by a newer coresetdb, in a layout this one cannot read."""


class DamagedStoreError(StoreError):
    """Bytes of the store are not what was written."""


class StoreBusyError(StoreError):
    """Somebody else holds the store's lock."""

    def __init__(self, uri: str, activity: str) -> None:
        self.uri, self.activity = uri, activity
        super().__init__(
            f"{uri}: the store is being {activity} by another process. "
            "Let it finish, then run this again"
        )


class BackboneError(CoresetDBError, ValueError):
    """A model folder cannot serve as a backbone."""


class NoSuchModelError(BackboneError):
    """A name or folder of a model that is not there."""

    exit_code = 2


class FingerprintError(CoresetDBError, ValueError):
    """Features made in different ways were about to be compared."""


class WorkerError(CoresetDBError, RuntimeError):
    """Workers died, one after the other, over the same rows, or none could be started."""


class MissingFeatureError(CoresetDBError, LookupError):
    """The store lacks the feature a method needs."""

    exit_code = 2


class QueryError(CoresetDBError, ValueError):
    """A SQL text or a filter was refused or failed."""

    exit_code = 2


def meant(name: str, known: Iterable[str]) -> str:
    """A question to put behind an unknown name; "" where nothing is much like it."""
    by_small = {each.casefold(): each for each in known}
    close = get_close_matches(name.casefold(), by_small, 1)
    return f". Did you mean {by_small[close[0]]}?" if close else ""

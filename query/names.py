"""Names that users give to targets and coresets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..schemas.errors import UsageError, suggest

if TYPE_CHECKING:
    from ..store.store import Store

LONGEST = 64
_FORM = re.compile(rf"[A-Za-z0-9._-]{{1,{LONGEST}}}")


def check_name(kind: str, name: str) -> str:
    """The name itself, if it can be one.

    Raises:
        UsageError: other characters, too long, or two dots in a row (Lance tags refuse those).
    """
    if not _FORM.fullmatch(name) or ".." in name:
        raise UsageError(
            f"{kind} name {name!r}: use 1 to {LONGEST} letters, digits, dots, dashes and "
            "underscores, no two dots in a row"
        )
    return name


@contextmanager
def naming(store: Store) -> Iterator[None]:
    """Be the only one who gives a name, or takes one away, from looking to the last row written.

    What bears a name stands in several tables, which no commit of Lance covers together.

    Raises:
        StoreBusyError: others were at it for ten minutes.
    """
    with store.named_lock("names"):
        yield


def no_target(store: Store, name: str, there: Sequence[str]) -> str:
    """What is said of a target that is not there, where `there` are those that are."""
    named = suggest(name, there, f"coresetdb target list {store.typed}")
    add = "" if there else f". Add it: coresetdb target add {store.typed} {name} FILE"
    return f"no target {name!r} in {store.uri}; targets: {named}{add}"

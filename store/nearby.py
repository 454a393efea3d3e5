"""Local stores near a place that holds none: what a mistyped path may have meant."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from ..schemas.environment import expanded

LOOKED_AT = 1000
"""The most entries of a folder that are looked at."""

_NAMED = 5


def is_local_store(path: str | os.PathLike[str]) -> bool:
    """Whether a folder of this machine holds a store, sound or not."""
    return (expanded(path) / "pool.lance").is_dir()


def stores_in(folder: Path) -> list[str]:
    """The names of the stores right below a folder, sorted."""
    return sorted(name for name in _folders_in(folder) if is_local_store(folder / name))


def stores_like(path: str) -> list[str]:
    """The stores that a path without a store may have meant, as a person types them.

    Those around it (a table of one, or a folder of several), or with a name much like it.
    """
    place = expanded(path)
    around = [parent for parent in place.parents if is_local_store(parent)]
    inside = [place / name for name in stores_in(place)]
    if around or inside:
        return [_typed(each) for each in (around[:1] or inside)]
    existing = next((parent for parent in place.parents if parent.is_dir()), None)
    if existing is None:
        return []
    name, *rest = place.relative_to(existing).parts or (place.name,)
    folders = {each.casefold(): each for each in _folders_in(existing)}
    alike = [folders[each] for each in get_close_matches(name.casefold(), folders, _NAMED)]
    candidates = [existing.joinpath(each, *rest) for each in alike]
    return [_typed(each) for each in candidates if is_local_store(each)]


def store_hint(path: str) -> str:
    """A question or a list to put behind the message that there is no store at a path; or ""."""
    if "://" in path:
        return ""
    if like := stores_like(path):
        return f". Did you mean {' or '.join(like)}?"
    parent = expanded(path).parent
    beside = stores_in(parent)
    if not beside:
        return ""
    named = ", ".join(_typed(parent / name) for name in beside[:_NAMED])
    more = len(beside) - _NAMED
    return f". Stores beside it: {named}{f' and {more:,} more' if more > 0 else ''}."


def _folders_in(folder: Path) -> Iterator[str]:
    with suppress(OSError):  # it is not there, no folder, or cannot be read
        with os.scandir(folder) as entries:
            yield from [each.name for each in islice(entries, LOOKED_AT) if each.is_dir()]


def _typed(path: Path) -> str:
    """A path from the working folder where it lies below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative

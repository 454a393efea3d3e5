"""Names that users give to targets and coresets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from ..schemas.errors import UsageError, meant, suggest

if TYPE_CHECKING:
    from ..store.store import Store

LONGEST = 64
_FORM = re.compile(rf"[A-Za-z0-9._-]{{1,{LONGEST}}}")
_BETWEEN = re.compile(r"[,;+\s]+")  # what people write between names, and no name has


def check_name(kind: str, name: str) -> str:
    """Return the name, if it is allowed.

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
def name_lock(store: Store) -> Iterator[None]:
    """Hold the lock under which names of targets and coresets are taken and freed.

    The rows of a target or coreset are in several tables, and a commit of Lance covers only one.

    Raises:
        StoreBusyError: others held the lock for ten minutes.
    """
    with store.named_lock("names"):
        yield


def unknown_target(store: Store, name: str, targets: Sequence[str]) -> str:
    """The error message for an unknown target: the known ones, or how to name or add it."""
    several = [part for part in _BETWEEN.split(name) if part]
    listed = f"coresetdb target list {store.typed}"
    if several and several != [name]:
        words, texts = " ".join(several), ", ".join(map(repr, several))
        unknown = sorted(set(several) - set(targets))
        but = f"; targets: {suggest(unknown[0], targets, listed)}" if unknown else ""
        return (
            f"no target {name!r} in {store.uri}: name targets one by one, with spaces between "
            f"where a command takes several: {words} (in Python: {texts}){but}"
        )
    named = suggest(name, targets, listed)
    add = "" if targets else f". Add it: coresetdb target add {store.typed} {name} FILE"
    if name in names_in(store, "coresets"):
        add = f". {name} is a coreset: coresetdb coreset show {store.typed} {name}"
    return f"no target {name!r} in {store.uri}; targets: {named}{add or meant(name, targets)}"


def unknown_coreset(store: Store, name: str, coresets: Sequence[str]) -> str:
    """The error message for an unknown coreset: the known ones."""
    named = suggest(name, coresets, f"coresetdb coreset list {store.typed}")
    target = ""
    if name in names_in(store, "targets"):
        target = f". {name} is a target: coresetdb select {store.typed} {name}"
    also = target or meant(name, coresets)
    return f"no coreset {name!r} in {store.uri}; coresets: {named}{also}"


def names_in(store: Store, table: Literal["coresets", "targets"]) -> set[str]:
    """The names of all coresets or targets of a store."""
    column = "name" if table == "coresets" else "target"
    return set(store.dataset(table).to_table(columns=[column])[column].to_pylist())

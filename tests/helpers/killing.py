"""Stops whatever changes a store before or after its n-th change, as a kill would."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lance

from coresetdb.store.place import Place


class Killed(BaseException):
    """Nothing in the package may catch this."""


_DATASET = importlib.import_module("lance.dataset")  # `lance.dataset` is a function as well

# Everything that changes files of a store goes through one of these.
_CHANGES: tuple[tuple[Any, str], ...] = (
    (Place, "write"),
    (Place, "delete"),
    (os, "replace"),
    (lance, "write_dataset"),
    (lance.LanceDataset, "add_columns"),
    (lance.LanceDataset, "cleanup_old_versions"),
    (lance.LanceDataset, "commit"),
    (lance.LanceDataset, "create_index"),
    (lance.LanceDataset, "delete"),
    (lance.LanceDataset, "drop_columns"),
    (lance.LanceDataset, "drop_index"),
    (lance.LanceDataset, "insert"),
    (lance.LanceDataset, "update_schema_metadata"),
    (_DATASET.DatasetOptimizer, "compact_files"),
    (_DATASET.DatasetOptimizer, "optimize_indices"),
    (_DATASET.MergeInsertBuilder, "execute"),
    (_DATASET.Tags, "create"),
    (_DATASET.Tags, "update"),
    (_DATASET.Tags, "delete"),
)


@contextmanager
def killed_at(moment: int | None) -> Iterator[list[str]]:
    """Raise `Killed` at a moment; gives the list of the moments that were reached.

    Moment 2n is before the n-th change of a file (from 0), and 2n + 1 is after it. None kills
    never, and so counts.
    """

    def kill(reached: list[str]) -> None:
        if moment is not None and len(reached) == moment + 1:
            raise Killed(f"at moment {moment}: {reached[-1]}")

    with watched_changes(kill) as reached:
        yield reached


@contextmanager
def watched_changes(act: Callable[[list[str]], None]) -> Iterator[list[str]]:
    """Call `act` before and after every change of a file, with the moments reached so far."""
    reached: list[str] = []
    originals = [(owner, name, owner.__dict__[name]) for owner, name in _CHANGES]

    def pass_moment(name: str) -> None:
        reached.append(name)
        act(reached)

    def watched(name: str, original: Any) -> Any:
        static = isinstance(original, staticmethod)
        call: Callable[..., Any] = original.__func__ if static else original

        def change(*arguments: Any, **keywords: Any) -> Any:
            pass_moment(f"before {name}")
            result = call(*arguments, **keywords)
            pass_moment(f"after {name}")
            return result

        return staticmethod(change) if static else change

    for owner, name, original in originals:
        setattr(owner, name, watched(name, original))
    try:
        yield reached
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)

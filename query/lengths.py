"""Whose response lengths a selection is to match: a target's examples, or the rows of a coreset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..schemas.errors import UsageError
from .coresets import load_coreset
from .names import quoted

if TYPE_CHECKING:
    from ..store.store import Store
    from .answer import Request
    from .methods import Method

Lengths: TypeAlias = tuple[tuple[int, int], ...]
"""Response tokens and how many rows have that many, ascending."""


def lengths_asked(
    store: Store, request: Request, method: Method
) -> Mapping[str | None, np.ndarray]:
    """The lengths to be matched, (n,) int64, of each target; under None, those of a coreset.

    Empty for methods that match none. A request that names the lengths of its coreset is answered
    by those, whatever has become of the coreset.

    Raises:
        UsageError: there is no such coreset, it has no rows, or no example has an answer.
    """
    if not method.matches_lengths:
        return {}
    if name := method.options["like"]:
        pairs = request.like or _of_coreset(store, name)
        tokens, rows = np.array(pairs, np.int64).T
        return {None: np.repeat(tokens, rows)}
    return {each: _of_target(store, each, request.targets_version) for each in request.targets}


def counted(lengths: np.ndarray) -> Lengths:
    """Lengths (n,) as pairs that can be recorded."""
    tokens, rows = np.unique(lengths, return_counts=True)
    return tuple(zip(tokens.tolist(), rows.tolist(), strict=True))


def _of_coreset(store: Store, name: str) -> Lengths:
    coreset = load_coreset(store, name)
    rows = store.take(coreset.ids, ["response_tokens"], coreset.pool_version)
    lengths = rows["response_tokens"].drop_null().to_numpy()
    if not len(lengths):
        raise UsageError(f"coreset {name!r} has no rows whose lengths could be matched")
    return counted(lengths)


def _of_target(store: Store, target: str, version: int) -> np.ndarray:
    found = store.dataset("targets", version).to_table(
        columns=["response_tokens"], filter=f"target = {quoted(target)} AND response_tokens > 0"
    )
    if not found.num_rows:
        raise UsageError(
            f"no example of target {target!r} has an answer, so there is no length to match. "
            "Name a coreset: length_matched(like=CORESET)"
        )
    return found["response_tokens"].to_numpy().astype(np.int64)

"""Explain: why a row stands in a coreset, from what is stored; no model runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...schemas.budget import parse_budget
from ...schemas.errors import FingerprintError, MissingFeatureError, UsageError
from ..answer import Request, answer, what_is_asked
from ..conversations import conversations
from ..coresets import Coreset, load_coreset
from ..names import quoted
from ..ranking import MEMORY_LIMIT
from ..replay import request_of
from .explain_beside import beside
from .explain_inside import inside
from .explanation import Explanation, Neighbour, Without
from .score_words import score_words

if TYPE_CHECKING:
    from ...store.store import Store

LEAST_BEGINNING = 6
"""Characters of an id that stand for the whole, if no other row of the coreset begins so."""


def explain(
    store: Store,
    coreset: str,
    row: str | int,
    *,
    without: bool = False,
    memory_limit: int = MEMORY_LIMIT,
) -> Explanation:
    """Say why a row stands in a coreset, as far as its method lets it be said.

    Args:
        store: an open store.
        coreset: its name.
        row: an id, the beginning of one, or a rank (`17`, `#17`).
        without: also select again from the pool less this row, which takes as long as the
            selection did.
        memory_limit: bytes that this selection may plan for.

    Raises:
        UsageError: there is no such coreset, or no such row in it; or the limit is too low.
    """
    chosen = load_coreset(store, coreset)
    member = member_of(chosen, row)
    found = _alone(store, chosen, member)
    try:
        request = request_of(store, chosen)
        asked = what_is_asked(store, request)
    except (UsageError, MissingFeatureError, FingerprintError) as error:
        # What it was chosen by is gone since; the row itself is not.
        return replace(found, cannot=(f"Its target and scores: {error}",))
    found = replace(found, score_is=score_words(asked.method))
    found = beside(store, chosen, found, request, asked)
    found = inside(store, chosen, found, request, asked)
    if not without:
        return found
    if chosen.parameters.get("approximate") and not request.approximate:
        why = "What would come in instead: the index that found the rows is gone"
        return replace(found, cannot=(*found.cannot, why))
    return replace(found, without=_without(store, chosen, found, request, memory_limit))


def member_of(coreset: Coreset, row: str | int) -> dict[str, Any]:
    """The member of a coreset that a rank, an id or the beginning of one names.

    Raises:
        UsageError: none, or more than one.
    """
    text = str(row).strip().lower()
    rank = text.removeprefix("#")
    if rank.isdecimal() and len(rank) < 32:
        if not 1 <= int(rank) <= len(coreset):
            raise UsageError(f"{coreset.name} has no rank {rank}: it has {len(coreset):,} rows")
        return coreset.members.slice(int(rank) - 1, 1).to_pylist()[0]
    places = [place for place, each in enumerate(coreset.ids) if each.startswith(text)]
    if len(text) < LEAST_BEGINNING:
        raise UsageError(f"row {row!r}: give a rank, or {LEAST_BEGINNING} characters of an id")
    if not places:
        raise UsageError(
            f"row {row!r} is not in {coreset.name}. Its rows: coresetdb sql {coreset.store.typed} "
            f'"SELECT rank, id FROM coreset_rows WHERE coreset = {quoted(coreset.name)}"'
        )
    if len(places) > 1:
        raise UsageError(f"row {row!r}: {len(places)} ids of {coreset.name} begin so, give more")
    return coreset.members.slice(places[0], 1).to_pylist()[0]


def _alone(store: Store, coreset: Coreset, member: dict[str, Any]) -> Explanation:
    """What the coreset itself says of a row, and the row's text."""
    (row,) = conversations(store, [member["id"]], coreset.pool_version)
    after = coreset.members.slice(member["rank"], 1).to_pylist()
    following = [Neighbour(each["rank"], each["id"], each["score"]) for each in after]
    return Explanation(
        coreset=coreset.name,
        method=coreset.method,
        rows=len(coreset),
        rank=member["rank"],
        id=member["id"],
        corpus=member["corpus"],
        score=member["score"],
        target=member["target"],
        messages=row["messages"],
        tools=row.get("tools"),
        next=following[0] if following else None,
    )


def _without(
    store: Store, coreset: Coreset, found: Explanation, request: Request, memory_limit: int
) -> Without:
    """Answer the request again, from a pool that lacks the row."""
    other = f"id <> {quoted(found.id)}"
    tokens = request.budget.unit == "tokens"
    again = replace(
        request,
        where=f"({request.where}) AND {other}" if request.where else other,
        # A share of one row less could be another number of rows.
        budget=request.budget if tokens else parse_budget(str(len(coreset))),
    )
    now = answer(store, again, memory_limit).picks.ids
    before = set(coreset.ids)
    goes = before - {found.id} - set(now)
    return Without(
        comes=tuple(each for each in now if each not in before),
        goes=tuple(each for each in coreset.ids if each in goes),
    )

"""Explain why a row is in a coreset, from what is stored; no model runs.

A row is explained by what is beside it, the targets' examples and the rows chosen before it; by
what its method saw inside it, numbers, tokens, layers, neurons or words; and by what its score
means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.amounts import parse_budget
from ...schemas.conversations import conversation_columns, conversations_in
from ...schemas.errors import FingerprintError, MissingFeatureError, UsageError
from ...schemas.stored_vectors import vectors_of
from ...schemas.tables import literal
from ..coresets import Coreset, load_coreset
from ..features import Feature, comparison_of
from ..methods import Method
from ..queries import Queries, load_queries
from ..ranking import MEMORY_LIMIT
from ..replay import request_of
from ..request import Request, ResolvedRequest, resolve_request
from ..result_rows import conversations
from ..selection import answer
from ..snapshot import Snapshot
from .explanation import ComparedExample, Explanation, Neighbour, Without
from .internals import (
    layer_frame,
    neuron_gains,
    profile_frame,
    scorer_and_row,
    shared_words,
    token_frame,
)

if TYPE_CHECKING:
    import polars as pl

    from ...store.store import Store


MOST_SIMILAR = 3
"""Examples that are shown in addition to the one that pulled a row."""

LEAST_BEGINNING = 6
"""Least characters of an id that name a row, if no other id of the coreset begins with them."""

MOST_VECTOR_BYTES = 256 << 20
"""What the vectors of a coreset may take where many of its rows are explained."""

_CLOSE = 1e-5
"""Largest relative difference between the sum of a gain's parts and the recorded score."""


def explain(
    store: Store,
    coreset: str,
    row: str | int,
    *,
    without: bool = False,
    memory_limit: int = MEMORY_LIMIT,
) -> Explanation:
    """Explain why a row is in a coreset, as far as its method allows.

    Args:
        store: an open store.
        coreset: its name.
        row: an id, the beginning of one, or a rank (`17`, `#17`).
        without: select again from the pool without this row as well, which takes as long as the
            selection did.
        memory_limit: bytes that this selection may plan for.

    Raises:
        UsageError: there is no such coreset, or no such row in it; or the limit is too low.
    """
    chosen = load_coreset(store, coreset)
    explainer = Explainer(store, chosen)
    explanation = explainer.explain(_member_of(chosen, row))
    selection = explainer.selection
    if not without or selection is None:
        return explanation
    if chosen.parameters.get("approximate") and not selection.request.approximate:
        why = "What would come in instead: the index that found the rows is gone"
        return replace(explanation, cannot=(*explanation.cannot, why))
    return replace(explanation, without=_without(selection, explanation, memory_limit))


class Explainer:
    """Explains rows of one coreset, one after another; what they have in common is read once.

    Args:
        store: an open store.
        coreset: with the rows to be explained among its members.
        many: keep the vectors of its members in memory, as far as `MOST_VECTOR_BYTES` allows.

    Attributes:
        selection: that chose the rows; None where it cannot be made again.
    """

    def __init__(self, store: Store, coreset: Coreset, *, many: bool = False) -> None:
        self._store, self._coreset = store, coreset
        self.selection: _Selection | None = None
        self._why_none = ""
        try:
            snapshot, request = request_of(store, coreset)
            resolved = resolve_request(snapshot, request)
        except (UsageError, MissingFeatureError, FingerprintError) as error:
            # What they were chosen by is gone; the rows themselves are not.
            self._why_none = f"Its target and scores: {error}"
        else:
            self.selection = _Selection(snapshot, coreset, request, resolved, many)

    def explain(self, member: dict[str, Any]) -> Explanation:
        """Explain one of the members, a row of the coreset's table.

        Raises:
            UsageError: the row was purged.
        """
        explanation = _recorded(self._store, self._coreset, member)
        selection = self.selection
        if selection is None:
            return replace(explanation, cannot=(self._why_none,))
        phrase = _score_phrase(selection.resolved.method)
        if selection.request.group is not None:
            phrase = _GROUP_PHRASES[selection.resolved.method.selector.name]
            explanation = replace(
                explanation,
                group=selection.query_of(explanation),
                group_field=selection.request.group,
            )
        explanation = replace(explanation, score_is=phrase)
        explanation = _with_similarities(selection, explanation)
        return _with_parts(selection, explanation)


def _member_of(coreset: Coreset, row: str | int) -> dict[str, Any]:
    """Return the member of a coreset named by a rank, an id or the beginning of an id.

    Raises:
        UsageError: none, or more than one.
    """
    text = str(row).strip().lower()
    rank = text.removeprefix("#")
    if rank.isdecimal() and len(rank) < 32:
        if not 1 <= int(rank) <= len(coreset):
            raise UsageError(f"{coreset.name} has no rank {rank}: it has {len(coreset):,} rows")
        return coreset.members.slice(int(rank) - 1, 1).to_pylist()[0]
    places = [place for place, id in enumerate(coreset.ids) if id.startswith(text)]
    if len(text) < LEAST_BEGINNING:
        raise UsageError(f"row {row!r}: give a rank, or {LEAST_BEGINNING} characters of an id")
    if not places:
        raise UsageError(
            f"row {row!r} is not in {coreset.name}. Its rows: coresetdb sql {coreset.store.typed} "
            f'"SELECT rank, id FROM coreset_rows WHERE coreset = {literal(coreset.name)}"'
        )
    if len(places) > 1:
        raise UsageError(
            f"row {row!r}: {len(places)} ids of {coreset.name} begin with it: give more characters"
        )
    return coreset.members.slice(places[0], 1).to_pylist()[0]


def _recorded(store: Store, coreset: Coreset, member: dict[str, Any]) -> Explanation:
    """Return what the coreset records of a row, and the row's text."""
    stone = coreset.removed.get(member["id"])
    if stone and stone.purged:
        why = f" ({stone.why})" if stone.why else ""
        raise UsageError(
            f"rank {member['rank']} of {coreset.name}, {member['id']}, was purged from the pool on "
            f"{stone.removed_at:%Y-%m-%d}{why}: nothing is left of it to explain"
        )
    (row,) = conversations(store, [member["id"]], coreset.pool_version)
    readable = coreset.readable
    after = readable.filter(pc.greater(readable["rank"], member["rank"])).slice(0, 1).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
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


@dataclass(frozen=True)
class _Selection:
    """The selection that chose a row: its coreset, what was asked for, and the tables it read."""

    snapshot: Snapshot
    coreset: Coreset
    request: Request
    resolved: ResolvedRequest
    many: bool = False

    @cached_property
    def compared(self) -> tuple[Feature | None, list[Queries]]:
        """A feature with vectors that the pool and every target has, and the examples' vectors."""
        return compared_vectors(self.snapshot, self.request, self.resolved)

    @cached_property
    def member_vectors(self) -> np.ndarray | None:
        """Of the members that can be read, (n, d) float32; None where they would not fit."""
        feature, ids = self.compared[0], self.coreset.readable["id"].to_pylist()
        if not self.many or feature is None or len(ids) * feature.width * 4 > MOST_VECTOR_BYTES:
            return None
        return _vectors(self.snapshot, feature, ids)

    def query_of(self, explanation: Explanation) -> str | None:
        """Return the example that the row was chosen for, None where the method names none."""
        return self.coreset.members["query"][explanation.rank - 1].as_py()


def _with_similarities(selection: _Selection, explanation: Explanation) -> Explanation:
    """Add how similar a row is to the targets' examples and to the rows ranked before it.

    By the method's own vectors; where it has none, by those of the first feature that pool and
    targets share, whose name is then in `compared_by`.
    """
    snapshot, request, resolved = selection.snapshot, selection.request, selection.resolved
    recorded = None if explanation.group is not None else selection.query_of(explanation)
    cannot = list(explanation.cannot)
    if request.targets and recorded is None and explanation.group is None:
        cannot.append(f"Which example pulled it: {_why_no_example(resolved, explanation.target)}")
    feature, queries = selection.compared
    own = None
    if feature is None:
        cannot.append(
            "What it is similar to: the store has no feature with a cosine (rds, less, ...)"
        )
    else:
        own = _vectors(snapshot, feature, [explanation.id])[0]
        if np.isnan(own).any():
            own = None
            cannot.append(f"What it is similar to: the row has no {feature.name}")
    similar = {} if own is None else _similarities(queries, own)
    examples = _examples(snapshot, similar, (explanation.target, recorded))
    explanation = replace(explanation, examples=examples, cannot=tuple(cannot))
    if feature is None or own is None:
        return explanation
    return replace(
        explanation,
        compared_by=feature.name,
        asked=len(similar),
        nearest=_nearest(selection, feature, own, explanation.rank),
        next=_with_similarity(snapshot, feature, own, explanation.next),
    )


def compared_vectors(
    snapshot: Snapshot, request: Request, resolved: ResolvedRequest
) -> tuple[Feature | None, list[Queries]]:
    """Return a feature with vectors that pool and targets share, and the examples' vectors.

    The method's own where it has vectors; (None, []) where no feature is shared.
    """
    if resolved.feature and resolved.feature.column:
        return resolved.feature, resolved.queries
    for feature in snapshot.features.values():
        if feature.column is None:
            continue
        try:
            return feature, [load_queries(snapshot, target, feature) for target in request.targets]
        except (UsageError, MissingFeatureError, FingerprintError):
            continue  # a target lacks this one; the next may do
    return None, []


def _why_no_example(resolved: ResolvedRequest, target: str | None) -> str:
    if not resolved.method.needs_target:
        return f"{resolved.method} uses no target"
    return f"{resolved.method} compares rows with target {target} as a whole"


def _similarities(queries: Sequence[Queries], own: np.ndarray) -> dict[tuple[str, str], float]:
    """The cosine of every example (target, id) that has a vector, the highest first."""
    names = [(query.target, example) for query in queries for example in query.ids]
    parts = [query.vectors for query in queries if query.vectors is not None]
    if not parts:
        return {}
    similarities = (np.concatenate(parts).astype(np.float32) @ own).tolist()
    order = sorted(range(len(names)), key=lambda at: (-similarities[at], at))
    return {names[at]: similarities[at] for at in order}


def _examples(
    snapshot: Snapshot,
    similar: Mapping[tuple[str, str], float],
    pulling: tuple[str | None, str | None],
) -> tuple[ComparedExample, ...]:
    """The example that pulled the row and the most similar ones, best first."""
    places = {name: place for place, name in enumerate(similar, start=1)}
    others = [name for name in similar if name != pulling][:MOST_SIMILAR]
    target, example = pulling
    pulled = [(target, example)] if target is not None and example is not None else []
    # One that has no vector comes first.
    wanted = sorted([*pulled, *others], key=lambda name: places.get(name, 0))
    texts = _texts(snapshot, wanted)
    return tuple(
        ComparedExample(
            target=name[0],
            id=name[1],
            position=texts[name][0] + 1,
            similarity=similar.get(name),
            place=places.get(name),
            pulled=name == pulling,
            messages=texts[name][1],
        )
        for name in wanted
    )


def _texts(
    snapshot: Snapshot, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[int, list[dict]]]:
    """Position and messages of some examples."""
    if not wanted:
        return {}
    ids = ", ".join(dict.fromkeys(literal(example) for _, example in wanted))
    columns = ["target", "id", "position", *conversation_columns(snapshot.targets.schema)]
    rows = snapshot.targets.to_table(columns=columns, filter=f"id IN ({ids})")
    texts = {}
    for row, instruction in zip(rows.to_pylist(), conversations_in(rows), strict=True):
        text = [message.as_stored() for message in instruction.messages]
        texts[row["target"], row["id"]] = (row["position"], text)
    return texts


def _nearest(
    selection: _Selection, feature: Feature, own: np.ndarray, rank: int
) -> Neighbour | None:
    """Of the rows ranked before, the most similar one; the lower rank of equals."""
    before = _ranked_before(selection.coreset, rank)
    if not before.num_rows:
        return None
    if (kept := selection.member_vectors) is not None:
        cosines = kept[: before.num_rows] @ own  # members are in order of rank
    else:
        cosines = _vectors(selection.snapshot, feature, before["id"].to_pylist()) @ own
    if np.isnan(cosines).all():
        return None
    (row,) = before.slice(int(np.nanargmax(cosines)), 1).to_pylist()
    return Neighbour(row["rank"], row["id"], row["score"], float(np.nanmax(cosines)))


def _ranked_before(coreset: Coreset, rank: int) -> pa.Table:
    """The members of lower ranks, as far as they were not purged."""
    readable = coreset.readable
    return readable.filter(pc.less(readable["rank"], rank))  # pyright: ignore[reportAttributeAccessIssue]


def _with_similarity(
    snapshot: Snapshot, feature: Feature, own: np.ndarray, other: Neighbour | None
) -> Neighbour | None:
    if other is None:
        return None
    cosine = float(_vectors(snapshot, feature, [other.id])[0] @ own)
    return replace(other, similarity=None if np.isnan(cosine) else cosine)


def _vectors(snapshot: Snapshot, feature: Feature, ids: Sequence[str]) -> np.ndarray:
    """(n, d) float32; NaN for rows without the feature."""
    column = feature.column
    assert column is not None
    parts = [
        _matrix(part[column].combine_chunks(), feature.width)
        for part in snapshot.stream(ids, [column])
    ]
    return np.concatenate(parts)


def _matrix(vectors: pa.Array, width: int) -> np.ndarray:
    matrix = np.full((len(vectors), width), np.nan, np.float32)
    present = np.asarray(vectors.is_valid())
    matrix[present] = vectors_of(vectors)
    return matrix


def _with_parts(selection: _Selection, explanation: Explanation) -> Explanation:
    """Add the parts of the row that the method looks at: tokens, layers, neurons or words."""
    snapshot = selection.snapshot
    feature, method = selection.resolved.feature, selection.resolved.method
    if feature is None or not method.uses_feature:
        return explanation
    explanation = replace(explanation, values=_numbers(snapshot, feature, explanation.id))
    if method.uses_sets:
        return _with_neurons(selection, explanation, feature)
    if method.uses_words:
        return _with_words(selection, explanation, feature)
    if comparison_of(feature.representation) == "target_scorer" and explanation.target:
        return _piece_by_piece(snapshot, explanation)
    return explanation


def _numbers(snapshot: Snapshot, feature: Feature, row: str) -> dict[str, float | None]:
    """The plain numbers among the feature's columns."""
    schema = snapshot.pool.schema
    plain = [
        column
        for column in feature.recipe.columns
        if pa.types.is_floating(schema.field(column).type)
        or pa.types.is_integer(schema.field(column).type)
    ]
    return snapshot.take([row], plain).to_pylist()[0] if plain else {}


def _piece_by_piece(snapshot: Snapshot, explanation: Explanation) -> Explanation:
    """Add tokens, layers or neurons, whichever the scorer of the row's target looks at."""
    from ...ingest.representations.mads_profile import ProfileScorer
    from ...ingest.representations.nait_scores import DirectionScorer
    from ...ingest.representations.trim_scores import TokenScorer

    assert explanation.target is not None
    try:
        scorer, rows = scorer_and_row(
            snapshot, explanation.target, explanation.id, explanation.method
        )
    except MissingFeatureError as error:
        return replace(
            explanation, cannot=(*explanation.cannot, f"Its score piece by piece: {error}")
        )
    if isinstance(scorer, TokenScorer):
        return replace(explanation, tokens=token_frame(snapshot.store, scorer, rows))
    if isinstance(scorer, DirectionScorer):
        return replace(explanation, layers=layer_frame(scorer, rows))
    if isinstance(scorer, ProfileScorer):
        return replace(explanation, neurons=profile_frame(snapshot, scorer, rows))
    return explanation


def _with_words(selection: _Selection, explanation: Explanation, feature: Feature) -> Explanation:
    """Add the words shared with the example that pulled the row, or with all of its target."""
    pulling = selection.query_of(explanation)
    examples = [
        (query.target, example)
        for query in selection.resolved.queries
        for example in query.ids
        if explanation.target == query.target and pulling in (None, example)
    ]
    words = shared_words(selection.snapshot, feature, explanation.id, examples)
    return replace(explanation, words=words)


def _with_neurons(selection: _Selection, explanation: Explanation, feature: Feature) -> Explanation:
    method = selection.resolved.method
    before = _ranked_before(selection.coreset, explanation.rank)
    units = None
    if method.needs_target:  # every target has a ranking of its own
        own = [target == explanation.target for target in before["target"].to_pylist()]
        before = before.filter(pa.array(own, pa.bool_()))
        queries = selection.resolved.queries
        units = next(query.units for query in queries if query.target == explanation.target)
    frame = neuron_gains(
        selection.snapshot,
        feature,
        method,
        explanation.id,
        before["id"].to_pylist(),
        where=selection.request.where,
        target_units=units,
    )
    if not _adds_up(frame, explanation.score):
        why = (
            "Its gain neuron by neuron: when it was taken, other rows counted as well, chosen for "
            "another target or left out of the coreset by a rule"
        )
        return replace(explanation, cannot=(*explanation.cannot, why))
    return replace(explanation, neurons=frame)


def _adds_up(frame: pl.DataFrame, score: float | None) -> bool:
    return score is not None and abs(float(frame["gain"].sum()) - score) <= _CLOSE * max(1.0, score)


_SCORE_PHRASES = {
    "random": "none: rows are drawn at random, and their order means nothing",
    "source_balanced": "none: corpora take turns, and the rows of each are drawn at random",
    "length_matched": "none: the rows of each length are drawn at random",
    "round_robin": "its similarity to the example whose turn it was",
    "knn_uniform": "its share of the examples' nearest neighbours",
    "knn_kde": "its share of the examples' nearest neighbours, less in a crowd",
    "uot": "the share of the examples' mass that transport sends it",
    "coverage": "what it added to the coverage when it was taken",
    "facility_location": "by how much it brought the pool nearer when it was taken, in cosines",
    "k_center": "1 - its highest cosine to a row taken before (3 for the first)",
}


_GROUP_PHRASES = {
    "top": "its mean similarity to the examples of the group most similar to it",
    "round_robin": "its mean similarity to the examples of the group whose turn it was",
}


def _score_phrase(method: Method) -> str | None:
    """Return a phrase that follows "score 0.83, "; None for selectors of other packages."""
    name, made_by, options = method.selector.name, method.made_by, method.options
    if name in ("top", "round_robin") and made_by and comparison_of(made_by) != "cosine":
        if method.needs_target:
            return f"given by {method.representation} for the target as a whole"
        by = f" ({method.asked['score']})" if "score" in method.asked else ""
        return f"given by {method.representation}{by}, which needs no target"
    if name == "deita_filter" or (name == "top" and made_by is None):
        return f"its {options['score']}"
    if options.get("draw") == "with":
        return f"how often it was drawn, of {options['draws']:,} times"
    if options.get("draw") == "without":
        return f"{_SCORE_PHRASES[name]}, over a random wait: rows are drawn by their shares"
    if name == "top":
        by = {"mean": "mean", "max": "highest"}[options["by"]]
        return f"its {by} {'squared ' if method.ignores_sign else ''}similarity over the examples"
    if name == "round_robin" and method.ignores_sign:
        return "its squared similarity to the example whose turn it was"
    if name == "bm25":
        by = {"turns": "for the example whose turn it was", "mean": "mean over the examples"}
        return f"its BM25, {by.get(options['by'], 'the highest over the examples')}"
    if name == "dsir":
        drawn = ", plus the random number of the draw" if options["gumbel"] else ""
        return f"log of how much likelier its words are in the target than in the pool{drawn}"
    return _SCORE_PHRASES.get(name)


def _without(selection: _Selection, explanation: Explanation, memory_limit: int) -> Without:
    """Select again, from a pool without the row."""
    coreset, request = selection.coreset, selection.request
    other = f"id <> {literal(explanation.id)}"
    again = replace(
        request,
        where=f"({request.where}) AND {other}" if request.where else other,
        # A share of one row less could be another number of rows.
        budget=request.budget if request.budget.token_column else parse_budget(str(len(coreset))),
    )
    now = answer(selection.snapshot, again, memory_limit).picks.ids
    before = set(coreset.ids)
    goes = before - {explanation.id} - set(now)
    return Without(
        comes=tuple(id for id in now if id not in before),
        goes=tuple(id for id in coreset.ids if id in goes),
    )

"""What stands beside a row of a coreset: the targets' examples, and the rows chosen before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...schemas.errors import FingerprintError, MissingFeatureError, UsageError
from ...schemas.instruction import Instruction
from ..answer import Asked, Request
from ..coresets import Coreset
from ..features import Feature, features_of
from ..names import quoted
from ..queries import Queries, load_queries
from .explanation import Example, Explanation, Neighbour

if TYPE_CHECKING:
    from ...store.store import Store

MOST_SIMILAR = 3
"""Examples that are shown beside the one that pulled a row."""


def beside(
    store: Store, coreset: Coreset, found: Explanation, request: Request, asked: Asked
) -> Explanation:
    """Hold a row against the targets' examples and against the rows ranked before it.

    By the method's own vectors; where it has none, by those of the first feature that pool and
    targets have, which is then told as `compared_by`.
    """
    recorded = coreset.members["query"][found.rank - 1].as_py()
    cannot = list(found.cannot)
    if request.targets and recorded is None:
        cannot.append(f"Which example pulled it: {_nobody(asked, found.target)}")
    feature, queries = _held_against(store, request, asked)
    own = None
    if feature is None:
        cannot.append("What it is similar to: no feature with a cosine (rds, less, embed) is there")
    else:
        own = _vectors(store, feature, [found.id], coreset.pool_version)[0]
        if np.isnan(own).any():
            own = None
            cannot.append(f"What it is similar to: the row has no {feature.name}")
    similar = {} if own is None else _similarities(queries, own)
    examples = _examples(store, similar, (found.target, recorded), request.targets_version)
    found = replace(found, examples=examples, cannot=tuple(cannot))
    if feature is None or own is None:
        return found
    return replace(
        found,
        compared_by=feature.name,
        asked=len(similar),
        nearest=_nearest(store, coreset, feature, own, found.rank),
        next=_with_similarity(store, feature, own, found.next, coreset.pool_version),
    )


def _held_against(
    store: Store, request: Request, asked: Asked
) -> tuple[Feature | None, list[Queries]]:
    """A feature with vectors that the pool and every target has, and the examples' vectors."""
    if asked.feature and asked.feature.column:
        return asked.feature, asked.queries
    for feature in features_of(store, request.pool_version).values():
        if feature.column is None:
            continue
        try:
            version = request.targets_version
            return feature, [
                load_queries(store, each, feature, version) for each in request.targets
            ]
        except (UsageError, MissingFeatureError, FingerprintError):
            continue  # a target lacks this one; the next may do
    return None, []


def _nobody(asked: Asked, target: str | None) -> str:
    if not asked.method.needs_target:
        return f"{asked.method} asks no target"
    return f"{asked.method} asks with target {target} as a whole"


def _similarities(queries: Sequence[Queries], own: np.ndarray) -> dict[tuple[str, str], float]:
    """The cosine of every example (target, id) that has a vector, the highest first."""
    names = [(each.target, example) for each in queries for example in each.ids]
    parts = [each.vectors for each in queries if each.vectors is not None]
    if not parts:
        return {}
    similarities = (np.concatenate(parts).astype(np.float32) @ own).tolist()
    order = sorted(range(len(names)), key=lambda at: (-similarities[at], at))
    return {names[at]: similarities[at] for at in order}


def _examples(
    store: Store,
    similar: Mapping[tuple[str, str], float],
    pulling: tuple[str | None, str | None],
    version: int,
) -> tuple[Example, ...]:
    """The example that pulled the row and the most similar ones, best first."""
    places = {name: place for place, name in enumerate(similar, start=1)}
    others = [name for name in similar if name != pulling][:MOST_SIMILAR]
    target, example = pulling
    pulled = [(target, example)] if target is not None and example is not None else []
    # One that has no vector stands in front.
    wanted = sorted([*pulled, *others], key=lambda name: places.get(name, 0))
    texts = _texts(store, wanted, version)
    return tuple(
        Example(
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
    store: Store, wanted: Sequence[tuple[str, str]], version: int
) -> dict[tuple[str, str], tuple[int, list[dict]]]:
    """Position and messages of some examples."""
    if not wanted:
        return {}
    ids = ", ".join(dict.fromkeys(quoted(example) for _, example in wanted))
    rows = store.dataset("targets", version).to_table(
        columns=["target", "id", "position", "messages"], filter=f"id IN ({ids})"
    )
    texts = {}
    for row in rows.to_pylist():
        messages = Instruction.from_row(row["messages"], None).messages
        text = [message.as_dict() for message in messages]
        texts[row["target"], row["id"]] = (row["position"], text)
    return texts


def _nearest(
    store: Store, coreset: Coreset, feature: Feature, own: np.ndarray, rank: int
) -> Neighbour | None:
    """Of the rows ranked before, the most similar one; the lower rank of equals."""
    before = coreset.members.slice(0, rank - 1)
    if not before.num_rows:
        return None
    cosines = _vectors(store, feature, before["id"].to_pylist(), coreset.pool_version) @ own
    if np.isnan(cosines).all():
        return None
    (row,) = before.slice(int(np.nanargmax(cosines)), 1).to_pylist()
    return Neighbour(row["rank"], row["id"], row["score"], float(np.nanmax(cosines)))


def _with_similarity(
    store: Store, feature: Feature, own: np.ndarray, other: Neighbour | None, version: int
) -> Neighbour | None:
    if other is None:
        return None
    cosine = float(_vectors(store, feature, [other.id], version)[0] @ own)
    return replace(other, similarity=None if np.isnan(cosine) else cosine)


def _vectors(store: Store, feature: Feature, ids: Sequence[str], version: int) -> np.ndarray:
    """(n, d) float32; NaN for rows without the feature."""
    column = feature.column
    assert column is not None
    parts = [
        _matrix(part[column].combine_chunks(), feature.width)
        for part in store.stream(ids, [column], version)
    ]
    return np.concatenate(parts)


def _matrix(vectors: pa.Array, width: int) -> np.ndarray:
    matrix = np.full((len(vectors), width), np.nan, np.float32)
    present = np.asarray(vectors.is_valid())
    matrix[present] = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return matrix

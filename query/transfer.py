"""Transfer between targets: what one target's directions find in another's examples (METHODS 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ingest.representations.representation import Scorer
from ..schemas.errors import UsageError
from .comparison import columns_for, scorer_of, understood
from .features import Feature, comparison_of
from .names import quoted
from .queries import load_queries

if TYPE_CHECKING:
    import polars as pl

    from ..store.store import Store


def transfer(store: Store, targets: Sequence[str], method: str = "nait") -> pl.DataFrame:
    """The mean score of every target's examples as every other target scores them.

    The diagonal is null: a target's own examples made what it scores by.

    Args:
        store: that holds the targets.
        targets: two or more names.
        method: one that scores rows for a target as a whole, with the options of its comparison.

    Returns:
        A row for each target whose examples are scored (`examples`), a column for each target
        that scores, named after it, float64; null where no example has the feature.

    Raises:
        UsageError: fewer than two targets, an unknown one, or a method of another kind.
        MissingFeatureError, FingerprintError: as for a selection.
    """
    import polars as pl

    names = list(dict.fromkeys(targets))
    if len(names) < 2:
        raise UsageError("transfer compares targets with one another: name two or more")
    asked, feature = understood(store, method)
    if feature is None or comparison_of(feature.representation) != "target_scorer":
        raise UsageError(f"{asked}: transfer takes a method that scores for a target, such as nait")
    scorers = {
        name: scorer_of(store, feature, asked, load_queries(store, name, feature)) for name in names
    }
    columns: dict[str, Any] = {"examples": names}
    for scoring, scorer in scorers.items():
        columns[scoring] = [
            None if scoring == name else _mean(store, feature, scorer, name) for name in names
        ]
    return pl.DataFrame(columns, schema_overrides=dict.fromkeys(names, pl.Float64))


def _mean(store: Store, feature: Feature, scorer: Scorer, target: str) -> float | None:
    rows = store.dataset("targets").to_table(
        columns=[feature.columns[own] for own in scorer.columns],
        filter=f"target = {quoted(target)}",
    )
    scores = scorer.scores(columns_for(scorer, feature, rows)).astype(np.float64)
    scores = scores[~np.isnan(scores)]
    return float(scores.mean()) if len(scores) else None

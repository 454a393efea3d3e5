"""Whether fits still suit corpora that were ingested later; reads columns, runs no model.

Of every row a column `..._kept` has the share of energy that a basis keeps. The loss on a corpus is
compared with the loss on the sample that the basis was fitted on. An ensemble's gradient norms are
compared between rows it was trained on and others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..schemas.errors import UsageError
from ..schemas.recipe import Recipe
from ..store.catalog import facts_of
from ..store.status import Status, status_of
from ..store.store import Store
from .create import pending, recipes_of
from .representations.gradfiltering import seen_gap
from .representations.registry import FeatureSpec, columns_of

KEPT = "_kept"

LOSS_GROWN = 2.0
LOSS_MINDED = 0.05
"""A refit is due where a basis loses twice what it lost of its sample, and at least 5 %.

The error of a stored cosine grows with the square root of the energy lost. A basis is as wide as
its sample asked for; at twice the loss the error is 1.4 times what was accepted then.
"""


def status(store: Store) -> Status:
    """Return the status of a store: what it holds, what is pending, whether its fits suit it."""
    bases = basis_drift(store)
    due = advice(store, bases)
    try:
        waiting = [str(spec) for spec in pending(store)]
    except UsageError as error:  # a feature of a package that is not installed here
        waiting, due = [], [*due, str(error)]
    return replace(
        status_of(store), pending=waiting, bases=bases, ensembles=ensemble_gap(store), due=due
    )


def basis_drift(store: Store) -> list[dict[str, Any]]:
    """Return for every basis and corpus how much of the energy the basis keeps.

    Keys: basis (a column), corpus, rows, kept (share of energy), of the sample (the same for the
    sample, None where it is not known), refit due.
    """
    drift: list[dict[str, Any]] = []
    pool = store.dataset("pool")
    for recipe in recipes_of(store):
        for own, column in columns_of(recipe).items():
            if not own.endswith(KEPT) or column not in pool.schema.names:
                continue
            rows = pool.to_table(columns=["corpus", column])
            usual = _of_the_sample(store, recipe)
            grouped = rows.group_by("corpus").aggregate([(column, "count"), (column, "mean")])
            for group in sorted(grouped.to_pylist(), key=lambda group: group["corpus"]):
                if group[f"{column}_count"]:
                    kept = min(group[f"{column}_mean"], 1.0)  # rounding may exceed 1
                    drift.append(
                        {
                            "basis": column,
                            "corpus": group["corpus"],
                            "rows": group[f"{column}_count"],
                            "kept": kept,
                            "of the sample": usual,
                            "refit due": usual is not None and is_due(kept, usual),
                        }
                    )
    return drift


def is_due(kept: float, usual: float) -> bool:
    """Return whether a basis that keeps `usual` of its sample keeps too little of a corpus."""
    return 1 - kept > max(LOSS_MINDED, LOSS_GROWN * (1 - usual))


def ensemble_gap(store: Store) -> list[dict[str, Any]]:
    """Return for every ensemble how rows it was trained on differ from others (`seen_gap`)."""
    pool = store.dataset("pool")
    gaps: list[dict[str, Any]] = []
    for recipe in recipes_of(store):
        columns = columns_of(recipe)
        own = ("gradfiltering_norms", "gradfiltering_seen")
        if columns.keys() >= set(own) and pool.count_rows():  # version 1 had other columns
            names = [columns[name] for name in own]
            gap = seen_gap(pool.to_table(columns=names).rename_columns(list(own)))
            row = {k.replace("_", " "): None if np.isnan(v) else v for k, v in gap.items()}
            gaps.append({"ensemble": recipe.feature, **row})
    return gaps


def advice(store: Store, bases: list[dict[str, Any]]) -> list[str]:
    """Return sentences that say what to run for bases that no longer suit a corpus."""
    recipes = {column: recipe for recipe in recipes_of(store) for column in recipe.columns}
    due: dict[str, list[dict[str, Any]]] = {}
    for basis in bases:
        if basis["refit due"]:
            due.setdefault(basis["basis"], []).append(basis)
    sentences: list[str] = []
    for column, corpora in due.items():
        kept = ", ".join(f"{each['kept']:.2f} of {each['corpus']}" for each in corpora)
        usual, recipe = corpora[0]["of the sample"], recipes[column]
        sentences.append(
            f"{recipe.feature}: its basis keeps {kept}, and {usual:.2f} of the sample it was "
            "fitted on. A refit, in columns of its own, learns from the pool as it is now: "
            f"coresetdb featurize {store.typed} {_with_another_sample(recipe)}"
        )
    return sentences


def _with_another_sample(recipe: Recipe) -> str:
    seed = recipe.options.get("seed", 0)
    return str(FeatureSpec(recipe.representation, {**recipe.options, "seed": seed + 1}))


def _of_the_sample(store: Store, recipe: Recipe) -> float | None:
    """Return the share of energy kept of the sample, the mean over an artifact's figures."""
    for name, content in recipe.artifacts.items():
        if "/" not in name:  # snapshots are adapters, and large
            kept = facts_of(store, content, name).get("kept")
            if kept is not None:
                return float(np.mean(_numbers(kept)))
    return None


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in _numbers(part)]
    return [float(value)]

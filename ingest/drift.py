"""How well what was learned once suits the corpora that came later; reads columns, runs no model.

A basis says of every row which share of its energy it keeps (a column `..._kept`). What it loses
of a corpus is held against what it lost of the sample it was fitted on. An ensemble says of every
row how large its gradients were: of rows it was trained on, and of others.
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
    """What a store holds, what it waits for, and whether what was learned still suits it."""
    bases = basis_drift(store)
    due = advice(store, bases)
    try:
        waiting = [str(each) for each in pending(store)]
    except UsageError as error:  # of a package that is not installed here
        waiting, due = [], [*due, str(error)]
    return replace(
        status_of(store), pending=waiting, bases=bases, ensembles=ensemble_gap(store), due=due
    )


def basis_drift(store: Store) -> list[dict[str, Any]]:
    """For every basis and corpus: rows, the share of energy kept, that of the sample, the verdict.

    Keys: basis (a column), corpus, rows, kept, of the sample (None where it is not known),
    refit due.
    """
    found: list[dict[str, Any]] = []
    pool = store.dataset("pool")
    for recipe in recipes_of(store):
        for own, column in columns_of(recipe).items():
            if not own.endswith(KEPT) or column not in pool.schema.names:
                continue
            rows = pool.to_table(columns=["corpus", column])
            usual = _of_the_sample(store, recipe)
            grouped = rows.group_by("corpus").aggregate([(column, "count"), (column, "mean")])
            for each in sorted(grouped.to_pylist(), key=lambda each: each["corpus"]):
                if each[f"{column}_count"]:
                    kept = min(each[f"{column}_mean"], 1.0)  # rounding may pass the whole
                    found.append(
                        {
                            "basis": column,
                            "corpus": each["corpus"],
                            "rows": each[f"{column}_count"],
                            "kept": kept,
                            "of the sample": usual,
                            "refit due": usual is not None and is_due(kept, usual),
                        }
                    )
    return found


def is_due(kept: float, usual: float) -> bool:
    """Whether a basis that keeps `usual` of its sample keeps too little of a corpus."""
    return 1 - kept > max(LOSS_MINDED, LOSS_GROWN * (1 - usual))


def ensemble_gap(store: Store) -> list[dict[str, Any]]:
    """For every ensemble: how rows it was trained on differ from others (`seen_gap`)."""
    pool = store.dataset("pool")
    found: list[dict[str, Any]] = []
    for recipe in recipes_of(store):
        columns = columns_of(recipe)
        wanted = ("gradfiltering_norms", "gradfiltering_seen")
        if columns.keys() >= set(wanted) and pool.count_rows():  # version 1 had other columns
            names = [columns[name] for name in wanted]
            gap = seen_gap(pool.to_table(columns=names).rename_columns(list(wanted)))
            told = {k.replace("_", " "): None if np.isnan(v) else v for k, v in gap.items()}
            found.append({"ensemble": recipe.feature, **told})
    return found


def advice(store: Store, bases: list[dict[str, Any]]) -> list[str]:
    """What to run for bases that no longer suit a corpus."""
    recipes = {column: recipe for recipe in recipes_of(store) for column in recipe.columns}
    due: dict[str, list[dict[str, Any]]] = {}
    for basis in bases:
        if basis["refit due"]:
            due.setdefault(basis["basis"], []).append(basis)
    said: list[str] = []
    for column, corpora in due.items():
        kept = ", ".join(f"{each['kept']:.2f} of {each['corpus']}" for each in corpora)
        usual, recipe = corpora[0]["of the sample"], recipes[column]
        said.append(
            f"{recipe.feature}: its basis keeps {kept}, and {usual:.2f} of the sample it was "
            "fitted on. A refit, in columns of its own, learns from the pool as it is now: "
            f"coresetdb featurize {store.typed} {_with_another_sample(recipe)}"
        )
    return said


def _with_another_sample(recipe: Recipe) -> str:
    seed = recipe.options.get("seed", 0)
    return str(FeatureSpec(recipe.representation, {**recipe.options, "seed": seed + 1}))


def _of_the_sample(store: Store, recipe: Recipe) -> float | None:
    """The share of energy the artifact itself says it keeps; of several figures the mean."""
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
        return [number for each in value for number in _numbers(each)]
    return [float(value)]

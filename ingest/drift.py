"""Whether fits still suit corpora that were ingested later; reads columns, runs no model.

Of every row a column `..._kept` has the share of energy that a basis keeps. The loss on a corpus is
compared with the loss on the sample that the basis was fitted on. An ensemble's gradient norms are
compared between rows it was trained on and others, and between halves of its members.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..schemas.errors import UsageError
from ..schemas.recipe import Recipe
from ..store.catalog import Artifact, facts_of
from ..store.features import features_of
from ..store.grouping import grouped
from ..store.status import Status, status_of
from ..store.store import Store
from .create import pending, recipes_of
from .fits.ensemble import HELD_OUT, WARNING, noise_prior
from .representations.gradfiltering_scores import NORMS, SEEN, reliability, seen_gap
from .representations.registry import FeatureSpec, columns_of, get, of, options_of

if TYPE_CHECKING:
    import lance

KEPT = "_kept"

LOSS_GROWN = 2.0
LOSS_MINDED = 0.05
"""A refit is due where a basis loses twice what it lost of its sample, and at least 5 %.

The error of a stored cosine grows with the square root of the energy lost. A basis is as wide as
its sample asked for; at twice the loss the error is 1.4 times what was accepted then.
"""


def status(store: Store) -> Status:
    """Return the status of a store: what it holds, what is pending, whether its fits suit it."""
    bases, ensembles = basis_drift(store), ensemble_gap(store)
    due = advice(store, bases, ensembles)
    try:
        waiting = [str(spec) for spec in pending(store)]
    except UsageError as error:  # a feature of a package that is not installed here
        waiting, due = [], [*due, str(error)]
    holds = {name: _held(recipe) for name, recipe in features_of(store).items()}
    return replace(
        status_of(store), pending=waiting, bases=bases, ensembles=ensembles, due=due, holds=holds
    )


def _held(recipe: Recipe) -> str:
    """What a feature keeps of every row, in the user's words, with options that are not usual."""
    try:
        made_by = of(recipe)
        made = options_of(recipe)
    except UsageError:  # a feature of a package that is not installed here
        return ""
    words = made_by.sees.format(name=recipe.feature)
    if recipe.attached:
        return words
    usual = made_by.defaults
    names = [name for name in dict.fromkeys([*usual, *made]) if name in made]
    unusual = [f"{name}={made[name]}" for name in names if made[name] != usual.get(name)]
    return f"{words} ({', '.join(unusual)})" if unusual else words


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
            groups = grouped(pool, ["corpus"], [(column, "count"), (column, "sum")])
            usual = _of_the_sample(store, recipe)
            for group in sorted(groups, key=lambda group: group["corpus"]):
                if rows := group[f"{column}_count"]:
                    kept = min(group[f"{column}_sum"] / rows, 1.0)  # rounding may exceed 1
                    drift.append(
                        {
                            "basis": column,
                            "corpus": group["corpus"],
                            "rows": rows,
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
    """Return for every ensemble what it learned, and how far its scores can be trusted.

    Keys: ensemble (the feature); rows in fit, rows outside, seen over unseen, outside over unseen
    (`seen_gap`); early loss, late loss, of rows that members were not trained on (None where the
    fit kept none); negative drops, halves agree, halves agree on drops (`reliability`, of at most
    `RELIABILITY_ROWS` rows).
    """
    pool = store.dataset("pool")
    gaps: list[dict[str, Any]] = []
    for recipe in recipes_of(store):
        columns = columns_of(recipe)
        own = (NORMS, SEEN)
        if columns.keys() >= set(own) and pool.count_rows():  # version 1 had other columns
            names = [columns[name] for name in own]
            gap = seen_gap(pool.to_table(columns=names).rename_columns(list(own)))
            held_out = _held_out(store, recipe)
            losses = held_out.facts["loss"] if held_out else {}
            sample = _spread_rows(pool, columns[NORMS]).rename_columns([NORMS])
            options = {**get(recipe.representation).former_defaults, **recipe.options}
            artifacts = {HELD_OUT: held_out} if held_out else {}
            prior = noise_prior(artifacts, options["gradient"])
            row = {
                **gap,
                "early_loss": losses.get("early", np.nan),
                "late_loss": losses.get("late", np.nan),
                **reliability(sample, options["noise"], prior),
            }
            told = {k.replace("_", " "): None if np.isnan(v) else v for k, v in row.items()}
            gaps.append({"ensemble": recipe.feature, **told})
    return gaps


def _held_out(store: Store, recipe: Recipe) -> Artifact | None:
    """Return the facts that an ensemble kept of rows it was not trained on, or None."""
    if HELD_OUT not in recipe.artifacts:
        return None
    facts = facts_of(store, recipe.artifacts[HELD_OUT], HELD_OUT)
    return Artifact({}, facts) if facts else None


RELIABILITY_ROWS = 8192


def _spread_rows(pool: lance.LanceDataset, column: str) -> pa.Table:
    """Return a column of rows at equal distances over the whole pool."""
    rows = pool.count_rows()
    places = np.linspace(0, rows - 1, min(rows, RELIABILITY_ROWS)).round().astype(np.int64)
    return pool.take(places.tolist(), columns=[column])


def advice(store: Store, bases: list[dict[str, Any]], ensembles: list[dict[str, Any]]) -> list[str]:
    """Return sentences that say what to run for bases that no longer suit a corpus, and for
    ensembles whose members did not learn."""
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
    recipes_by_feature = {recipe.feature: recipe for recipe in recipes.values()}
    for ensemble in ensembles:
        early, late = ensemble["early loss"], ensemble["late loss"]
        if early is not None and late >= early:
            options = recipes_by_feature[ensemble["ensemble"]].options
            longer = FeatureSpec("gradfiltering", {**options, "epochs": 2 * options["epochs"]})
            sentences.append(
                f"{ensemble['ensemble']}: {WARNING} ({early:.4f}, then {late:.4f}). A longer "
                "training, in columns of its own: coresetdb featurize "
                f"{store.typed} {longer}"
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

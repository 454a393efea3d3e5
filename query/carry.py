"""Carry a target to another store: its examples with their features and facts; no model runs.

A feature is carried where both stores make it by the same recipe. That is what makes a capability
found once (NAIT's directions) reusable: it ranks any pool whose features have its fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from ..ingest.jobs.target_facts import facts_name
from ..ingest.representations import registry
from ..schemas.errors import FingerprintError, UsageError
from ..schemas.recipe import Recipe, difference
from ..schemas.tables import TARGETS
from ..store.keys import key_of
from .features import fingerprint_in
from .names import check_name, naming, no_target, quoted
from .targets import Target, list_targets

if TYPE_CHECKING:
    from ..store.store import Store


@dataclass(frozen=True)
class CarriedTarget:
    """What arrived.

    Attributes:
        target: as the other store holds it.
        features: representations whose features and facts came along.
        left_out: a sentence for each feature of the other store that the examples lack there.
    """

    target: Target
    features: tuple[str, ...]
    left_out: tuple[str, ...]


def copy_target(
    store: Store, name: str, other: Store, new_name: str | None = None
) -> CarriedTarget:
    """Copy a target's examples into another store.

    Args:
        store: that holds the target.
        other: that gets it.
        new_name: of the copy; the same name otherwise.

    Raises:
        UsageError: there is no such target, or the other store has one of that name.
        FingerprintError: not one feature is made the same way in both stores; names the
            differences.
    """
    new_name = check_name("target", new_name or name)
    _check_name_free_in(other, new_name)
    table = store.dataset("targets").to_table(filter=f"target = {quoted(name)}")
    if not table.num_rows:
        raise UsageError(no_target(store, name, [each.name for each in list_targets(store)]))
    rows = table.sort_by("position")
    ours, theirs = _recipes(store), _recipes(other)
    shared = [each for each in theirs if each.fingerprint in {own.fingerprint for own in ours}]
    left_out = [_left_out(other, each, ours) for each in theirs if each not in shared]
    if theirs and not shared:
        raise FingerprintError(
            f"target {name!r} of {store.uri} cannot be used by {other.uri}: {'; '.join(left_out)}"
        )
    ids = rows["id"].to_pylist()
    for recipe in shared:  # facts first: without their target nothing shows them
        facts = store.artifact(recipe.fingerprint, facts_name(ids))
        if facts is not None:
            other.put_artifact(recipe.fingerprint, facts_name(ids), facts)
    with naming(other):
        _check_name_free_in(other, new_name)  # somebody may have been quicker
        other.insert("targets", _rows_for(rows, new_name, ours, shared))
    other.sync()
    (target,) = (each for each in list_targets(other) if each.name == new_name)
    return CarriedTarget(target, tuple(each.representation for each in shared), tuple(left_out))


def _check_name_free_in(other: Store, name: str) -> None:
    if name in {each.name for each in list_targets(other)}:
        raise UsageError(
            f"{other.uri} has a target {name!r} already. Give the copy a name with --as"
        )


def _recipes(store: Store) -> list[Recipe]:
    """Those that made what the store's targets hold, as the columns say."""
    schema = store.dataset("targets").schema
    recipes = {each.fingerprint: each for each in store.recipes().values()}.values()
    return [
        each
        for each in recipes
        if all(
            column in schema.names and fingerprint_in(schema, column) == each.fingerprint
            for column in each.columns
        )
    ]


def _left_out(other: Store, theirs: Recipe, ours: Iterable[Recipe]) -> str:
    alike = [each for each in ours if each.representation == theirs.representation]
    name = theirs.representation
    if not alike:
        return f"{name} did not come along: make it with coresetdb featurize {other.typed} {name}"
    points = min((difference(each, theirs) for each in alike), key=len)
    return f"{name} is made otherwise there ({'; '.join(points)})"


def _rows_for(
    rows: pa.Table, name: str, ours: Iterable[Recipe], shared: Iterable[Recipe]
) -> pa.Table:
    """The examples as the other store's table has them, features under its column names."""
    fixed = rows.select(TARGETS.names).to_pylist()
    now = datetime.now(UTC)
    for row in fixed:
        row |= {"key": key_of(name, row["id"]), "target": name, "added_at": now}
    copied = pa.Table.from_pylist(fixed, TARGETS)
    mine = {each.fingerprint: registry.columns_of(each) for each in ours}
    for recipe in shared:
        for own, column in registry.columns_of(recipe).items():
            copied = copied.append_column(column, rows[mine[recipe.fingerprint][own]])
    return copied

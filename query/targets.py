"""Targets: a handful of examples of the task at hand, featurized once and kept in the store.

A target can be copied to another store, with the features that both stores make by the same recipe
and what these say of the target as a whole; no model runs. So a capability found once (NAIT's
directions) ranks any pool whose features have its fingerprint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from shlex import quote
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..ingest.attachments.vectors import vectors_of_examples
from ..ingest.jobs.commit import without_removed_columns
from ..ingest.jobs.target_artifacts import artifact_name, make_target_artifacts
from ..ingest.representations import registry
from ..schemas.conversations import TURN_MARKS, as_columns
from ..schemas.errors import FingerprintError, UsageError
from ..schemas.instruction import Record, Reject
from ..schemas.plain_text import PrintedResult, count_of
from ..schemas.recipe import VECTORS, Recipe, difference
from ..schemas.tables import TARGETS, literal
from ..store import catalog
from ..store.features import completion, features_of
from ..store.fill import amend
from ..store.rows import key_of
from ..store.scores import drop_scores
from .features import comparison_of, fingerprint_in
from .names import check_name, name_lock, unknown_target
from .sketch_noise import target_notes
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..ingest.featurizer import Featurizer
    from ..ingest.readers.options import ReadOptions
    from ..ingest.sources import SourceData
    from ..store.store import Store


@dataclass(frozen=True, repr=False)
class Target(PrintedResult):
    """A target as the store holds it.

    Attributes:
        name: of the target.
        examples: how many it has.
        tokens: of all examples together.
        files: that they were read from.
        missing: how many examples lack each feature that rows are compared by.
        added_at: when.
        coresets: names of those made for it.
    """

    name: str
    examples: int
    tokens: int
    files: tuple[str, ...]
    missing: dict[str, int]
    added_at: datetime
    coresets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        size = f"{count_of(self.examples, 'example')}, {count_of(self.tokens, 'token')}"
        lacking = "".join(
            f"; {name} is missing for {missing:,}"
            for name, missing in self.missing.items()
            if missing
        )
        used = f"; {count_of(len(self.coresets), 'coreset')}" if self.coresets else ""
        return f"Target {self.name}: {size} from {', '.join(self.files)}{lacking}{used}"


@dataclass(frozen=True, repr=False)
class AddedTarget(PrintedResult):
    """A target that was added: how many records were read, repeated, or rejected.

    Attributes:
        target: as the store holds it.
        read: records in the files.
        duplicates: records that repeat an example.
        rejected: records that are no example, with the reasons.
        decisions: how each file was read.
        notes: sentences for the user, such as which methods cannot use the target.
    """

    target: Target
    read: int
    duplicates: int
    rejected: tuple[Reject, ...]
    decisions: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        target = self.target
        lines = [
            *self.decisions,
            f"{target.name}: read {self.read:,}: {count_of(target.examples, 'example')} "
            f"({target.tokens:,} tokens), {self.duplicates:,} duplicate, "
            f"{len(self.rejected):,} rejected",
            *(f"  {reject.file}:{reject.line}: {reject.reason}" for reject in self.rejected),
            *(f"  without {name}: {number:,}" for name, number in target.missing.items() if number),
            *(f"  {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def add_target(
    store: Store,
    name: str,
    data: SourceData,
    options: ReadOptions,
    featurizer: Callable[[], Featurizer],
    vectors: Mapping[str, SourceData] | None = None,
) -> AddedTarget:
    """Read a target's examples, featurize them and keep them under a name.

    Args:
        store: an open store.
        name: letters, digits, dots, dashes and underscores, at most 64.
        data: files, globs, folders, or data in memory; every shape the importers know.
        options: how to read them.
        featurizer: makes the featurizer of the store's recipes; called once the examples are read.
        vectors: name of vectors made elsewhere -> those of the records of `data`, in their order.

    Raises:
        UsageError: a bad name, or there is a target of that name; or vectors do not fit.
        InputError: nothing found, a file that cannot be read to its end, or no usable example.
    """
    from ..ingest.sources import read_examples

    check_name("target", name)
    _check_free(store, name)
    store.place.require_writable()
    # What an example without an answer lacks, its features say for themselves.
    examples = read_examples(data, options, "A target needs one")
    records = examples.records
    attached = vectors_of_examples(store, vectors or {}, examples.rows, examples.rows_read)
    maker = featurizer()
    features = maker.compute([record.instruction for record in records], of="target")
    # Artifacts first: a kill in between leaves artifacts without a target, which nothing shows.
    notes = make_target_artifacts(
        store, maker, [record.instruction.id for record in records], features
    )
    with name_lock(store):
        _check_free(store, name)  # the model ran long; somebody may have been quicker
        with store.lock(shared=True):  # between looking and writing no column goes
            if any(record.instruction.marks for record in records):
                store.add_columns("targets", [TURN_MARKS])
            store.insert(
                "targets", _rows(store, name, records, _beside(maker.table(features), attached))
            )
    store.sync()
    (target,) = (list_target for list_target in list_targets(store) if list_target.name == name)
    rejected, decisions = tuple(examples.rejected), tuple(examples.decisions)
    notes += tuple(
        f"methods by {other} cannot use it: it has no vectors of that name. Give them with "
        f"coresetdb vectors add {store.typed} {other} FILE --target {name}"
        for other, recipe in features_of(store).items()
        if recipe.representation == VECTORS and other not in attached
    )
    repeated = examples.read - len(records) - len(rejected)
    notes = (*examples.remarks, *notes, *target_notes(Snapshot(store), name))
    return AddedTarget(target, examples.read, repeated, rejected, decisions, notes)


def _beside(features: pa.Table, attached: Mapping[str, pa.Table]) -> pa.Table:
    """The features of examples with the vectors that were made elsewhere."""
    for table in attached.values():
        for field, column in zip(table.schema, table.columns, strict=True):
            features = features.append_column(field, column)
    return features


@dataclass(frozen=True)
class TargetVectors:
    """Vectors that a target's examples got.

    Attributes:
        target, name: of the target, and of the vectors.
        examples: how many got one.
        without: reason -> examples that have it in place of a vector.
    """

    target: str
    name: str
    examples: int
    without: dict[str, int]

    def __str__(self) -> str:
        lines = [f"{self.target}: {count_of(self.examples, 'example')} got a vector {self.name}"]
        lines += [
            f"  without a value, {why}: {count_of(rows, 'example')}"
            for why, rows in self.without.items()
        ]
        return "\n".join(lines)


def add_target_vectors(store: Store, target: str, name: str, data: SourceData) -> TargetVectors:
    """Give the examples of a target vectors that were made elsewhere, in place of those it has.

    Args:
        store: that has vectors of this name in its pool.
        target: its name.
        name: of the vectors.
        data: one vector for each example, in the order of the examples.

    Raises:
        UsageError: there is no such target, or the vectors do not fit.
        InputError: a file cannot be read.
    """
    rows = store.dataset("targets").to_table(
        columns=["key", "position"], filter=f"target = {literal(target)}"
    )
    if not rows.num_rows:
        raise UsageError(unknown_target(store, target, _names(store)))
    keys = rows.sort_by("position")["key"]
    table = vectors_of_examples(store, {name: data}, range(len(keys)), len(keys))[name]
    reasons = table.columns[-1]
    amend(store, "targets", table.add_column(0, "key", keys))
    store.sync()
    counted = Counter(reasons.drop_null().to_pylist())
    return TargetVectors(target, name, reasons.null_count, dict(counted))


def list_targets(store: Store) -> list[Target]:
    """Return every target, by name."""
    snapshot = Snapshot(store)
    table = snapshot.targets
    compared = {
        name: feature.first
        for name, feature in snapshot.features.items()
        if comparison_of(feature.representation) and feature.first in table.schema.names
    }
    columns = {name: name for name in ("target", "tokens", "file", "added_at")}
    columns |= {f"lacks_{name}": f"`{column}` IS NULL" for name, column in compared.items()}
    rows = table.to_table(columns=columns)
    used = store.dataset("coresets").to_table(columns=["name", "targets"]).to_pylist()
    examples: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        examples.setdefault(row["target"], []).append(row)
    return [
        Target(
            name=name,
            examples=len(own),
            tokens=sum(row["tokens"] or 0 for row in own),
            files=tuple(sorted({row["file"] for row in own})),
            missing={feature: sum(row[f"lacks_{feature}"] for row in own) for feature in compared},
            added_at=min(row["added_at"] for row in own),
            coresets=tuple(row["name"] for row in used if name in (row["targets"] or ())),
        )
        for name, own in sorted(examples.items())
    ]


def remove_target(store: Store, name: str) -> Target:
    """Remove a target with its scores, and return what it was.

    Coresets made for it stay (they are named in the result); they can be replayed as long as the
    version of `targets` they were made from is kept.

    Raises:
        UsageError: there is no such target.
    """
    with name_lock(store):
        removed = next((target for target in list_targets(store) if target.name == name), None)
        if removed is None:
            raise UsageError(unknown_target(store, name, _names(store)))
        # A later target of that name has other examples. Scores first: a process killed in between
        # leaves a target without scores, and not scores without their target.
        drop_scores(store, name)
        store.delete("targets", f"target = {literal(name)}")
    store.sync()
    return removed


def _check_free(store: Store, name: str) -> None:
    if name in _names(store):
        raise UsageError(
            f"there is a target {name!r} already. Choose another name, or remove it first: "
            f"coresetdb target remove {store.typed} {name}"
        )


def _names(store: Store) -> list[str]:
    return sorted(set(store.dataset("targets").to_table(columns=["target"])["target"].to_pylist()))


def _rows(store: Store, name: str, records: Sequence[Record], features: pa.Table) -> pa.Table:
    schema = store.dataset("targets").schema
    now = datetime.now(UTC)
    fixed = [
        {
            "key": key_of(name, record.instruction.id),
            "target": name,
            "id": record.instruction.id,
            "position": position,
            "metadata": record.metadata,
            "file": record.file,
            "added_at": now,
        }
        for position, record in enumerate(records)
    ]
    own = pa.schema([schema.field(column) for column in fixed[0]])
    table = pa.Table.from_pylist(fixed, own)
    for column, values in as_columns([record.instruction for record in records]).items():
        table = table.append_column(column, pa.array(values, schema.field(column).type))
    kept = without_removed_columns(features, schema)
    for column in kept.column_names:
        table = table.append_column(column, kept[column])
    return table.select([column for column in schema.names if column in table.column_names])


@dataclass(frozen=True, repr=False)
class CopiedTarget(PrintedResult):
    """A target that was copied to another store.

    Attributes:
        target: as the other store holds it.
        features: representations whose features were copied.
        left_out: a sentence for each feature of the other store that the copy lacks.
    """

    target: Target
    features: tuple[str, ...]
    left_out: tuple[str, ...]

    def __repr__(self) -> str:
        examples = count_of(self.target.examples, "example")
        features = ", ".join(self.features) or "no feature"
        copied = f"{self.target.name}: copied {examples}, with {features}"
        return "\n".join([copied, *(f"  {sentence}" for sentence in self.left_out)])


def copy_target(store: Store, name: str, other: Store, new_name: str | None = None) -> CopiedTarget:
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
    table = store.dataset("targets").to_table(filter=f"target = {literal(name)}")
    if not table.num_rows:
        raise UsageError(unknown_target(store, name, _names(store)))
    rows = table.sort_by("position")
    ours, theirs = _recipes(store), _recipes(other)
    own = {recipe.fingerprint for recipe in ours}
    shared = [recipe for recipe in theirs if recipe.fingerprint in own]
    left_out = [_left_out(other, recipe, ours) for recipe in theirs if recipe not in shared]
    if theirs and not shared:
        if _by_other_models(ours, theirs):
            raise FingerprintError(_other_models(store, name, other, new_name))
        raise FingerprintError(
            f"target {name!r} of {store.uri} cannot be used by {other.uri}: {'; '.join(left_out)}"
        )
    ids = rows["id"].to_pylist()
    for recipe in shared:  # artifacts first: nothing shows them without their target
        artifact = catalog.artifact(store, recipe.fingerprint, artifact_name(ids))
        if artifact is not None:
            catalog.put_artifact(other, recipe.fingerprint, artifact_name(ids), artifact)
    with name_lock(other):
        _check_name_free_in(other, new_name)  # somebody may have been quicker
        if TURN_MARKS.name in rows.column_names:
            other.add_columns("targets", [TURN_MARKS])
        other.insert("targets", _rows_for(rows, new_name, ours, shared))
    other.sync()
    (target,) = (target for target in list_targets(other) if target.name == new_name)
    return CopiedTarget(
        target,
        tuple(each.feature if each.attached else each.representation for each in shared),
        tuple(left_out),
    )


def _by_other_models(ours: Iterable[Recipe], theirs: Iterable[Recipe]) -> bool:
    """Whether no model made features of both."""
    our_models, their_models = (
        {recipe.backbone["weights"] for recipe in recipes if recipe.backbone.get("weights")}
        for recipes in (ours, theirs)
    )
    return bool(our_models and their_models) and not our_models & their_models


def _other_models(store: Store, name: str, other: Store, new_name: str) -> str:
    """Why a target cannot be copied to a store of another model, and what to do instead."""
    ours, theirs = (each.config["backbone"]["name"] for each in (store, other))
    models = f"{ours} and {theirs}" if ours != theirs else f"two models called {ours}"
    (files,) = (target.files for target in list_targets(store) if target.name == name)
    file = quote(files[0]) if len(files) == 1 else "FILE"
    return (
        f"target {name!r} cannot be copied from {store.uri} to {other.uri}, because their features "
        f"are by different models, {models}; add it there from its examples: "
        f"coresetdb target add {other.typed} {new_name} {file}"
    )


def _check_name_free_in(other: Store, name: str) -> None:
    if name in _names(other):
        raise UsageError(
            f"{other.uri} has a target {name!r} already. Give the copy a name with --as"
        )


def _recipes(store: Store) -> list[Recipe]:
    """Return the recipes that made the features of the store's targets, as the columns say."""
    schema = store.dataset("targets").schema
    recipes = {recipe.fingerprint: recipe for recipe in catalog.recipes(store).values()}.values()
    return [
        recipe
        for recipe in recipes
        if all(
            column in schema.names and fingerprint_in(schema, column) == recipe.fingerprint
            for column in recipe.columns
        )
    ]


def _left_out(other: Store, theirs: Recipe, ours: Iterable[Recipe]) -> str:
    alike = [our for our in ours if our.representation == theirs.representation]
    name = theirs.feature if theirs.attached else theirs.representation
    if theirs.attached:
        alike = [our for our in alike if our.feature == name]
    if not alike:
        return f"{name} was not copied: make it with {completion(other, theirs)}"
    points = min((difference(our, theirs) for our in alike), key=len)
    return f"{name} was not copied: it is made differently there ({'; '.join(points)})"


def _rows_for(
    rows: pa.Table, name: str, ours: Iterable[Recipe], shared: Iterable[Recipe]
) -> pa.Table:
    """Return the examples as the other store's table has them, under its column names."""
    own = [*TARGETS, *([TURN_MARKS] if TURN_MARKS.name in rows.column_names else [])]
    fixed = rows.select([field.name for field in own]).to_pylist()
    now = datetime.now(UTC)
    for row in fixed:
        row |= {"key": key_of(name, row["id"]), "target": name, "added_at": now}
    copied = pa.Table.from_pylist(fixed, pa.schema(own))
    mine = {our.fingerprint: registry.columns_of(our) for our in ours}
    for recipe in shared:
        for own, column in registry.columns_of(recipe).items():
            copied = copied.append_column(column, rows[mine[recipe.fingerprint][own]])
    return copied

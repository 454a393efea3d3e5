"""Targets: a handful of examples of the task at hand, featurized once and kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..ingest.jobs.commit import declared
from ..ingest.jobs.target_facts import make_facts
from ..schemas.errors import InputError, UsageError
from ..schemas.instruction import Record, Reject
from ..store.keys import key_of
from ..store.scores import drop_scores
from .features import comparison_of, features_of
from .names import check_name, naming, no_target, quoted

if TYPE_CHECKING:
    from ..ingest.featurizer import Featurizer
    from ..ingest.reading.records import ReadOptions
    from ..store.store import Store


@dataclass(frozen=True)
class Target:
    """A target as the store holds it.

    Attributes:
        name: its own.
        examples: how many it has.
        tokens: of all examples together.
        files: they were read from.
        missing: feature that rows are compared by -> examples that lack it.
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


@dataclass(frozen=True)
class AddedTarget:
    """The account of an addition: what was read, kept, dropped as a repetition, or refused.

    `notes` are sentences a person should read, such as which methods can make nothing of it.
    """

    target: Target
    read: int
    duplicates: int
    rejected: tuple[Reject, ...]
    decisions: tuple[str, ...]
    notes: tuple[str, ...] = ()


def add_target(
    store: Store,
    name: str,
    files: str | Sequence[str],
    options: ReadOptions,
    featurizer: Callable[[], Featurizer],
) -> AddedTarget:
    """Read a target's examples, featurize them and keep them under a name.

    Args:
        store: an open store.
        name: letters, digits, dots, dashes and underscores, at most 64.
        files: a file, glob or folder, or several; every shape the importers know.
        options: how to read them.
        featurizer: makes the featurizer of the store's recipes; called once the examples are read.

    Raises:
        UsageError: a bad name, or there is a target of that name.
        InputError: nothing found, a file that cannot be read to its end, or no usable example.
    """
    check_name("target", name)
    _check_free(store, name)
    records, read, rejected, decisions = _read(files, options)
    maker = featurizer()
    features = maker.compute([record.instruction for record in records], of="target")
    # Facts first: a kill in between leaves facts without a target, which nothing shows.
    notes = make_facts(store, maker, [record.instruction.id for record in records], features)
    with naming(store):
        _check_free(store, name)  # the model ran long; somebody may have been quicker
        with store.lock(shared=True, wait=600.0):  # between looking and writing no column goes
            store.insert("targets", _rows(store, name, records, maker.table(features)))
    store.sync()
    (target,) = (each for each in list_targets(store) if each.name == name)
    repeated = read - len(records) - len(rejected)
    return AddedTarget(target, read, repeated, rejected, decisions, notes)


def list_targets(store: Store) -> list[Target]:
    """Every target, by name."""
    table = store.dataset("targets")
    compared = {
        name: feature.first
        for name, feature in features_of(store).items()
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
            missing={each: sum(row[f"lacks_{each}"] for row in own) for each in compared},
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
    with naming(store):
        found = [each for each in list_targets(store) if each.name == name]
        if not found:
            raise UsageError(no_target(store, name, _names(store)))
        # A later target of that name has other examples. Scores first: a kill in between leaves a
        # target without scores, and not scores without their target.
        drop_scores(store, name)
        store.delete("targets", f"target = {quoted(name)}")
    store.sync()
    return found[0]


def _check_free(store: Store, name: str) -> None:
    if name in _names(store):
        raise UsageError(
            f"there is a target {name!r} already. Choose another name, or remove it first: "
            f"coresetdb target remove {store.typed} {name}"
        )


def _names(store: Store) -> list[str]:
    return sorted(set(store.dataset("targets").to_table(columns=["target"])["target"].to_pylist()))


def _read(
    files: str | Sequence[str], options: ReadOptions
) -> tuple[list[Record], int, tuple[Reject, ...], tuple[str, ...]]:
    """Distinct records in reading order, how many there were, rejects, how files were read."""
    from ..ingest.reading.records import find_files, open_source

    named = [files] if isinstance(files, str) else list(files)
    # What an example without an answer lacks, its features say for themselves.
    options = replace(options, allow_empty_answer=True)
    records: dict[str, Record] = {}
    rejected: list[Reject] = []
    decisions: list[str] = []
    read = 0
    for file in find_files(named):
        source = open_source(file, options)
        decisions.append(f"{file}: {source.decision}")
        for each in source:
            read += 1
            if isinstance(each, Reject):
                rejected.append(each)
            else:
                records.setdefault(each.instruction.id, each)
        if source.fault:
            raise source.fault
    if not records:
        reasons = sorted({each.reason for each in rejected}) or ["it is empty"]
        raise InputError(
            ", ".join(named), f"no usable example ({'; '.join(reasons)})", "A target needs one"
        )
    return list(records.values()), read, tuple(rejected), tuple(decisions)


def _rows(store: Store, name: str, records: Sequence[Record], features: pa.Table) -> pa.Table:
    schema = store.dataset("targets").schema
    now = datetime.now(UTC)
    fixed = [
        {
            "key": key_of(name, record.instruction.id),
            "target": name,
            "id": record.instruction.id,
            "position": position,
            "messages": [message.as_dict() for message in record.instruction.messages],
            "tools": record.instruction.tools,
            "metadata": record.metadata,
            "file": record.file,
            "added_at": now,
        }
        for position, record in enumerate(records)
    ]
    own = pa.schema([schema.field(column) for column in fixed[0]])
    table = pa.Table.from_pylist(fixed, own)
    kept = declared(features, schema)
    for column in kept.column_names:
        table = table.append_column(column, kept[column])
    return table.select([column for column in schema.names if column in table.column_names])

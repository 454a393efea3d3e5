"""Forget rows for good: nothing in any file of the store holds their text or their features.

A row that was deleted still stands in older versions, in the data files of its neighbours, in
indices, in shards of late features, and in words that others kept of it. Purging marks tombstones
("purging", in one commit), then goes through all of these; every step may be repeated, so a purge
that was killed is finished by the next one, or by `settle`. What stays is the tombstone: the id,
which is a hash of the content, the corpus, the reason and the time.

Versions that coresets tagged are no exception. A coreset whose version held a purged row moves to
the version after the purge; which of that version's rows it may be chosen from again is kept as a
set of ids (`universe_of`), so a replay still answers for the pool of then, less the purged rows.
"""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..schemas.canonical import canonical_json
from ..schemas.errors import StoreBusyError, StoreError
from ..schemas.ids import IdSet, keys_of
from ..schemas.plain_text import count_of
from ..schemas.progress import Progress, Silence
from ..schemas.tables import CORESETS, literal
from . import catalog, evaluations, indices, kept_targets, maintenance, removal, shards
from .catalog import Artifact
from .checksums import version_files
from .excerpts import excerpts_showing
from .place import first_line
from .scores import drop_scores

if TYPE_CHECKING:
    import lance

    from .store import Store

log = logging.getLogger(__name__)

PURGED = "purged"
"""The parameter of a coreset that says what it lost, and from which rows it can be chosen again."""

_UNIVERSE = "universe"
_TABLES = ("pool", "removed_rows", "sources", "targets", "rejects", "coresets", "artifacts")
"""Tables that may hold something of a purged row; the others know its id at most."""

_ORDER = ["target", "id", "position"]
_MADE_OF = ("data", "_indices", "_deletions")
_ID = re.compile("[0-9a-f]{32}")
_READ_ROWS = 1024


@dataclass
class Purged:
    """What a purge did.

    Attributes:
        rows: that were forgotten.
        coresets: name -> rows that it lost.
        moved: coresets whose version held some of the rows; they stand at another version now.
        targets: name -> examples that had the same content, and were forgotten as well.
        indices: that were dropped and are to be made again, by their columns; those of others by
            their names.
        tags: of the pool, that were no coreset's and stood for a version with the rows.
        evaluations: examples of evaluation files that had the same content, and were forgotten.
        excerpts: of rejected records that held their words.
        bytes_before, bytes_after: of the store.
    """

    rows: int = 0
    coresets: dict[str, int] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)
    targets: dict[str, int] = field(default_factory=dict)
    indices: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    evaluations: int = 0
    excerpts: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


def purge(store: Store, ids: Sequence[str], progress: Progress | None = None) -> Purged:
    """Forget rows that have tombstones; whatever an earlier purge left undone is done with it.

    The caller holds the names (`named_lock("names")`) and the store (`removal.alone`).

    Raises:
        StoreError: a table cannot be written; the next purge goes on from there.
    """
    wanted = removal.stones(store, ids)
    if wanted.num_rows:
        removal.set_state(store, wanted, "purging")
        store.sync()
    return finish(store, progress)


def finish(store: Store, progress: Progress | None = None) -> Purged:
    """Forget the rows whose tombstones say that they are being purged; see `purge`."""
    progress = progress or Silence()
    stones = removal.in_state(removal.stones(store), "purging")
    done = Purged(rows=stones.num_rows)
    if not stones.num_rows:
        return done
    done.bytes_before = _bytes_of(store)
    ids = stones["id"].combine_chunks()
    gone = IdSet(keys_of(ids))
    done.excerpts = _blank_excerpts(store, ids)
    universes = _universes(store, gone)
    done.indices = _drop_indices(store, gone)
    done.targets = _forget_examples(store, ids)
    changed = evaluations.keep_without(store, gone)
    for table in ("pool", "removed_rows", "sources"):
        removal.delete_rows(store, table, ids)
    for table in _TABLES:
        if maintenance.has_deleted(store, table):
            progress.say(f"{table}: writing the files that hold some of the rows again")
        maintenance.drop_deleted(store, table)
    progress.say("deleting the old versions")
    done.coresets = coresets_losing(store, ids)
    done.moved = _move_coresets(store, gone, universes, changed)
    done.evaluations = sum(count for _, count in changed.values())
    for digest in changed:
        evaluations.drop(store, digest)
    done.tags = _drop_tags(store, gone)
    _drop_target_artifacts(store)
    shards.forget_rows(store.place, ids)
    for table in _TABLES:
        maintenance.drop_deleted(store, table)
    maintenance.clean(store, 0.0)
    _sweep(store)
    removal.set_state(store, stones, "purged")
    store.sync()
    done.bytes_after = _bytes_of(store)
    return done


def follow(store: Store, ids: Sequence[str]) -> None:
    """Let coresets that a purge moved see restored rows of theirs: they move to the newest version.

    The caller holds the store alone. Which rows they may be chosen from stays as it was.
    """
    losing = coresets_losing(store, ids)
    newest = store.version("pool")
    moved = [
        {**row, "pool_version": newest}
        for row in _coresets(store)
        if row["name"] in losing and PURGED in json.loads(row["parameters"])
    ]
    if moved:
        store.upsert("coresets", pa.Table.from_pylist(moved, CORESETS))
        for row in moved:
            store.move_tag(f"coreset-{row['name']}-pool", newest)


def settle(store: Store) -> int:
    """Finish removals, restores and purges that were killed; the caller holds the store alone.

    Returns:
        How many rows were on their way.
    """
    return removal.settle(store, follow) + finish(store).rows


def settle_if_killed(store: Store) -> None:
    """Finish what a killed process left half done, where no other process is at work."""
    try:
        rows = sum(removal.unsettled(store).values())
    except (OSError, ValueError) as error:
        log.warning(
            "%s: the table removed cannot be read (%s); run coresetdb verify %s",
            store.uri,
            first_line(error),
            store.typed,
        )
        return
    if not rows:
        return
    what = f"the removal, restore or purge of {count_of(rows, 'row')} was interrupted"
    try:
        with removal.alone(store, wait=0.0):
            settle(store)
    except StoreBusyError:
        log.info("%s: another process is removing or writing", store.uri)
    except StoreError as error:
        log.warning("%s: %s, and cannot be finished now: %s", store.uri, what, error)
    else:
        log.warning("%s: %s; finished it", store.uri, what)


def universe_of(store: Store, parameters: dict[str, Any]) -> IdSet | None:
    """The rows that a coreset was chosen from, where a purge moved it; None where none did.

    Raises:
        DamagedStoreError: the set is gone, or is not what was kept.
    """
    purged = parameters.get(PURGED)
    if purged is None:
        return None
    kept = catalog.load_artifact(store, purged[_UNIVERSE], _UNIVERSE)
    return IdSet(np.array(kept.arrays["keys"]))


def coresets_losing(store: Store, ids: Sequence[str] | pa.Array) -> dict[str, int]:
    """Name -> how many of the rows with these ids each coreset has; those without are left out."""
    rows = store.dataset("coreset_rows").to_table(columns=["coreset", "id"])
    named = set(store.dataset("coresets").to_table(columns=["name"])["name"].to_pylist())
    lost = rows.filter(removal.among(rows["id"], ids))
    counts = {row["values"]: row["counts"] for row in lost["coreset"].value_counts().to_pylist()}
    return {name: counts[name] for name in sorted(named & counts.keys())}


def targets_losing(store: Store, ids: Sequence[str] | pa.Array) -> dict[str, int]:
    """Name -> how many examples of each target have the content of these rows."""
    rows = store.dataset("targets").to_table(columns=["target", "id"])
    lost = rows.filter(removal.among(rows["id"], ids))
    counts = {row["values"]: row["counts"] for row in lost["target"].value_counts().to_pylist()}
    return dict(sorted(counts.items()))


def held_examples_losing(store: Store, ids: Sequence[str] | pa.Array) -> dict[str, int]:
    """Name -> how many examples with the content of these rows a coreset holds, and no target does.

    A coreset keeps the examples that it was chosen for, whatever becomes of its targets.
    """
    wanted = set(ids if isinstance(ids, list) else pa.array(ids).to_pylist())
    rows = store.dataset("targets").to_table(columns=["target", "id"])
    current = set(zip(rows["target"].to_pylist(), rows["id"].to_pylist(), strict=True))
    tagged = store.tags("targets")
    losing = {}
    for row in _coresets(store):
        version = tagged.get(f"coreset-{row['name']}-targets")
        targets = row["targets"] or ()
        if not targets:
            continue
        held = kept_targets.held(store, json.loads(row["parameters"]), targets, version)
        if count := sum(each[1] in wanted and each not in current for each in held):
            losing[row["name"]] = count
    return dict(sorted(losing.items()))


def evaluations_losing(store: Store, ids: Sequence[str] | pa.Array) -> dict[str, int]:
    """Name -> how many examples of each evaluation file have the content of these rows."""
    every = [json.loads(row["parameters"]) for row in _coresets(store)]
    return evaluations.losing(store, IdSet(keys_of(ids)), every)


# -- versions that held the rows ----------------------------------------------------------------


def _holds(dataset: lance.LanceDataset, gone: IdSet, known: dict[str, bool]) -> bool:
    """Whether a data file of a version holds one of the rows, deleted ones included.

    `known` remembers the answer for every first file of a fragment: versions share most of them.
    """
    holds = False
    for part in dataset.get_fragments():
        path = part.metadata.files[0].path
        if path not in known:
            scanner = part.scanner(columns=["id"], with_row_id=True, include_deleted_rows=True)
            known[path] = any(
                bool(gone.contains(keys_of(batch.column("id"))).any())
                for batch in scanner.to_batches()
                if batch.num_rows
            )
        holds |= known[path]
    return holds


def _tagged(store: Store, table: str) -> dict[int, list[str]]:
    versions: dict[int, list[str]] = defaultdict(list)
    for name, version in sorted(store.tags(table).items()):
        versions[version].append(name)
    return versions


def _holding(store: Store, table: str, gone: IdSet) -> dict[int, list[str]]:
    """Tagged versions of a table that hold one of the rows, with their tags."""
    known: dict[str, bool] = {}
    return {
        version: names
        for version, names in _tagged(store, table).items()
        if _holds(store.dataset(table, version), gone, known)
    }


def _universes(store: Store, gone: IdSet) -> dict[int, str]:
    """Version of the pool -> the set of its rows as an artifact, for coresets that will be moved.

    Kept before anything is deleted: afterwards the versions are gone.
    """
    moving = set(_holding(store, "pool", gone))
    kept = {}
    for row in _coresets(store):
        version = row["pool_version"]
        if version in moving and version not in kept:
            rows = store.dataset("pool", version).to_table(columns=["id"])["id"]
            whole = IdSet(keys_of(rows))
            if known := universe_of(store, json.loads(row["parameters"])):
                whole = whole.within(known)
            kept[version] = _keep_universe(store, whole.without(gone))
    return kept


def _keep_universe(store: Store, rows: IdSet) -> str:
    data = Artifact({"keys": rows.keys()}).pack()
    content = catalog.content_of(data)
    catalog.put_artifact(store, content, _UNIVERSE, data)
    return content


def _coresets(store: Store) -> list[dict[str, Any]]:
    return store.dataset("coresets").to_table().to_pylist()


def _move_coresets(
    store: Store,
    gone: IdSet,
    universes: dict[int, str],
    changed_evaluations: dict[str, tuple[str, int]],
) -> list[str]:
    """Let coresets stand at versions without the rows, and forget words that they kept of them.

    A coreset is written before its tags: killed in between, its tags still tell what to do.
    """
    newest = {table: store.version(table) for table in ("pool", "targets")}
    holding = {table: _holding(store, table, gone) for table in newest}
    tags = {table: {n for names in holding[table].values() for n in names} for table in newest}
    tagged = store.tags("targets")
    every: list[dict[str, Any]] = []
    changed, moved, now = [], [], datetime.now(UTC).isoformat(timespec="seconds")
    for row in _coresets(store):
        parameters = json.loads(row["parameters"])
        before = canonical_json(parameters)
        _forget_words(parameters, gone)
        evaluations.replace_in(parameters.get("rules", {}), changed_evaluations)
        version = row["pool_version"]
        if f"coreset-{row['name']}-pool" in tags["pool"]:
            if version in universes:  # else it was moved before the process was killed
                parameters[PURGED] = {
                    "pool_version": version,
                    "at": now,
                    _UNIVERSE: universes[version],
                }
            version = newest["pool"]
        tag = f"coreset-{row['name']}-targets"
        held = tagged.get(tag) if tag in tags["targets"] else None
        unmoved = held is not None and held == parameters["targets_version"]
        kept_targets.keep(store, parameters, row["targets"] or (), held if unmoved else None, gone)
        if held is not None:
            parameters["targets_version"] = newest["targets"]
        every.append(parameters)
        after = canonical_json(parameters)
        if after != before or version != row["pool_version"]:
            changed.append({**row, "parameters": after, "pool_version": version})
        if version != row["pool_version"]:
            moved.append(row["name"])
    if changed:
        store.upsert("coresets", pa.Table.from_pylist(changed, CORESETS))
        store.sync()
    for table, names in tags.items():
        for name in names:
            if name.startswith("coreset-"):
                store.move_tag(name, newest[table], table)
    kept_targets.drop_others(store, every)
    return moved


def _drop_tags(store: Store, gone: IdSet) -> list[str]:
    """Let go of tags of versions that hold one of the rows: those that are no coreset's."""
    dropped = []
    for table in ("pool", "targets", "sources"):
        for names in _holding(store, table, gone).values():
            for name in names:
                store.untag(name, table)
                dropped.append(name)
    return dropped


def _forget_words(value: Any, gone: IdSet) -> None:
    """Empty the words that an account of leaks quotes of a row, or of an example of its content."""
    if isinstance(value, dict):
        ids = [value[key] for key in ("id", "example") if _is_id(value.get(key))]
        if "words" in value and ids and gone.contains(keys_of(ids)).any():
            value["words"] = ""
        for inner in value.values():
            _forget_words(inner, gone)
    elif isinstance(value, list):
        for inner in value:
            _forget_words(inner, gone)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


# -- what else holds something of the rows ------------------------------------------------------


def _drop_indices(store: Store, gone: IdSet) -> list[str]:
    """Drop the indices of a pool that holds one of the rows, and leave word of them.

    Returns:
        What is to be made again, after earlier purges that were killed too: columns of our indices,
        names of others'.
    """
    pool = store.dataset("pool")
    if _holds(pool, gone, {}):
        names = [index["name"] for index in pool.list_indices()]
        columns = {name: indices.column_of(name) for name in names}
        others = [name for name, column in columns.items() if column is None]
        indices.owe(store, filter(None, columns.values()), others)
        for name in dict.fromkeys(names):
            store.change(
                "pool",
                f"dropping the index {name}",
                lambda dataset, name=name: dataset.drop_index(name),
            )
    return indices.owed(store.dataset("pool"))


def _forget_examples(store: Store, ids: pa.Array) -> dict[str, int]:
    """Take examples of the same content out of targets, with what the targets amounted to."""
    losing = targets_losing(store, ids)
    for target in losing:
        rows = store.dataset("targets").to_table(
            columns=["id", "position"], filter=f"target = {literal(target)}"
        )
        examples = rows.sort_by("position")["id"].to_pylist()
        name = catalog.target_artifact_name(examples)
        store.delete("artifacts", f"name = {literal(name)}")
        drop_scores(store, target)
    removal.delete_rows(store, "targets", ids)
    return losing


def _drop_target_artifacts(store: Store) -> None:
    """Delete what targets amounted to that neither the store nor a coreset has any more.

    Which of them had content of purged rows cannot be told: only a digest of their ids is known.
    """
    versions = {None: store.dataset("targets")}
    versions |= {each: store.dataset("targets", each) for each in _tagged(store, "targets")}
    every = [dataset.to_table(columns=_ORDER) for dataset in versions.values()]
    every += kept_targets.tables(store, [json.loads(row["parameters"]) for row in _coresets(store)])
    used = set()
    for rows in every:
        examples: dict[str, list[str]] = defaultdict(list)
        for row in rows.select(_ORDER).sort_by("position").to_pylist():
            examples[row["target"]].append(row["id"])
        used |= {catalog.target_artifact_name(ids) for ids in examples.values()}
    kept = store.dataset("artifacts").to_table(columns=["name"], filter="name LIKE 'target:%'")
    for name in sorted(set(kept["name"].to_pylist()) - used):
        store.delete("artifacts", f"name = {literal(name)}")


def _blank_excerpts(store: Store, ids: pa.Array) -> int:
    """Empty the excerpts of rejects that stood in a row's line, or show some of its text."""
    rejects = store.dataset("rejects").to_table(filter="excerpt IS NOT NULL AND excerpt <> ''")
    if not rejects.num_rows:
        return 0
    places = ["corpus", "file", "line"]
    sources = store.dataset("sources").to_table(columns=[*places, "id"])
    lines = sources.filter(removal.among(sources["id"], ids)).select(places)
    known = {tuple(row.values()) for row in lines.to_pylist()}
    rows = rejects.select([*places, "excerpt"]).to_pylist()
    doomed = excerpts_showing([row["excerpt"] for row in rows], _texts(store, ids))
    for number, row in enumerate(rows):
        if tuple(row[name] for name in places) in known:
            doomed.add(number)
    if not doomed:
        return 0
    changed = rejects.take(pa.array(sorted(doomed)))
    blank = pa.nulls(changed.num_rows, pa.string())
    at = changed.schema.get_field_index("excerpt")
    store.upsert("rejects", changed.set_column(at, "excerpt", blank))
    return len(doomed)


def _texts(store: Store, ids: pa.Array) -> Iterator[str]:
    """Everything that is said in the rows, as far as pool and removed rows still have it."""
    for table in ("pool", "removed_rows"):
        there = store.dataset(table).to_table(columns=["id"])["id"]
        present = there.filter(removal.among(there, ids)).to_pylist()
        for part in store.stream(present, ["messages"], table=table, rows=_READ_ROWS):
            for messages in part["messages"].to_pylist():
                for message in messages or ():
                    yield from (text for name, text in message.items() if text and name != "role")


def _sweep(store: Store) -> None:
    """Delete files that no version is made of, such as those a killed writer left half-written."""
    for table in _TABLES:
        named = version_files(table, store.dataset(table), since=0)
        for path in store.place.sizes(f"{table}.lance"):
            if path.split("/")[1] in _MADE_OF and path not in named:
                store.place.delete(path)


def _bytes_of(store: Store) -> int:
    return sum(store.place.sizes("").values())

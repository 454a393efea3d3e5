"""The corpora of a store: what they hold, and giving one another name.

A corpus is a name in the rows of several tables. Renaming writes the places where rows were seen
under the new name first and drops the old ones last, so a rename that was killed is finished by
the same command. Only the column `corpus` of the pool is written again; versions that coresets
tagged keep the name of then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..schemas.errors import UsageError, suggest
from ..schemas.tables import REJECTS, RUNS, SOURCES, literal
from . import purge, removal
from .grouping import Aggregation, grouped
from .rows import key_of

if TYPE_CHECKING:
    import lance

    from .store import Store

_LONGEST = 200


def list_corpora(store: Store) -> list[dict[str, Any]]:
    """The corpora by name: rows, tokens, files, rows removed, and records rejected."""
    sums: list[Aggregation] = [("tokens", "sum"), ("response_tokens", "sum")]
    groups = grouped(store.dataset("pool"), ["corpus"], [("corpus", "count"), *sums])
    counted = {row["corpus"]: row for row in groups}
    files = _counted(store, "sources", ["corpus", "file"], distinct=True)
    rejected = _counted(store, "rejects", ["corpus"])
    removed = Counter(stone.corpus for stone in removal.tombstones(store))
    names = sorted({*counted, *files, *rejected, *removed} - {"", None})
    return [
        {
            "corpus": name,
            "rows": counted.get(name, {}).get("corpus_count", 0),
            "tokens": counted.get(name, {}).get("tokens_sum") or 0,
            "response tokens": counted.get(name, {}).get("response_tokens_sum") or 0,
            "files": files[name],
            "removed": removed[name],
            "rejected": rejected[name],
        }
        for name in names
    ]


def rename_corpus(store: Store, old: str, new: str, *, merge: bool = False) -> int:
    """Give a corpus another name, in every table.

    Args:
        store: an open store.
        old: its name.
        new: the other one.
        merge: the other one may be that of a corpus that there is, which takes the rows in.

    Returns:
        How many rows of the pool have the new name now that had the old one.

    Raises:
        UsageError: there is no such corpus, the new name is taken (and not `merge`) or empty.
        StoreBusyError: a feature is being filled, or another process writes.
    """
    new = new.strip()
    if not new or len(new) > _LONGEST or not new.isprintable():
        raise UsageError(f"corpus name {new!r}: use 1 to {_LONGEST} printable characters")
    if old == new:
        raise UsageError(f"the corpus is named {old!r} already")
    with removal.alone(store):
        purge.settle(store)
        corpora = list_corpora(store)
        listed = {row["corpus"] for row in corpora}
        known = listed | _kept_corpora(store)
        if old not in known:
            to_list = f"coresetdb corpus list {store.typed}"
            raise UsageError(
                f"no corpus {old!r} in {store.uri}; corpora: {suggest(old, known, to_list)}"
            )
        taken = any(row["corpus"] == new and _holds_rows(row) for row in corpora)
        interrupted = old not in listed or _was_interrupted(store, old, new)
        if taken and not merge and not interrupted:
            raise UsageError(
                f"there is a corpus {new!r} already; to put both into one, add --merge "
                "(in Python merge=True). That cannot be undone"
            )
        is_old = f"corpus = {literal(old)}"
        places = store.dataset("sources").to_table(filter=is_old)
        if places.num_rows:
            store.insert("sources", _renamed_places(places, new))
        _rename_runs(store, old, new)
        renamed = _rename_column(store, "pool", old, new)
        _rename_rejects(store, is_old, new)
        if "removed_rows" in store.tables():  # before the tombstones, which tell that it is to do
            _rename_column(store, "removed_rows", old, new)
        if "removed" in store.tables():
            stones = store.dataset("removed").to_table(filter=is_old)
            if stones.num_rows:
                removal.put_stones(store, _with_corpus(stones, new))
        store.delete("sources", is_old)
        store.sync()
    return renamed


def _holds_rows(corpus: dict[str, Any]) -> bool:
    """Whether a corpus is more than a place where rows of other corpora were seen again."""
    return bool(corpus["rows"] or corpus["removed"])


def _kept_corpora(store: Store) -> set[str]:
    """Corpora of the rows that are kept for a restore."""
    if "removed_rows" not in store.tables():
        return set()
    column = store.dataset("removed_rows").to_table(columns=["corpus"])["corpus"]
    return set(column.unique().to_pylist()) - {None}


def _was_interrupted(store: Store, old: str, new: str) -> bool:
    """Whether a rename of the one to the other was killed once the pool had the new name."""
    is_old, is_new = (f"corpus = {literal(name)}" for name in (old, new))
    if store.dataset("pool").count_rows(filter=is_old):
        return False
    sources = store.dataset("sources")
    places = sources.to_table(filter=is_old)
    if not places.num_rows:
        return False
    renamed = sources.to_table(columns=["key"], filter=is_new)["key"].to_pylist()
    return set(_renamed_places(places, new)["key"].to_pylist()) <= set(renamed)


def _counted(
    store: Store, table: str, columns: Sequence[str], distinct: bool = False
) -> Counter[str]:
    counts = Counter[str]()
    for group in grouped(store.dataset(table), columns, [("corpus", "count")]):
        counts[group["corpus"]] += 1 if distinct else group["corpus_count"]
    return counts


def _with_corpus(rows: pa.Table, corpus: str) -> pa.Table:
    at = rows.schema.get_field_index("corpus")
    column = pa.repeat(pa.scalar(corpus, pa.string()), rows.num_rows)
    return rows.set_column(at, rows.schema.field(at), column)


def _renamed_places(places: pa.Table, corpus: str) -> pa.Table:
    rows = _with_corpus(places, corpus).to_pylist()
    for row in rows:
        row["key"] = key_of(row["id"], corpus, row["file"], row["line"])
    return pa.Table.from_pylist(rows, SOURCES)


def _rename_rejects(store: Store, is_old: str, corpus: str) -> None:
    rows = store.dataset("rejects").to_table(filter=is_old).to_pylist()
    if not rows:
        return
    alike = Counter[tuple[Any, ...]]()
    for row in rows:
        row["corpus"] = corpus
        place = tuple(row[name] for name in ("corpus", "file", "line", "reason", "excerpt"))
        alike[place] += 1
        row["key"] = key_of(*place, alike[place])
    store.insert("rejects", pa.Table.from_pylist(rows, REJECTS))
    store.delete("rejects", is_old)


def _rename_runs(store: Store, old: str, new: str) -> None:
    """How files were read is looked up by run, file and corpus when rows have to be read again."""
    changed = []
    for row in store.dataset("runs").to_table().to_pylist():
        files = row["files"] or []
        if any(entry["corpus"] == old for entry in files):
            for entry in files:
                entry["corpus"] = new if entry["corpus"] == old else entry["corpus"]
            changed.append(row)
    if changed:
        store.upsert("runs", pa.Table.from_pylist(changed, RUNS))


def _rename_column(store: Store, table: str, old: str, new: str) -> int:
    """Write the column `corpus` of the fragments that have the name again; how many rows had it."""
    is_old = f"corpus = {literal(old)}"

    def rename(dataset: lance.LanceDataset) -> int:
        import lance

        rows, written, fields = 0, [], set()
        for part in dataset.get_fragments():
            ids = part.to_table(columns=["id"], filter=is_old)["id"]
            if not len(ids):
                continue
            rows += len(ids)
            names = pa.repeat(pa.scalar(new, pa.string()), len(ids))
            update = pa.table({"id": ids, "corpus": names})
            metadata, modified = part.update_columns(update, left_on="id", right_on="id")
            written.append(metadata)
            fields.update(modified)
        if written:
            operation = lance.LanceOperation.Update(
                updated_fragments=written,
                fields_modified=sorted(fields),
                update_mode="rewrite_columns",
            )
            lance.LanceDataset.commit(
                dataset.uri,
                operation,
                read_version=dataset.version,
                storage_options=store.place.options,
            )
        return rows

    return store.change(table, f"renaming a corpus in {table}", rename)

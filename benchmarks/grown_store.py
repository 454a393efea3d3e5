"""A store grown to any size from copies of its own rows: real features, any number of rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa

from coresetdb.schemas.canonical import digest
from coresetdb.store.store import Store

CORPUS = "copies"
WORDS_OF_COPY = "copy {copy} "


def grow(folder: str | Path, rows: int) -> None:
    """Append copies of a store's pool until it has so many rows.

    Every copy is a row of its own: it has another id, and its first turn begins with the number of
    the copy. Features are those of the original, so vectors repeat.
    """
    store = Store.open(str(folder))
    dataset = store.dataset("pool")
    originals = dataset.to_table(filter=f"corpus != '{CORPUS}'")
    have, copy = dataset.count_rows(), dataset.count_rows() // max(1, len(originals))
    while have < rows:
        part = _copied(originals.slice(0, rows - have), copy)
        store.append("pool", part)
        store.append("sources", _sources(part, store.dataset("sources").schema, copy))
        have, copy = have + len(part), copy + 1
        print(f"\rgrown to {have:,} rows", end="", file=sys.stderr)
    print(file=sys.stderr)


def _copied(originals: pa.Table, copy: int) -> pa.Table:
    ids = [digest(f"{each}:{copy}") for each in originals["id"].to_pylist()]
    messages = originals["messages"].to_pylist()
    for turns in messages:
        turns[0]["content"] = WORDS_OF_COPY.format(copy=copy) + (turns[0]["content"] or "")
    changed = {"id": ids, "messages": messages, "corpus": [CORPUS] * len(ids)}
    for name, values in changed.items():
        place = originals.schema.get_field_index(name)
        field = originals.schema.field(name)
        originals = originals.set_column(place, field, pa.array(values, field.type))
    return originals


def _sources(rows: pa.Table, schema: pa.Schema, copy: int) -> pa.Table:
    from coresetdb.store.rows import key_of

    ids, file = rows["id"].to_pylist(), f"copy-{copy}.jsonl"
    filled = {
        "key": [key_of(each, CORPUS, file, line) for line, each in enumerate(ids)],
        "id": ids,
        "corpus": [CORPUS] * len(ids),
        "file": [file] * len(ids),
        "line": list(range(len(ids))),
    }
    return pa.Table.from_arrays(
        [pa.array(filled.get(f.name, [None] * len(ids)), f.type) for f in schema], schema=schema
    )

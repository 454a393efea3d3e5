"""A store grown to any size from copies of its own rows: real features, any number of rows."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coresetdb.schemas.canonical import DIGEST_BYTES
from coresetdb.store.rows import key_of
from coresetdb.store.store import Store

CORPUS = "copies"
COMMIT_ROWS = 20_000
"""The least rows of a fragment that an ingestion does not merge any more."""


def grow(folder: str | Path, rows: int, commit_rows: int = COMMIT_ROWS) -> None:
    """Append copies of a store's pool until it has so many rows.

    Every copy is a row of its own: it has another id, and its first turn begins with its number in
    the pool. Features are those of the original, so vectors repeat.

    Args:
        commit_rows: of every commit, each of which makes a fragment.
    """
    store = Store.open(str(folder))
    dataset = store.dataset("pool")
    have = dataset.count_rows()
    if have >= rows:
        return
    originals = dataset.to_table(filter=f"corpus != '{CORPUS}'").combine_chunks()
    schema = store.dataset("sources").schema
    for part, copies in _copies(originals, have, rows - have, commit_rows):
        store.append("pool", part)
        store.append("sources", _sources(part["id"].to_pylist(), copies, schema))
        have += len(part)
        print(f"\rgrown to {have:,} rows", end="", file=sys.stderr)
    store.sync()
    print(file=sys.stderr)


def _copies(
    originals: pa.Table, have: int, rows: int, commit_rows: int
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yield so many new rows in commits, with the number of each row's copy."""
    numbers = np.arange(have, have + rows)
    for start in range(0, rows, commit_rows):
        chosen = numbers[start : start + commit_rows]
        copies = chosen // len(originals)
        own = originals.take(pa.array(chosen % len(originals))).combine_chunks()
        yield _changed(own, chosen), copies


def _changed(rows: pa.Table, numbers: np.ndarray) -> pa.Table:
    """Rows that say which row of the pool they are, and so have ids of their own."""
    ids = [
        hashlib.blake2b(f"{each}:{number}".encode(), digest_size=DIGEST_BYTES).hexdigest()
        for each, number in zip(rows["id"].to_pylist(), numbers.tolist(), strict=True)
    ]
    changed = {
        "id": pa.array(ids),
        "messages": _marked(rows["messages"].combine_chunks(), numbers),
        "corpus": pa.array([CORPUS] * len(ids)),
    }
    for name, values in changed.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), values)
    return rows


def _marked(messages: pa.ListArray, numbers: np.ndarray) -> pa.ListArray:
    """Conversations whose first turn begins with their number."""
    offsets = messages.offsets.to_numpy()
    turns = messages.values
    words = np.full(len(turns), None, object)
    words[offsets[:-1]] = [f"copy {number} " for number in numbers]
    first = pa.array(words, pa.string())
    fields = {field.name: turns.field(field.name) for field in messages.type.value_type}
    own = fields["content"]
    marked = pc.binary_join_element_wise(first, pc.fill_null(own, ""), "")
    fields["content"] = pc.if_else(first.is_valid(), marked, own)
    changed = pa.StructArray.from_arrays(
        list(fields.values()), fields=list(messages.type.value_type)
    )
    return pa.ListArray.from_arrays(messages.offsets, changed, messages.type)


def _sources(ids: list[str], copies: np.ndarray, schema: pa.Schema) -> pa.Table:
    files = [f"copy-{copy}.jsonl" for copy in copies]
    places = list(zip(ids, files, range(len(ids)), strict=True))
    filled = {
        "key": [key_of(each, CORPUS, file, line) for each, file, line in places],
        "id": ids,
        "corpus": [CORPUS] * len(ids),
        "file": files,
        "line": list(range(len(ids))),
    }
    return pa.Table.from_arrays(
        [pa.array(filled.get(f.name, [None] * len(ids)), f.type) for f in schema], schema=schema
    )

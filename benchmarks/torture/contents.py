"""Everything that a store holds, without times, runs and versions; and how two stores differ."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

_OF_THE_RUN = frozenset(
    "added_at created_at removed_at run seconds pool_version query_hash code_version".split()
)
_PASSED_OVER = ("runs", "files")
_CLOSE = 4e-3
"""Features are float16 unit vectors; rows that were batched otherwise differ by rounding."""


def contents(uri: str) -> dict[str, Any]:
    """Table -> its rows by key; and what is said about them elsewhere."""
    import coresetdb
    from coresetdb.schemas.tables import TABLES
    from coresetdb.store.rows import key_column

    store = coresetdb.connect(uri).store
    found: dict[str, Any] = {}
    for table in store.tables():
        if table in _PASSED_OVER:
            continue
        columns = [name for name in store.dataset(table).schema.names if name not in _OF_THE_RUN]
        rows = store.dataset(table).to_table(columns=columns).to_pylist()
        key = key_column(TABLES[table])
        if table in ("artifacts", "recipes"):  # made from sums whose order may differ
            rows = [_what_is_made(row) for row in rows]
            key = "what"
        if table == "coresets":
            for row in rows:
                row["parameters"] = _without_versions(row["parameters"])
        if table in ("scores", "evaluations"):  # versions stand in their keys
            for row in rows:
                row[key] = "|".join(str(row.get(name)) for name in (
                    "target", "method", "study", "arm", "budget", "seed", "metric", "item", "id"
                ))  # fmt: skip
        keys = Counter(row[key] for row in rows)
        twice = [name for name, count in keys.items() if count > 1]
        assert not twice or table in ("artifacts", "recipes"), f"{table}: {twice} are there twice"
        found[table] = {row[key]: row for row in rows}
    found["indices"] = {
        index.column: {"column": index.column} for index in coresetdb.connect(uri).list_indices()
    }
    return found


def _what_is_made(row: dict[str, Any]) -> dict[str, Any]:
    if "representation" in row:
        found = {"what": row["representation"], "columns": row["columns"]}
        # The options of an annotation say when it was made, and by what.
        return found | (
            {} if row["representation"] == "annotation" else {"options": row["options"]}
        )
    return {"what": row["name"]}


def _without_versions(parameters: str) -> Any:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            gone = ("version", "digest", "artifact", "fingerprint", "hash", "seconds", "universe")
            return {
                key: plain(each)
                for key, each in value.items()
                if key != "at" and not any(word in key for word in gone)
            }
        return [plain(each) for each in value] if isinstance(value, list) else value

    return plain(json.loads(parameters))


def differences(
    found: dict[str, Any], expected: dict[str, Any], tables: tuple[str, ...] = ()
) -> dict[str, str]:
    """Table -> in what it differs, by an example; of all tables, or of some."""
    different = {}
    for table in tables or sorted({*found, *expected}):
        ours, theirs = found.get(table, {}), expected.get(table, {})
        said = []
        if missing := sorted(set(theirs) - set(ours)):
            said.append(f"{len(missing)} are missing, such as {missing[0]}")
        if more := sorted(set(ours) - set(theirs)):
            said.append(f"{len(more)} are too many, such as {more[0]}")
        for key in sorted(set(ours) & set(theirs)):
            names = {*ours[key], *theirs[key]}
            other = [n for n in names if not _close(ours[key].get(n), theirs[key].get(n))]
            if other:
                a, b = ours[key].get(other[0]), theirs[key].get(other[0])
                said.append(f"{key}: {other[0]} is {str(a)[:80]} instead of {str(b)[:80]}")
                break
        if said:
            different[table] = "; ".join(said)
    return different


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or math.isclose(
            a, b, rel_tol=_CLOSE, abs_tol=_CLOSE
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_close(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_close, a, b))
    return a == b


def leftovers(store: Path) -> list[str]:
    """Files that no later command would take away, in a store where nobody is at work."""
    parts = ("data", "_versions", "_deletions", "_indices", "_refs", "_transactions")
    found = []
    for path in sorted(store.rglob("*")):
        inside = path.relative_to(store).parts
        if path.is_dir():
            continue
        in_table = inside[0].endswith(".lance") and len(inside) > 2 and inside[1] in parts
        lock = path.name.startswith("_lock") and not path.stat().st_size
        known = in_table or lock or inside[0] in ("_checksums", "_runs")
        if not known or ".part" in path.name or ".tmp" in path.name:
            found.append("/".join(inside))
    return found

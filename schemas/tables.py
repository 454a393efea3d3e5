"""The Arrow schema of every table of a store, the layout version, and text in a filter on one.

Features are not listed here: each representation brings its own columns, which follow the fixed
ones in `pool` and `targets`. A field marked as key is declared to Lance as the (unenforced)
primary key, which makes concurrent insert-if-absent exact.
"""

from __future__ import annotations

import pyarrow as pa

LAYOUT_VERSION = 1

NEWEST_POSSIBLE = (1 << 63) - 1
"""The highest number that a version of a table can have."""

KEY = {b"lance-schema:unenforced-primary-key": b"true"}
"""Field metadata that tells Lance which column identifies a row."""

TIME = pa.timestamp("us", tz="UTC")

MESSAGES = pa.list_(
    pa.struct(
        [
            pa.field("role", pa.string()),
            pa.field("content", pa.string()),
            pa.field("name", pa.string()),
            pa.field("tool_calls", pa.string()),
            pa.field("tool_call_id", pa.string()),
        ]
    )
)


def _key(name: str) -> pa.Field:
    return pa.field(name, pa.string(), nullable=False, metadata=KEY)


POOL = pa.schema(
    [
        _key("id"),
        pa.field("corpus", pa.string()),
        pa.field("source_id", pa.string()),
        pa.field("messages", MESSAGES),
        pa.field("tools", pa.string()),
        pa.field("metadata", pa.string()),
        pa.field("tokens", pa.int32()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("response_tokens", pa.int32()),
        pa.field("truncated", pa.bool_()),
        pa.field("added_at", TIME),
        pa.field("run", pa.string()),
    ]
)

# `key` is the digest of (id, corpus, file, line).
SOURCES = pa.schema(
    [
        _key("key"),
        pa.field("id", pa.string()),
        pa.field("corpus", pa.string()),
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("source_id", pa.string()),
        pa.field("metadata", pa.string()),
        pa.field("run", pa.string()),
    ]
)

# `key` is the digest of (target, id).
TARGETS = pa.schema(
    [
        _key("key"),
        pa.field("target", pa.string()),
        pa.field("id", pa.string()),
        pa.field("position", pa.int32()),
        pa.field("messages", MESSAGES),
        pa.field("tools", pa.string()),
        pa.field("metadata", pa.string()),
        pa.field("tokens", pa.int32()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("response_tokens", pa.int32()),
        pa.field("truncated", pa.bool_()),
        pa.field("file", pa.string()),
        pa.field("added_at", TIME),
    ]
)

# `key` is the digest of (target, method, fingerprint, pool_version, id).
SCORES = pa.schema(
    [
        _key("key"),
        pa.field("target", pa.string()),
        pa.field("method", pa.string()),
        pa.field("fingerprint", pa.string()),
        pa.field("pool_version", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("rank", pa.int64()),
    ]
)

CORESETS = pa.schema(
    [
        _key("name"),
        pa.field("targets", pa.list_(pa.string())),
        pa.field("method", pa.string()),
        pa.field("parameters", pa.string()),  # canonical JSON
        pa.field("fingerprint", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("budget", pa.string()),
        pa.field("pool_version", pa.int64()),
        pa.field("filter", pa.string()),
        pa.field("eligible", pa.int64()),
        pa.field("rows", pa.int64()),
        pa.field("short_by", pa.int64()),
        pa.field("distance", pa.float64()),
        pa.field("query_hash", pa.string()),
        pa.field("created_at", TIME),
    ]
)

# `key` is the digest of (coreset, rank).
CORESET_ROWS = pa.schema(
    [
        _key("key"),
        pa.field("coreset", pa.string()),
        pa.field("rank", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("target", pa.string()),
        pa.field("query", pa.string()),
    ]
)

RECIPES = pa.schema(
    [
        _key("fingerprint"),
        pa.field("representation", pa.string()),
        pa.field("version", pa.int32()),
        pa.field("options", pa.string()),
        pa.field("backbone", pa.string()),
        pa.field("columns", pa.list_(pa.string())),
        pa.field("stored_dtype", pa.string()),
        pa.field("artifacts", pa.string()),
        pa.field("code_version", pa.string()),
        pa.field("created_at", TIME),
    ]
)

# `key` is the digest of (fingerprint, name).
ARTIFACTS = pa.schema(
    [
        _key("key"),
        pa.field("fingerprint", pa.string()),
        pa.field("name", pa.string()),
        pa.field("bytes", pa.large_binary()),
    ]
)

RUNS = pa.schema(
    [
        _key("run"),
        pa.field("command", pa.string()),
        pa.field("status", pa.string()),  # running, done, failed, interrupted
        pa.field("started_at", TIME),
        pa.field("finished_at", TIME),
        pa.field("read", pa.int64()),
        pa.field("new", pa.int64()),
        pa.field("duplicate", pa.int64()),
        pa.field("rejected", pa.int64()),
        pa.field("tokens", pa.int64()),
        pa.field("seconds", pa.float64()),
        pa.field(
            "files",
            pa.list_(
                pa.struct(
                    [
                        pa.field("file", pa.string()),
                        pa.field("corpus", pa.string()),
                        pa.field("format", pa.string()),
                        pa.field("options", pa.string()),  # canonical JSON: what reading it took
                        pa.field("bytes", pa.int64()),
                        pa.field("xxh3", pa.string()),
                        pa.field("read", pa.int64()),
                        pa.field("new", pa.int64()),
                        pa.field("duplicate", pa.int64()),
                        pa.field("rejected", pa.int64()),
                    ]
                )
            ),
        ),
        pa.field("metadata_keys", pa.list_(pa.string())),
        pa.field("code_version", pa.string()),
        pa.field("note", pa.string()),
    ]
)

# `key` is the digest of (corpus, file, line, reason, excerpt, n): the n-th alike of that line.
REJECTS = pa.schema(
    [
        _key("key"),
        pa.field("corpus", pa.string()),
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("excerpt", pa.string()),
        pa.field("run", pa.string()),
    ]
)

# `key` is the digest of (table, path). `late` marks a checksum that was not taken by the process
# that wrote the file: the file was found committed without one and noted as it stood.
FILES = pa.schema(
    [
        _key("key"),
        pa.field("table", pa.string()),
        pa.field("path", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("xxh3", pa.string()),
        pa.field("version", pa.int64()),
        pa.field("late", pa.bool_()),
    ]
)

# The tombstone of a row that was taken out of the pool; `corpus` and `why` are for people. `state`
# is "leaving" or "returning" while the pool is being changed, "removed" or "purged" afterwards, and
# "purging" while every file with the row is being rewritten. A purged row is in no other table.
REMOVED = pa.schema(
    [
        _key("id"),
        pa.field("corpus", pa.string()),
        pa.field("why", pa.string()),
        pa.field("removed_at", TIME),
        pa.field("state", pa.string()),
    ]
)

# `key` is the digest of (study, arm, budget, seed, metric, item). An arm is a model trained on one
# choice of rows with one seed; `coreset` names these rows, and is null where the model was not
# trained or the rows are no coreset. `recipe` is canonical JSON: the study with all its settings.
EVALUATIONS = pa.schema(
    [
        _key("key"),
        pa.field("study", pa.string()),
        pa.field("target", pa.string()),
        pa.field("arm", pa.string()),
        pa.field("budget", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("model", pa.string()),
        pa.field("metric", pa.string()),
        pa.field("item", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("coreset", pa.string()),
        pa.field("training_rows", pa.int64()),
        pa.field("training_tokens", pa.int64()),
        pa.field("seconds", pa.float64()),
        pa.field("recipe", pa.string()),
        pa.field("created_at", TIME),
    ]
)

TABLES: dict[str, pa.Schema] = {
    "pool": POOL,
    "sources": SOURCES,
    "targets": TARGETS,
    "scores": SCORES,
    "coresets": CORESETS,
    "coreset_rows": CORESET_ROWS,
    "recipes": RECIPES,
    "artifacts": ARTIFACTS,
    "runs": RUNS,
    "rejects": REJECTS,
    "files": FILES,
    "removed": REMOVED,
    "removed_rows": POOL,  # what the pool had of rows that can be restored, features and all
    "evaluations": EVALUATIONS,
}

NEWER_TABLES = ("removed", "removed_rows", "evaluations")
"""Tables that stores of version 0.1 lack until something is put there."""


def literal(text: str) -> str:
    """A text as a literal of SQL, and of a Lance filter."""
    return "'" + text.replace("'", "''") + "'"

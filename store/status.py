"""What a store holds, counted from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

import pyarrow as pa

from ..schemas.notebook import html_table, html_text
from ..schemas.plain_text import PrintedResult, count_of, text_table
from ..schemas.recipe import ANNOTATION
from ..schemas.stored_vectors import width_of
from ..schemas.tables import MESSAGES
from .features import annotations_of, completion, features_of
from .fill import count_unfilled
from .grouping import Aggregation, grouped
from .indices import described, indices_of
from .locks import run_state
from .removal import summary
from .sizes import bytes_per_row
from .store import Store

CORESETS_SHOWN = 10
"""The most coresets that a status shows unless all are asked for."""

NEWEST = "The newest coresets"

_SUMS = ("tokens", "response_tokens", "truncated")
_OF_RUNS = ("status", "started_at", "command", "because")
_GAP = ("ensemble", "rows in fit", "rows outside", "seen over unseen", "outside over unseen")
_LEARNED = (
    "ensemble",
    "early loss",
    "late loss",
    "negative drops",
    "halves agree",
    "halves agree on drops",
)


@dataclass(frozen=True, repr=False)
class Status(PrintedResult):
    """A store's contents at one version of its pool; every part is a list of plain rows.

    `waiting` says of each feature and annotation how many rows have neither a value nor a reason;
    `attached` maps those among them that were made elsewhere to the command that brings more rows.
    `pending` names features that are not fitted yet. `bases` and `ensembles` say how what was
    learned suits the corpora, and `due` what to do about it (see ingest/drift.py). `sizes` says
    how many bytes of a row each feature and annotation takes in the files, `holds` in the user's
    words what a feature keeps of a row. The status of an `unfinished` run is "running", "killed",
    "not known" (see store/locks.py), "failed" or "interrupted".
    """

    uri: str
    version: int
    rows: int
    backbone: str
    corpora: list[dict[str, Any]]
    features: list[dict[str, Any]]
    targets: list[dict[str, Any]]
    coresets: list[dict[str, Any]]
    unfinished: list[dict[str, Any]]
    rejected: int
    waiting: dict[str, int]
    pending: list[str] = field(default_factory=list)
    bases: list[dict[str, Any]] = field(default_factory=list)
    ensembles: list[dict[str, Any]] = field(default_factory=list)
    due: list[str] = field(default_factory=list)
    indices: list[dict[str, Any]] = field(default_factory=list)
    removed: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    attached: dict[str, str] = field(default_factory=dict)
    sizes: list[dict[str, Any]] = field(default_factory=list)
    holds: dict[str, str] = field(default_factory=dict)

    def headline(self) -> str:
        """One line."""
        rows = count_of(self.rows, "row")
        return f"{self.uri}: {rows}, version {self.version}, features by {self.backbone}"

    def sections(self, verbose: bool = False) -> list[tuple[str, list[dict[str, Any]]]]:
        """Titles with their rows, what people look for first.

        Args:
            verbose: all columns with their types and fingerprints, all coresets, and how well what
                was fitted suits the corpora.
        """
        newest = self.coresets if verbose else self.coresets[-CORESETS_SHOWN:]
        common = [
            ("Corpora", self.corpora),
            ("Targets", self.targets),
            (NEWEST if len(newest) < len(self.coresets) else "Coresets", newest),
            ("Features", self._features_in_words()),
            ("Annotations", self._annotations_in_words()),
            ("Removed", self.removed),
            ("Indices", self.indices),
        ]
        if not verbose:
            unfinished = [{key: run[key] for key in _OF_RUNS} for run in self.unfinished]
            return [*common, ("Unfinished runs", unfinished)]
        return [
            *common,
            ("Unfinished runs", self.unfinished),
            ("Columns", self.features),
            ("Fingerprints of annotations", self.annotations),
            ("On disk", self.sizes),
            ("Energy kept by the bases", self.bases),
            (
                "Gradients of rows that ensembles were trained on, and of others",
                [{name: row[name] for name in _GAP} for row in self.ensembles],
            ),
            (
                "What ensembles learned, and how far two halves of their members agree on rows",
                [{name: row[name] for name in _LEARNED} for row in self.ensembles],
            ),
        ]

    def _features_in_words(self) -> list[dict[str, Any]]:
        """A row for each feature: what it keeps, its bytes, the rows that lack it."""
        sizes = {row["of"]: row["bytes per row"] for row in self.sizes}
        return [
            {
                "feature": name,
                "keeps": self.holds.get(name, ""),
                "bytes per row": sizes.get(name),
                "rows without": row["rows without"],
                "not yet featurized": row["not yet featurized"],
            }
            for name, row in {row["of"]: row for row in self.features}.items()
        ]

    def _annotations_in_words(self) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in row.items() if key != "fingerprint"}
            for row in self.annotations
        ]

    def advice(self) -> list[str]:
        """Sentences on what to do next, each with its command."""
        store = quote(self.uri)
        sentences = []
        if self.rejected:
            were = "was" if self.rejected == 1 else "were"
            sentences.append(
                f"{count_of(self.rejected, 'record')} {were} rejected: coresetdb sql {store} "
                '"SELECT reason, count(*) FROM rejects GROUP BY reason"'
            )
        if not self.rows:
            sentences.append(f"The pool is empty. Next: coresetdb ingest {store} FILE...")
        elif not self.targets:
            sentences.append(f"No target yet. Next: coresetdb target add {store} NAME FILE")
        if self.pending:
            command = f"featurize {store}" if self.rows else f"fit {store} SOURCE..."
            sentences.append(
                f"Not fitted yet: {', '.join(self.pending)}. That is done at the next ingestion, "
                f"or by coresetdb {command}"
            )
        waiting = {name: rows for name, rows in self.waiting.items() if rows}
        sentences += [
            f"{name} lacks {count_of(waiting.pop(name), 'row')} that came after it. Next: {command}"
            for name, command in self.attached.items()
            if name in waiting
        ]
        if waiting:
            rows = ", ".join(f"{name} ({count_of(rows, 'row')})" for name, rows in waiting.items())
            sentences.append(
                f"Not yet featurized: {rows}. Next: coresetdb featurize {store} {','.join(waiting)}"
            )
        for index in self.indices:
            if missing := index["rows outside"]:
                name = index["index of"]
                sentences.append(
                    f"The index of {name} lacks {count_of(missing, 'row')}, which are compared one "
                    f"by one. Next: coresetdb index create {store} {name}"
                )
        sentences += [
            f"Run {run['run'][:8]} was killed, or its machine went down. "
            f"What it committed is kept. Next: {run['command']}"
            for run in self.unfinished
            if run["status"] == "killed"
        ]
        return [*sentences, *self.due]

    def summary(self, verbose: bool = False) -> str:
        """The headline and the sections that have rows, as aligned text; see `sections`."""
        lines = [self.headline()]
        for title, rows in self.sections(verbose):
            if rows:
                lines += ["", title, text_table(rows)]
            if title == NEWEST:
                older = len(self.coresets) - len(rows)
                lines.append(f"and {older:,} older: coresetdb coreset list {quote(self.uri)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        advice = self.advice()
        return "\n".join([self.summary(), *([""] if advice else []), *advice])

    def _repr_html_(self) -> str:
        tables = (html_table(rows, title) for title, rows in self.sections())
        advice = self.advice()
        said = html_text("\n".join(advice)) if advice else ""
        return html_text(self.headline()) + "".join(tables) + said

    def as_dict(self) -> dict[str, Any]:
        """The status as JSON values."""
        return dict(vars(self))


def status_of(store: Store) -> Status:
    """Count what `store` holds."""
    pool = store.dataset("pool")
    # A feature that is being dropped or declared may lack its columns at this version.
    features = {
        name: recipe
        for name, recipe in features_of(store).items()
        if set(recipe.columns) <= set(pool.schema.names)
    }
    reasons = [recipe.reason for recipe in features.values()]
    sums: list[Aggregation] = [(column, "sum") for column in _SUMS]
    counts: list[Aggregation] = [(column, "count") for column in ("corpus", *set(reasons))]
    corpora = grouped(pool, ["corpus"], [*counts, *sums])
    without = {reason: sum(row[f"{reason}_count"] for row in corpora) for reason in reasons}
    waiting = {name: count_unfilled(pool, recipe) for name, recipe in features.items()}
    return Status(
        uri=store.uri,
        version=pool.version,
        rows=pool.count_rows(),
        backbone=str(store.config["backbone"]["name"]),
        corpora=_in_words(corpora),
        features=[
            {
                "feature": column,
                "type": type_words(pool.schema.field(column).type),
                "representation": recipe.feature if recipe.attached else recipe.representation,
                "of": name,
                "fingerprint": recipe.fingerprint,
                "rows without": without[recipe.reason],
                "not yet featurized": waiting[name],
            }
            for name, recipe in features.items()
            for column in recipe.columns
            if column != recipe.reason and recipe.representation != ANNOTATION
        ],
        annotations=[
            {**row, "columns": ", ".join(row["columns"])} for row in annotations_of(store)
        ],
        attached={
            name: completion(store, recipe) for name, recipe in features.items() if recipe.attached
        },
        targets=_counted(store, "targets", "target", "examples"),
        coresets=_named(store),
        unfinished=_unfinished(store),
        rejected=store.dataset("rejects").count_rows(),
        waiting=waiting,
        indices=[described(index) for index in indices_of(pool).values()],
        removed=summary(store),
        sizes=bytes_per_row(pool, features),
    )


def _in_words(corpora: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "corpus": row["corpus"],
            "rows": row["corpus_count"],
            "tokens": row["tokens_sum"],
            "response tokens": row["response_tokens_sum"],
            "truncated": row["truncated_sum"],
        }
        for row in sorted(corpora, key=lambda row: row["corpus"])
    ]


def _counted(store: Store, table: str, column: str, count: str) -> list[dict[str, Any]]:
    groups = grouped(store.dataset(table), [column], [(column, "count")])
    return [
        {column: row[column], count: row[f"{column}_count"]}
        for row in sorted(groups, key=lambda row: row[column])
    ]


def _named(store: Store) -> list[dict[str, Any]]:
    columns = ["name", "targets", "method", "rows", "pool_version", "created_at"]
    rows = store.dataset("coresets").to_table(columns=columns).sort_by("created_at").to_pylist()
    return [
        {
            "coreset": row["name"],
            "rows": row["rows"],
            "method": row["method"],
            "targets": ", ".join(row["targets"] or []),
            "version": row["pool_version"],
        }
        for row in rows
    ]


def _unfinished(store: Store) -> list[dict[str, Any]]:
    """Runs that go on, and those that did not end well and whose work no later run did."""
    runs = _runs(store)
    lives = {run["run"]: run_state(store.place, run["run"]) for run in runs if _open(run)}
    if any(life.state != "running" for life in lives.values()):
        runs = _runs(store)  # one that ended while it was looked for has recorded how
    finished: set[tuple[str, str]] = set()
    filled: list[str] = []
    unfinished = []
    for run in reversed(runs):
        files = {(entry["file"], entry["corpus"]) for entry in run.pop("files") or ()}
        # What featurize fills has no files; where it names no features, it fills them all.
        superseded = files <= finished if files else run["command"].startswith(tuple(filled))
        if run["status"] == "done":
            finished |= files
            filled += [] if files else [run["command"]]
            continue
        run["because"] = ""
        if _open(run):
            life = lives.get(run["run"]) or run_state(store.place, run["run"])
            run |= {"status": life.state, "because": life.because}
        if run["status"] == "running" or not superseded:
            started = run["started_at"].isoformat(timespec="seconds")
            unfinished.append({**run, "started_at": started})
    return unfinished[::-1]


def _runs(store: Store) -> list[dict[str, Any]]:
    columns = ["run", "status", "started_at", "read", "new", "command", "files"]
    return store.dataset("runs").to_table(columns=columns).sort_by("started_at").to_pylist()


def _open(run: Mapping[str, Any]) -> bool:
    """Whether the table does not tell how a run ended."""
    return run["status"] == "running"


def type_words(kind: pa.DataType) -> str:
    """A column's type as people write it."""
    if pa.types.is_fixed_size_list(kind):
        packed = pa.types.is_uint8(kind.value_type)
        return f"{width_of(kind)} x {'int2' if packed else kind.value_type}"
    if pa.types.is_list(kind) and not pa.types.is_struct(kind.value_type):
        return f"list of {type_words(kind.value_type)}"
    if not pa.types.is_list(kind):
        return str(kind)
    return "messages" if kind == MESSAGES else "list of records"

"""One commit of an ingestion: the rows that become visible together, and everything about them.

Order: `sources`, `pool`, `runs`, each idempotent by key. A kill between two of them leaves
occurrences of rows that the pool does not have yet; ingesting the file again completes them.
`Account` says what became of every record: its figures add up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from ...schemas.conversations import TURN_MARKS, as_columns
from ...schemas.instruction import Record, Reject
from ...schemas.plain_text import LinesResult, count_of
from ...schemas.tables import POOL, REJECTS, SOURCES
from ...store.features import without_removed_columns
from ...store.removal import removed_ids
from ...store.rows import key_of
from ...store.store import Store


@dataclass
class FileAccount:
    """One source file: `read` = `new` + `duplicate` + `rejected`, always.

    `duplicate` counts records whose content the pool already held, from whichever file or from an
    earlier line of this one, and the `removed`: those that were taken out of the pool and stay out.
    """

    file: str
    corpus: str
    format: str = ""
    options: str = "{}"
    bytes: int = 0
    xxh3: str = ""
    read: int = 0
    new: int = 0
    duplicate: int = 0
    rejected: int = 0
    removed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    fault: str | None = None

    def as_row(self) -> dict[str, Any]:
        """The entry of this file in the table `runs`."""
        names = ("file", "corpus", "format", "options", "bytes", "xxh3")
        counts = ("read", "new", "duplicate", "rejected")
        return {name: getattr(self, name) for name in names + counts}


@dataclass
class Account(LinesResult):
    """One ingestion: its files and what was featurized.

    Attributes:
        tokens, seconds: of this run.
        without_feature: "feature: reason" -> rows that have this reason instead of the feature.
        limited: whether --limit ended it before the end of the files.
        unreadable: what is wrong with files that could not be opened.
        passed_over: what else was found and not read, in words.
    """

    run: str
    files: list[FileAccount] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    without_feature: Counter[str] = field(default_factory=Counter)
    limited: bool = False
    unreadable: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)

    def total(self, name: str) -> int:
        """Sum over the files of `read`, `new`, `duplicate` or `rejected`."""
        return sum(getattr(file, name) for file in self.files)

    @property
    def faults(self) -> list[str]:
        """Files that could not be read, or broke half-way, each with what was wrong."""
        return self.unreadable + [file.fault for file in self.files if file.fault]

    def lines(self) -> list[str]:
        """The closing account, in words."""
        lines = [
            f"{file.corpus}: read {file.read:,}: {file.new:,} new, "
            f"{file.duplicate:,} duplicate, {file.rejected:,} rejected"
            for file in self._by_corpus()
        ]
        reasons = sum((file.reasons for file in self.files), Counter())
        lines += [f"  rejected, {reason}: {n:,}" for reason, n in reasons.most_common()]
        lines += [
            f"  without a feature, {reason}: {n:,}" for reason, n in self.without_feature.items()
        ]
        if len({file.corpus for file in self.files}) > 1:
            lines.append(
                f"all: read {self.total('read'):,}: {self.total('new'):,} new, "
                f"{self.total('duplicate'):,} duplicate, {self.total('rejected'):,} rejected"
            )
        if removed := self.total("removed"):
            was = "was" if removed == 1 else "were"
            rows = count_of(removed, "row")
            lines.append(f"{rows} {was} removed earlier and {was} skipped (among the duplicates)")
        lines += [f"{file.file}: {remark}" for file in self.files for remark in file.remarks]
        lines += [f"NOT read: {fault}" for fault in self.faults]
        speed = f", {self.tokens / self.seconds:,.0f} tokens/s" if self.tokens else ""
        lines.append(
            f"featurized {count_of(self.total('new'), 'row')}, "
            f"{count_of(self.tokens, 'token')} in {self.seconds:,.1f} s{speed}"
        )
        if self.limited:
            lines.append("stopped at --limit; the rest was not read")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON values."""
        return {
            "run": self.run,
            **{name: self.total(name) for name in ("read", "new", "duplicate", "rejected")},
            "removed": self.total("removed"),
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "limited": self.limited,
            "without_feature": dict(self.without_feature),
            "unreadable": self.unreadable,
            "passed_over": self.passed_over,
            "files": [
                {
                    **file.as_row(),
                    "removed": file.removed,
                    "reasons": dict(file.reasons),
                    "remarks": file.remarks,
                    "fault": file.fault,
                }
                for file in self.files
            ],
        }

    def _by_corpus(self) -> list[FileAccount]:
        merged: dict[str, FileAccount] = {}
        for file in self.files:
            into = merged.setdefault(file.corpus, FileAccount(file.file, file.corpus))
            for name in ("read", "new", "duplicate", "rejected"):
                setattr(into, name, getattr(into, name) + getattr(file, name))
        return list(merged.values())


def count_reasons(features: pa.Table) -> Counter[str]:
    """How often each feature is missing for which reason, as "feature: reason"."""
    counts: Counter[str] = Counter()
    for name in features.column_names:
        stem, _, suffix = name.partition("__")
        if stem.endswith("_reason"):
            feature = stem.removesuffix("_reason") + (f"__{suffix}" if suffix else "")
            reasons = [reason for reason in features[name].to_pylist() if reason]
            counts.update(f"{feature}: {reason}" for reason in reasons)
    return counts


@dataclass
class Commit:
    """What has been read and featurized since the last commit.

    `features[i]` holds the features of the records queued by the i-th call of `add_rows`. A reject
    comes with its number among equal ones: one line may hold several conversations that are
    rejected for the same reason.
    """

    run: str
    occurrences: list[tuple[str, Record]] = field(default_factory=list)
    rejects: list[tuple[Reject, int]] = field(default_factory=list)
    rows: list[tuple[str, Record]] = field(default_factory=list)
    features: list[pa.Table] = field(default_factory=list)
    bytes: int = 0  # of the features

    def add_rows(self, rows: list[tuple[str, Record]], features: pa.Table) -> None:
        """Queue featurized records; `features` has one row for each, in order."""
        self.rows.extend(rows)
        self.features.append(features)
        self.bytes += features.nbytes

    def write(self, store: Store) -> set[str]:
        """Make everything queued visible.

        Returns:
            ids that another process had inserted, or taken out of the pool, in the meantime.
        """
        if self.rejects:
            store.insert("rejects", _without_emptied(store, self._reject_table()))
        with store.lock(shared=True):  # between looking and writing no column goes, and no row
            removed = self._drop_removed(store)
            if self.occurrences:
                store.insert("sources", self._source_table())
            if not self.rows:
                return removed
            table = self._pool_table()
            if removed:
                left = [row_id not in removed for row_id in table["id"].to_pylist()]
                table = table.filter(pa.array(left))
            if TURN_MARKS.name in table.column_names:
                store.add_columns("pool", [TURN_MARKS])
            rows = without_removed_columns(table, store.dataset("pool").schema)
            inserted = store.insert("pool", rows)
        if inserted == rows.num_rows:
            return removed
        return removed | self._rows_of_others(store, rows["id"].to_pylist())

    def _drop_removed(self, store: Store) -> set[str]:
        """Forget where removed rows were seen; the ids of those that wait to be inserted."""
        ids = list(dict.fromkeys(row_id for row_id, _ in (*self.occurrences, *self.rows)))
        gone = removed_ids(store).contains(ids).tolist() if ids else []
        removed = {row_id for row_id, is_gone in zip(ids, gone, strict=True) if is_gone}
        if removed:
            self.occurrences = [seen for seen in self.occurrences if seen[0] not in removed]
        return removed & {row_id for row_id, _ in self.rows}

    def _rows_of_others(self, store: Store, ids: list[str]) -> set[str]:
        """Those of the ids that another process inserted."""
        runs = store.take(ids, ["id", "run"])["run"].to_pylist()
        return {row_id for row_id, run in zip(ids, runs, strict=True) if run != self.run}

    def _pool_table(self) -> pa.Table:
        features = pa.concat_tables(self.features)
        now = datetime.now(UTC)
        records = [record for _, record in self.rows]
        columns = {
            "id": [row_id for row_id, _ in self.rows],
            "corpus": [record.corpus for record in records],
            "source_id": [record.source_id for record in records],
            **as_columns([record.instruction for record in records]),
            "metadata": [record.metadata for record in records],
            "added_at": [now] * len(records),
            "run": [self.run] * len(records),
        }
        own = {field.name: field for field in [*POOL, TURN_MARKS]}
        arrays = {name: pa.array(values, own[name].type) for name, values in columns.items()}
        for name in features.column_names:
            arrays[name] = features[name]
        fields = [field for field in own.values() if field.name in arrays]
        fields += [field for field in features.schema if field.name not in POOL.names]
        return pa.table([arrays[field.name] for field in fields], schema=pa.schema(fields))

    def _source_table(self) -> pa.Table:
        rows = [
            {
                "key": key_of(row_id, record.corpus, record.file, record.line),
                "id": row_id,
                "corpus": record.corpus,
                "file": record.file,
                "line": record.line,
                "source_id": record.source_id,
                "metadata": record.metadata,
                "run": self.run,
            }
            for row_id, record in self.occurrences
        ]
        return pa.Table.from_pylist(rows, schema=SOURCES)

    def _reject_table(self) -> pa.Table:
        rows = [_reject_row(reject, nth, self.run) for reject, nth in self.rejects]
        return pa.Table.from_pylist(rows, schema=REJECTS)


def _without_emptied(store: Store, rejects: pa.Table) -> pa.Table:
    """Leave out rejects whose excerpt a purge emptied.

    Their keys are digests of the excerpt and the corpus's name: the same file, read once more after
    a rename, would bring them back.
    """
    place = ["corpus", "file", "line", "reason"]
    emptied = store.dataset("rejects").to_table(columns=place, filter="excerpt IS NULL")
    if not emptied.num_rows:
        return rejects
    known = {tuple(row.values()) for row in emptied.to_pylist()}
    new = [
        not row["excerpt"] or tuple(row[name] for name in place) not in known
        for row in rejects.to_pylist()
    ]
    return rejects.filter(pa.array(new, pa.bool_()))


def _reject_row(reject: Reject, nth: int, run: str) -> dict[str, Any]:
    place = (reject.corpus, reject.file, reject.line, reject.reason, reject.excerpt)
    return {
        "key": key_of(*place, nth),
        "corpus": reject.corpus,
        "file": reject.file,
        "line": reject.line,
        "reason": reject.reason,
        "excerpt": reject.excerpt,
        "run": run,
    }

"""What became of every record of an ingestion: the figures that must add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


@dataclass
class FileAccount:
    """One source file: `read` = `new` + `duplicate` + `rejected`, always.

    `duplicate` counts records whose content the pool already held, from whichever file or from an
    earlier line of this one.
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
    reasons: Counter[str] = field(default_factory=Counter)
    fault: str | None = None

    def as_row(self) -> dict[str, Any]:
        """The entry of this file in the table `runs`."""
        names = ("file", "corpus", "format", "options", "bytes", "xxh3")
        counts = ("read", "new", "duplicate", "rejected")
        return {name: getattr(self, name) for name in names + counts}


@dataclass
class Account:
    """One ingestion: its files and what was featurized.

    `tokens` and `seconds` are those of this run; `limited` says that --limit ended it before the
    files did; `unreadable` says of files that could not even be opened what is wrong with them.
    """

    run: str
    files: list[FileAccount] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    without_feature: Counter[str] = field(default_factory=Counter)
    limited: bool = False
    unreadable: list[str] = field(default_factory=list)

    def total(self, name: str) -> int:
        """Sum over the files of `read`, `new`, `duplicate` or `rejected`."""
        return sum(getattr(file, name) for file in self.files)

    @property
    def faults(self) -> list[str]:
        """Files that could not be read, or broke half-way, each with what was wrong."""
        return self.unreadable + [file.fault for file in self.files if file.fault]

    def sentences(self) -> list[str]:
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
        lines += [f"NOT read: {fault}" for fault in self.faults]
        speed = f", {self.tokens / self.seconds:,.0f} tokens/s" if self.tokens else ""
        lines.append(
            f"featurized {self.total('new'):,} rows, {self.tokens:,} tokens "
            f"in {self.seconds:,.1f} s{speed}"
        )
        if self.limited:
            lines.append("stopped at --limit; what follows was not read")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON values."""
        return {
            "run": self.run,
            **{name: self.total(name) for name in ("read", "new", "duplicate", "rejected")},
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "limited": self.limited,
            "without_feature": dict(self.without_feature),
            "unreadable": self.unreadable,
            "files": [
                {**file.as_row(), "reasons": dict(file.reasons), "fault": file.fault}
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

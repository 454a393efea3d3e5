"""What a deduplication found: the account, the corpora, and the largest clusters."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...schemas.ids import ids_of
from ...schemas.notebook import html_table, html_text
from ...schemas.plain_text import PrintedResult, count_of, safe, text_table

if TYPE_CHECKING:
    from ..snapshot import Snapshot

CLUSTERS_SHOWN = 10
_FIRST_CHARACTERS = 60


@dataclass(frozen=True)
class Cluster:
    """Rows that are near-duplicates of each other.

    Attributes:
        id: of the row that is kept.
        rows: how many there are, the kept one among them.
        corpora: corpus -> rows, the largest first.
        begins: the first characters of the kept row's first turn that is no system turn.
    """

    id: str
    rows: int
    corpora: dict[str, int]
    begins: str


@dataclass(frozen=True)
class CorpusShare:
    """How much of a corpus repeats other rows.

    Attributes:
        corpus: its name.
        rows: of the corpus.
        not_kept: of these, how many another row stands for.
        elsewhere: of these, how many where the kept row is of another corpus.
    """

    corpus: str
    rows: int
    not_kept: int
    elsewhere: int


@dataclass(repr=False)
class Duplicates(PrintedResult):
    """Near-duplicates of a pool, as two of its columns say.

    Attributes:
        name: of the annotation that holds the columns.
        columns: the id of the kept row of each row's cluster, and whether the row is kept.
        compared: what made rows close, in words.
        keep, linkage: as for `Database.dedup`.
        pool_version: of the rows that were compared.
        rows: of the pool, all that were looked at.
        without: reason -> rows that could not be compared; they are kept.
        clusters: of two rows or more.
        not_kept: rows that another stands for.
        across: clusters with rows of several corpora.
        corpora: those with rows that are not kept.
        largest: clusters, the largest first.
        notes: further sentences for the user.
    """

    name: str
    columns: tuple[str, ...]
    compared: str
    keep: str
    linkage: str
    pool_version: int = 0
    rows: int = 0
    without: dict[str, int] = field(default_factory=dict)
    clusters: int = 0
    not_kept: int = 0
    across: int = 0
    corpora: list[CorpusShare] = field(default_factory=list)
    largest: list[Cluster] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    tokens: int = 0
    seconds: float = 0.0

    def describe(
        self,
        snapshot: Snapshot,
        kept_row: np.ndarray,
        keys: np.ndarray,
        corpora: pa.DictionaryArray,
    ) -> None:
        """Complete the account.

        Args:
            snapshot: whose pool has the rows.
            kept_row: the kept row of each row's cluster, (n,) int64; -1 where not compared.
            keys: of the rows, (n, 2) int64.
            corpora: of the rows.
        """
        members = np.flatnonzero(kept_row >= 0)
        centres, sizes = np.unique(kept_row[members], return_counts=True)
        several = sizes > 1
        centres, sizes = centres[several], sizes[several]
        self.clusters, self.not_kept = len(centres), int((sizes - 1).sum())
        names: list[str] = corpora.dictionary.to_pylist()  # pyright: ignore[reportAssignmentType]
        codes = corpora.indices.to_numpy()
        dropped = members[kept_row[members] != members]
        away = dropped[codes[kept_row[dropped]] != codes[dropped]]
        self.across = len(np.unique(kept_row[away]))
        counts = [np.bincount(codes[part], minlength=len(names)) for part in (dropped, away)]
        totals = np.bincount(codes, minlength=len(names))
        self.corpora = [
            CorpusShare(name, int(rows), int(not_kept), int(elsewhere))
            for name, rows, not_kept, elsewhere in sorted(zip(names, totals, *counts, strict=True))
            if not_kept
        ]
        first = np.lexsort((centres, -sizes))[:CLUSTERS_SHOWN]
        ids = ids_of(keys[centres[first]])
        texts = snapshot.take(ids, ["messages"])["messages"].to_pylist() if ids else []
        self.largest = [
            Cluster(
                id,
                int(sizes[at]),
                _counted(names, codes[kept_row == centres[at]]),
                first_words(messages),
            )
            for at, id, messages in zip(first, ids, texts, strict=True)
        ]

    def lines(self) -> list[str]:
        """The account, in words."""
        found = (
            f"{count_of(self.clusters, 'cluster')} of near-duplicates; "
            f"{self.not_kept:,} of {count_of(self.rows, 'row')} are not kept"
        )
        lines = [f"{self.name}: {found if self.clusters else 'no near-duplicates'}"]
        lines.append(f"  compared by {self.compared}; linkage {self.linkage}; kept: {self.keep}")
        if self.across:
            held = "holds" if self.across == 1 else "hold"
            lines.append(f"  {count_of(self.across, 'cluster')} {held} rows of several corpora")
        lines += [
            f"  not compared, so kept, {why}: {count_of(rows, 'row')}"
            for why, rows in self.without.items()
        ]
        return [*lines, *self.notes]

    def tables(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Return the corpora and the largest clusters, each with a title."""
        shares = [
            {
                "corpus": share.corpus,
                "rows": share.rows,
                "not kept": share.not_kept,
                "kept in another corpus": share.elsewhere,
            }
            for share in self.corpora
        ]
        clusters = [
            {
                "rows": cluster.rows,
                "corpora": ", ".join(f"{name} {rows:,}" for name, rows in cluster.corpora.items()),
                "kept row": cluster.id[:8],
                "begins": cluster.begins,
            }
            for cluster in self.largest
        ]
        title = "The largest clusters" if self.clusters > len(clusters) else "The clusters"
        return [each for each in (("", shares), (title, clusters)) if each[1]]

    def __repr__(self) -> str:
        lines = self.lines()
        for title, rows in self.tables():
            lines += ["", *([title] if title else []), text_table(rows)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        tables = (html_table(rows, title) for title, rows in self.tables())
        return html_text("\n".join(self.lines())) + "".join(tables)

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON values."""
        left_out = ("tokens", "seconds")
        values = {key: value for key, value in asdict(self).items() if key not in left_out}
        return {**values, "columns": list(self.columns), "seconds": round(self.seconds, 3)}


def _counted(names: Sequence[str], codes: np.ndarray) -> dict[str, int]:
    return {names[int(code)]: count for code, count in Counter(codes.tolist()).most_common()}


def first_words(messages: Sequence[Any]) -> str:
    """The first characters of a conversation, system turns apart, on one line."""
    texts = (turn["content"] for turn in messages if turn["role"] != "system" and turn["content"])
    text = safe(" ".join(next(texts, "").split()))
    return text if len(text) <= _FIRST_CHARACTERS else f"{text[: _FIRST_CHARACTERS - 3]}..."

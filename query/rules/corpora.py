"""Shares of corpora: how much of a coreset must, or may at most, come from each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...schemas.among import among
from ...schemas.budget import Budget, parse_budget
from ...schemas.errors import UsageError
from ...selectors.keys import keys_of
from ..names import quoted

if TYPE_CHECKING:
    import lance


@dataclass(frozen=True)
class Share:
    """`amount` (rows, or per cent of the budget) of a corpus; of every corpus where it is None."""

    corpus: str | None
    amount: Budget

    def rows(self, k: int | None) -> int:
        """How many rows of a coreset of `k` that is, rounded down.

        Raises:
            UsageError: per cent of a budget that is not in rows, or less than one row.
        """
        if self.amount.unit == "rows":
            return int(self.amount.amount)
        if k is None:
            raise UsageError(f"{self}: a share of the budget needs a budget in rows or per cent")
        rows = int(k * self.amount.amount / 100)
        if not rows:
            raise UsageError(f"{self}: of {k:,} rows that is less than one")
        return rows

    def __str__(self) -> str:
        return f"{self.corpus}={self.amount}" if self.corpus is not None else str(self.amount)


def shares(
    rule: str, written: str | int | Sequence[str] | Mapping[str, str | int], every: bool = False
) -> tuple[Share, ...]:
    """Shares as a person writes them: `dolly=100`, `dolly=10%`, a list of these, or a dict.

    Args:
        rule: its name, for errors.
        written: see above.
        every: whether an amount alone may stand for every corpus.

    Raises:
        UsageError: another form, or a corpus named twice.
    """
    if isinstance(written, Mapping):
        pairs = [(corpus, str(amount)) for corpus, amount in written.items()]
    else:
        texts = [str(written)] if isinstance(written, str | int) else written
        pairs = [_pair(rule, text, every) for text in texts]
    found: dict[str | None, Share] = {}
    for corpus, text in pairs:
        forms = "rows (100) or per cent of the budget (10%)"
        amount = parse_budget(text, rule, forms)
        if amount.unit == "tokens":
            raise UsageError(f"{rule} {text!r}: write {forms}")
        if corpus in found:
            raise UsageError(f"{rule}: {corpus or 'every corpus'} is given twice")
        found[corpus] = Share(corpus, amount)
    return tuple(found.values())


def _pair(rule: str, text: str, every: bool) -> tuple[str | None, str]:
    corpus, equals, amount = text.rpartition("=")  # a corpus may have "=" in its name
    if not equals and not every:
        raise UsageError(f"{rule} {text!r}: write CORPUS=ROWS or CORPUS=PERCENT%")
    return (corpus if equals else None), amount


def corpora_of(dataset: lance.LanceDataset) -> dict[str, int]:
    """The corpora of a pool and how many rows each has."""
    counts = dataset.to_table(columns=["corpus"])["corpus"].value_counts().to_pylist()
    return {each["values"]: each["counts"] for each in counts}


def check_known(rule: str, asked: Sequence[Share], dataset: lance.LanceDataset) -> None:
    """Refuse corpora that the pool does not have.

    Raises:
        UsageError: names the corpora there are, or those most like it.
    """
    known = corpora_of(dataset) if asked else {}
    for share in asked:
        if share.corpus is not None and share.corpus not in known:
            there = among(share.corpus, known, "coresetdb status lists them")
            raise UsageError(
                f"{rule} {share}: the pool has no corpus of that name; corpora: {there}"
            )


def keys_in(dataset: lance.LanceDataset, corpora: Sequence[str]) -> np.ndarray:
    """Keys of all rows of these corpora, (n, 2) int64."""
    names = ", ".join(quoted(each) for each in corpora)
    return keys_of(dataset.to_table(columns=["id"], filter=f"corpus IN ({names})")["id"])

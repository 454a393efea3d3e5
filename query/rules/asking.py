"""The rules of a selection from what a person writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .asked import Rules
from .examples import read_evaluation

if TYPE_CHECKING:
    from ...store.store import Store


def rules_for(
    store: Store,
    *,
    leakage: str = "ranked",
    evaluation: str | Sequence[str] = (),
) -> Rules:
    """What shapes a selection beside its method; by default the leakage guard alone.

    Args:
        store: an open store.
        leakage: `ranked` (rows that come up), `full` (every eligible row) or `off`.
        evaluation: files of benchmarks whose examples are kept out as well.

    Raises:
        UsageError: values that cannot be, or that contradict each other.
        InputError: an evaluation file cannot be read.
    """
    files = [evaluation] if isinstance(evaluation, str) else evaluation
    return Rules(leakage=leakage, evaluations=tuple(read_evaluation(each) for each in files))

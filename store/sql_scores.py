"""The wide views of `scores`: `scores_<target>` has a row per instruction, two columns per method.

A method's columns are its score, under the method's own name, and `<method>_rank`. They hold what
`coresetdb score` found last: at the newest version of the pool that the method has scored for the
target. A row that a method did not score is NULL there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from .sql_names import SCORES_OF, literal, quoted
from .sql_relation import Relation


class Scoring(NamedTuple):
    """One run of `coresetdb score` for one target and one method."""

    pool_version: int
    target: str
    method: str
    fingerprint: str


def scorings(scores: Relation) -> list[Scoring]:
    """What has been scored, oldest first.

    Every scoring has a row of rank 1, so a pass over the ranks alone finds them all.
    """
    found = scores.scanner(list(Scoring._fields), "rank = 1", late_materialization=True).to_table()
    return sorted({Scoring(**row) for row in found.to_pylist()})


def scores_views(scored: Sequence[Scoring]) -> dict[str, str]:
    """The name of each target's view -> the SELECT that it stands for.

    Args:
        scored: oldest first. Of targets whose names differ in upper and lower case alone, which
            SQL cannot tell apart, the later ones get a number behind them (`scores_gsm8k_2`).
    """
    newest: dict[str, dict[str, Scoring]] = defaultdict(dict)
    for scoring in scored:
        newest[scoring.target][scoring.method] = scoring
    views: dict[str, str] = {}
    taken: set[str] = set()
    for target, methods in newest.items():
        name, number = SCORES_OF + target, 1
        while name.casefold() in taken:
            number += 1
            name = f"{SCORES_OF}{target}_{number}"
        taken.add(name.casefold())
        views[name] = _view(target, [methods[method] for method in sorted(methods)])
    return views


def _view(target: str, scorings: Sequence[Scoring]) -> str:
    columns = [
        f"max({column}) FILTER (method = {literal(each.method)}) AS {quoted(each.method + suffix)}"
        for each in scorings
        for column, suffix in (("score", ""), ("rank", "_rank"))
    ]
    wanted = " OR ".join(
        f"(method = {literal(each.method)} AND pool_version = {each.pool_version} "
        f"AND fingerprint = {literal(each.fingerprint)})"
        for each in scorings
    )
    return (
        f"SELECT id, {', '.join(columns)} FROM scores "
        f"WHERE target = {literal(target)} AND ({wanted}) GROUP BY id"
    )

"""The rows that every arm of a study is trained on.

All but the arms `full` and `worst` and the bins are coresets of the store, so that they can be
listed, replayed and exported, and a study that goes on trains on what it began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..query.coresets import load_coreset
from ..query.rules.rules import Rules
from ..query.selection import select
from ..schemas.canonical import digest
from ..schemas.conversations import conversation_columns, conversations_in
from ..schemas.errors import UsageError
from ..schemas.ids import IdSet, keys_of
from ..schemas.instruction import Instruction
from ..schemas.plain_text import count_of
from ..store.evaluation_results import ArmKey
from .study import FULL, ORACLE, RANDOM, SOURCE_BALANCED, WORST, Arm, Study

if TYPE_CHECKING:
    from ..store.store import Store

_TOKENS = ["id", "tokens"]
ARM_DIGITS = 6


@dataclass(frozen=True)
class ArmRows:
    """The rows of an arm, in no order, and the coreset that they are, if they are one."""

    ids: tuple[str, ...]
    coreset: str | None


class ArmChooser:
    """Chooses the rows of every arm of a study, each once.

    Args:
        store: with the pool and the target.
        study: whose arms they are.
        name: of the study, which the coresets are named after.
        rules: of every selection; the leakage guard knows the evaluation's examples.
        memory_limit: bytes that a selection may plan for.
    """

    def __init__(
        self, store: Store, study: Study, name: str, rules: Rules, memory_limit: int
    ) -> None:
        self._store, self._study, self._name = store, study, name
        self._rules, self._memory_limit = rules, memory_limit
        self._known = set(store.dataset("coresets").to_table(columns=["name"])["name"].to_pylist())
        self._ranking: list[str] | None = None
        self.notes: dict[str, None] = {}

    def rows_of(self, arm: Arm) -> ArmRows:
        """Return the rows of an arm that is trained.

        Raises:
            UsageError: an unknown method, or no row that can be chosen.
            MissingFeatureError, FingerprintError, QueryError: as for `select`.
        """
        key, study = arm.key, self._study
        if key.arm == FULL:
            return ArmRows(tuple(self._eligible_tokens()["id"].to_pylist()), None)
        if key.arm == WORST:
            return ArmRows(self._cut(list(reversed(self._ranked())), arm), None)
        if arm.bin is not None:
            return ArmRows(self._of_bin(arm), None)
        seed = key.seed or 0
        if arm.like is not None:
            like = self.rows_of(Arm(_sibling(arm), arm.rows))
            return self._chosen(arm, f"length_matched(like={like.coreset})", study.where, seed)
        if key.arm == ORACLE:
            return self._chosen(arm, "random", both(study.where, study.relevant), seed)
        if key.arm in (RANDOM, SOURCE_BALANCED):
            return self._chosen(arm, key.arm, study.where, seed)
        # One choice for all seeds: a method's own draws are not what is studied.
        return self._chosen(arm, key.arm, study.where, 0, shared=True)

    def _chosen(
        self, arm: Arm, method: str, where: str | None, seed: int, shared: bool = False
    ) -> ArmRows:
        """Choose by a method, or open the coreset of an earlier run."""
        parts = [self._name, f"arm-{digest(arm.key.arm)[:ARM_DIGITS]}", str(arm.rows)]
        name = ".".join(parts if shared else [*parts, f"seed{seed}"])
        if name in self._known:
            coreset = load_coreset(self._store, name)
        else:
            coreset = select(
                self._store,
                (self._study.target,),
                method=method,
                budget=self._budget(arm),
                where=where,
                seed=seed,
                name=name,
                rules=self._rules,
                memory_limit=self._memory_limit,
            )
            self._known.add(name)
            self.notes |= {f"{arm}: {note}": None for note in coreset.notes if "short by" in note}
        ids = tuple(coreset.left["id"].to_pylist())
        if not ids:
            raise UsageError(f"{arm}: no row of the pool can be chosen")
        return ArmRows(ids, name)

    def _budget(self, arm: Arm) -> str:
        assert arm.rows is not None, "arms that are chosen have a budget"
        if self._study.match == "rows":
            return str(arm.rows)
        return f"{self._tokens_of(arm.rows)}-total-tokens"

    def _tokens_of(self, rows: int) -> int:
        """Return the tokens of so many average rows."""
        tokens = self._eligible_tokens()["tokens"].drop_null().to_numpy()
        return max(1, round(float(tokens.mean()) * rows))

    def _eligible_tokens(self) -> pa.Table:
        rows = self._store.dataset("pool").to_table(columns=_TOKENS)
        if self._study.where is not None:
            from ..store.sql.session import eligible_ids

            version = self._store.version("pool")
            eligible = IdSet(keys_of(eligible_ids(self._store, self._study.where, version)))
            rows = rows.filter(pa.array(eligible.contains(keys_of(rows["id"]))))
        if not len(rows):
            raise UsageError("no row of the pool can be chosen")
        return rows

    def _ranked(self) -> list[str]:
        """Return all rows, the nearest to the target first, as the first method compares them."""
        if self._ranking is None:
            study = self._study
            method = study.methods[0].partition("(")[0].partition(":")[0]
            ranked = select(
                self._store,
                (study.target,),
                method=study.methods[0] if study.bins else method,
                budget="100%",
                where=study.where,
                rules=self._rules,
                memory_limit=self._memory_limit,
                dry_run=True,
            )
            self._ranking = ranked.ids
        return self._ranking

    def _cut(self, ids: Sequence[str], arm: Arm) -> tuple[str, ...]:
        """Return the first rows up to the budget."""
        assert arm.rows is not None, "arms that are cut have a budget"
        if self._study.match == "rows":
            return tuple(ids[: arm.rows])
        columns = (column.to_pylist() for column in self._eligible_tokens().columns)
        known = dict(zip(*columns, strict=True))
        spent = np.cumsum([known.get(each) or 0 for each in ids])
        return tuple(ids[: max(1, int(np.searchsorted(spent, self._tokens_of(arm.rows), "right")))])

    def _of_bin(self, arm: Arm) -> tuple[str, ...]:
        assert arm.bin is not None and arm.rows is not None, "bins have a place and a budget"
        ranked, bins = self._ranked(), self._study.bins
        start, end = (len(ranked) * place // bins for place in (arm.bin, arm.bin + 1))
        own = ranked[start:end]
        if self._study.match == "rows" and len(own) < arm.rows:
            raise UsageError(
                f"{count_of(len(ranked), 'row')} in {bins} bins are {len(own):,} a bin, fewer than "
                f"the budget of {arm.rows:,}. Give a smaller budget, or fewer bins"
            )
        drawn = np.random.default_rng([arm.key.seed or 0, arm.bin]).permutation(len(own))
        return self._cut([own[place] for place in drawn.tolist()], arm)


def _sibling(arm: Arm) -> ArmKey:
    """Return the key of the method's arm whose answers a control is as long as."""
    assert arm.like is not None, "only controls of a method have one"
    return ArmKey(arm.like, arm.key.budget, arm.key.seed)


def both(first: str | None, second: str | None) -> str | None:
    """Return an SQL condition that holds where both do."""
    given = [f"({each})" for each in (first, second) if each is not None]
    return " AND ".join(given) or None


def conversations_of(store: Store, ids: Sequence[str]) -> list[Instruction]:
    """Return the conversations of rows of the newest pool, in the order of their ids."""
    columns = conversation_columns(store.dataset("pool").schema)
    return conversations_in(store.take(ids, columns))

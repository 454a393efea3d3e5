"""The rules of a selection beside its method, as one value that a coreset records and recalls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...schemas.canonical import digest
from ...schemas.errors import UsageError
from ...schemas.ids import ids_of, keys_of
from ...store import catalog
from ..coresets import coreset_members
from .examples import Evaluation, keep_evaluation, kept_evaluation, read_evaluation
from .guard import VERSION as GUARD_VERSION
from .quotas import CORPUS, Share, shares

if TYPE_CHECKING:
    from ...ingest.readers.options import ReadOptions
    from ...store.store import Store

_EXCLUDED = "excluded"
_ID_BYTES = 16


@dataclass(frozen=True)
class Excluded:
    """The rows of an earlier coreset, which must not be chosen again: its name and its ids.

    Attributes:
        coreset: its name.
        packed: ids, 16 bytes each.
    """

    coreset: str
    packed: bytes

    @property
    def digest(self) -> str:
        """Digest of its rows, under which the store keeps them, with or without the coreset."""
        return digest(self.packed.hex())

    @property
    def keys(self) -> np.ndarray:
        """(n, 2) int64."""
        text = self.packed.hex()
        ids = [text[at : at + 32] for at in range(0, len(text), 32)]
        return keys_of(pa.array(ids, pa.string()))

    def __len__(self) -> int:
        return len(self.packed) // _ID_BYTES


def excluded(store: Store, coreset: str) -> Excluded:
    """Return the rows of a coreset.

    Raises:
        UsageError: there is none of that name; the message names those most like it.
    """
    ids = coreset_members(store, coreset)["id"]
    return Excluded(coreset, bytes.fromhex("".join(ids_of(keys_of(ids)))))


LEAKAGE = ("ranked", "full", "off")


@dataclass(frozen=True)
class Rules:
    """What shapes a selection beside its method.

    Attributes:
        leakage: "ranked" looks for leaks among the ranked rows, "full" in every eligible row
            before any is ranked, "off" allows them.
        evaluations: benchmarks whose examples are guarded like those of the targets.
        excluded: earlier coresets whose rows are not eligible.
        quotas: what must come from a corpus, each with a ranking of its own.
        caps: what may come from a corpus at most; one without corpus means every other one.
        quota_by: the column of the pool whose values quotas and caps are of.
        distinct: the cosine from which on a row is too close to an earlier pick.
        distinct_by: the feature whose vectors are compared; the method's own for None.
        guard: version of the leakage guard's rule.

    Raises:
        UsageError: rules that contradict each other.
    """

    leakage: str = "ranked"
    evaluations: tuple[Evaluation, ...] = ()
    excluded: tuple[Excluded, ...] = ()
    quotas: tuple[Share, ...] = ()
    caps: tuple[Share, ...] = ()
    quota_by: str = CORPUS
    distinct: float | None = None
    distinct_by: str | None = None
    guard: int = GUARD_VERSION

    def __post_init__(self) -> None:
        if self.leakage not in LEAKAGE:
            raise UsageError(f"leakage {self.leakage!r}: choose from {', '.join(LEAKAGE)}")
        if self.evaluations and self.leakage == "off":
            raise UsageError(
                "an evaluation file and allowed leakage contradict each other: leave out one of "
                "the two"
            )
        if self.distinct is not None and not 0 < self.distinct <= 1:
            raise UsageError(f"distinct {self.distinct:g}: a cosine above 0 and up to 1, like 0.95")
        if self.distinct_by is not None and self.distinct is None:
            raise UsageError(
                f"distinct-by {self.distinct_by} needs a threshold: add --distinct 0.95"
            )
        both = {quota.corpus for quota in self.quotas} & {cap.corpus for cap in self.caps}
        for corpus in both:
            raise UsageError(
                f"{self.quota_by} {corpus} has a quota and a cap: a quota is exact, keep one"
            )
        if self.quota_by != CORPUS and not (self.quotas or self.caps):
            raise UsageError(
                f"quota-by {self.quota_by} has no quota or cap to apply to: add --quota or --cap"
            )


NONE = Rules(leakage="off")
"""No rule at all."""


def rules_to_json(rules: Rules) -> dict[str, Any]:
    """Return the rules as JSON values, from which `rules_from_json` makes them again."""
    return {
        "leakage": rules.leakage,
        "evaluations": [
            {
                "name": evaluation.name,
                "examples": len(evaluation.instructions),
                "artifact": evaluation.digest,
                **({"remarks": list(evaluation.remarks)} if evaluation.remarks else {}),
            }
            for evaluation in rules.evaluations
        ],
        "exclude": [
            {"coreset": rows.coreset, "rows": len(rows), "artifact": rows.digest}
            for rows in rules.excluded
        ],
        "quota": [str(quota) for quota in rules.quotas],
        "cap": [str(cap) for cap in rules.caps],
        **({} if rules.quota_by == CORPUS else {"quota_by": rules.quota_by}),
        "distinct": rules.distinct,
        "distinct_by": rules.distinct_by,
    }


def keep(store: Store, rules: Rules) -> None:
    """Keep in the store what a replay needs beside the record: examples and excluded rows."""
    for evaluation in rules.evaluations:
        keep_evaluation(store, evaluation)
    for rows in rules.excluded:
        catalog.put_artifact(store, rows.digest, _EXCLUDED, rows.packed)


def rules_from_json(store: Store, parameters: Mapping[str, Any]) -> Rules:
    """Return the rules of a recorded coreset; those made before there were rules had none.

    Raises:
        UsageError: the store lost the examples or rows that they are about.
    """
    recorded = parameters.get("rules", {}).get("asked")
    if recorded is None:
        return NONE
    return Rules(
        leakage=recorded["leakage"],
        evaluations=tuple(
            replace(
                kept_evaluation(store, evaluation["name"], evaluation["artifact"]),
                remarks=tuple(evaluation.get("remarks", ())),
            )
            for evaluation in recorded["evaluations"]
        ),
        excluded=tuple(
            _kept_excluded(store, rows["coreset"], rows["artifact"]) for rows in recorded["exclude"]
        ),
        quotas=shares("quota", recorded["quota"]),
        caps=shares("cap", recorded["cap"], every=True),
        quota_by=recorded.get("quota_by", CORPUS),
        distinct=recorded["distinct"],
        distinct_by=recorded["distinct_by"],
        # The first version was not recorded.
        guard=parameters["rules"].get("leakage", {}).get("guard", 1),
    )


def _kept_excluded(store: Store, coreset: str, digest: str) -> Excluded:
    packed = catalog.artifact(store, digest, _EXCLUDED)
    if packed is None:
        raise UsageError(f"{store.uri} has lost the rows of coreset {coreset} ({digest})")
    return Excluded(coreset, packed)


def rules_for(
    store: Store,
    *,
    leakage: str = "ranked",
    evaluation: str | Sequence[str] = (),
    reading: ReadOptions | None = None,
    exclude: str | Sequence[str] = (),
    quota: str | Sequence[str] | Mapping[str, str | int] = (),
    cap: str | int | Sequence[str] | Mapping[str, str | int] = (),
    quota_by: str = CORPUS,
    distinct: float | None = None,
    distinct_by: str | None = None,
) -> Rules:
    """Read the rules of a selection; by default the leakage guard alone.

    The arguments are those of `Database.select`; `reading` says how evaluation files are read.

    Raises:
        UsageError: malformed values, values that contradict each other, or an unknown coreset.
        InputError: an evaluation file cannot be read.
    """
    return Rules(
        leakage=leakage,
        evaluations=tuple(read_evaluation(file, reading) for file in _all(evaluation)),
        excluded=tuple(excluded(store, coreset) for coreset in dict.fromkeys(_all(exclude))),
        quotas=shares("quota", quota),
        caps=shares("cap", cap, every=True),
        quota_by=quota_by,
        distinct=distinct,
        distinct_by=distinct_by,
    )


def _all(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names

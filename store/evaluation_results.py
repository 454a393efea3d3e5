"""The table `evaluations`: what was measured of every arm of a study, an example at a time.

An arm is a model trained on one choice of rows with one seed. All its measurements become visible
in one commit, so an arm is there whole or not at all, and a study that was killed goes on with the
arms that are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..schemas.tables import EVALUATIONS, literal
from .rows import keys_under

if TYPE_CHECKING:
    from .store import Store


@dataclass(frozen=True)
class ArmKey:
    """What an arm of a study is known by.

    Attributes:
        arm: a method, or the name of a control.
        budget: as it was asked for; None where there is none.
        seed: None for a model that was not trained.
    """

    arm: str
    budget: str | None
    seed: int | None


@dataclass(frozen=True)
class ArmResult:
    """What training an arm took, and what was measured of it.

    Attributes:
        coreset: the name of its rows, None where they are no coreset.
        training_rows, training_tokens: seen in training, every epoch counted.
        seconds: of training and measuring.
        values: metric -> item -> value.
    """

    key: ArmKey
    coreset: str | None
    training_rows: int
    training_tokens: int
    seconds: float
    values: Mapping[str, Mapping[str, float]]


def put_arm(
    store: Store, study: str, target: str, model: str, recipe: str, result: ArmResult
) -> None:
    """Write the measurements of an arm in one commit; those already there stay as they are.

    Raises:
        StoreError: the disk is full, or other writers were quicker every time.
    """
    if "evaluations" not in store.tables():  # nobody else has to wait once it is there
        with store.lock():
            store.make_missing("evaluations")
    key = result.key
    known = [study, key.arm, key.budget, key.seed]
    tables = []
    for metric, values in result.values.items():
        columns = {
            "key": keys_under([*known, metric], values),
            "metric": [metric] * len(values),
            "item": list(values),
            "value": np.fromiter(values.values(), np.float64, len(values)),
        }
        constant = {
            "study": study,
            "target": target,
            "arm": key.arm,
            "budget": key.budget,
            "seed": key.seed,
            "model": model,
            "coreset": result.coreset,
            "training_rows": result.training_rows,
            "training_tokens": result.training_tokens,
            "seconds": result.seconds,
            "recipe": recipe,
            "created_at": datetime.now(UTC),
        }
        columns |= {
            name: pa.repeat(pa.scalar(value, EVALUATIONS.field(name).type), len(values))
            for name, value in constant.items()
        }
        tables.append(
            pa.table({field.name: columns[field.name] for field in EVALUATIONS}, EVALUATIONS)
        )
    rows = pa.concat_tables(tables)
    store.change(
        "evaluations",
        "writing measurements",
        lambda dataset: dataset.merge_insert("key").when_not_matched_insert_all().execute(rows),
    )
    store.sync()


def measurements(
    store: Store, study: str | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return the measurements of one study or of all, in no order; none where there is no table."""
    if "evaluations" not in store.tables():
        return EVALUATIONS.empty_table()
    where = None if study is None else f"study = {literal(study)}"
    return store.dataset("evaluations").to_table(
        columns=list(columns) if columns else None, filter=where
    )


def arms_in(store: Store, study: str) -> set[ArmKey]:
    """Return the arms of a study that were measured."""
    rows = measurements(store, study, ["arm", "budget", "seed"])
    groups = rows.group_by(["arm", "budget", "seed"]).aggregate([])
    return {ArmKey(row["arm"], row["budget"], row["seed"]) for row in groups.to_pylist()}


def remove_study(store: Store, study: str) -> int:
    """Delete the measurements of a study; return how many there were."""
    if "evaluations" not in store.tables():
        return 0
    return store.delete("evaluations", f"study = {literal(study)}")

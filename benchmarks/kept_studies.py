"""Measurements of studies as files, so that a study goes on where another machine stopped.

A file holds what the table `evaluations` has of one study, but for what is of the machine: keys,
names of coresets, and the folder that the model lies in.
"""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from coresetdb.schemas.canonical import canonical_json
from coresetdb.schemas.tables import EVALUATIONS
from coresetdb.store.evaluation_results import ArmKey, ArmResult, arms_in, measurements, put_arm
from coresetdb.store.store import Store

COLUMNS = [name for name in EVALUATIONS.names if name not in ("key", "coreset")]
ORDER = ("created_at", "metric", "item")


def keep(store: Store, study: str, folder: Path) -> None:
    """Write what was measured of a study to its file, which may be there."""
    rows = measurements(store, study, COLUMNS).sort_by([(name, "ascending") for name in ORDER])
    name = public_name(rows["model"][0].as_py())
    recipes = [trained_from(name, text) for text in rows["recipe"].to_pylist()]
    for column, values in {"model": [name] * len(rows), "recipe": recipes}.items():
        rows = rows.set_column(rows.schema.names.index(column), column, pa.array(values))
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{study}.parquet"
    pq.write_table(rows, unfinished, compression="zstd")
    unfinished.replace(folder / f"{study}.parquet")  # a kill leaves the one that was there


def take_up(store: Store, study: str, folder: Path, model: str) -> int:
    """Put the arms of a study's file that a store lacks into it; return how many they were.

    Args:
        model: where the model that they were trained from is found here.
    """
    file = folder / f"{study}.parquet"
    if not file.exists():
        return 0
    known, taken = arms_in(store, study), 0
    for _, own in pl.read_parquet(file).group_by(["arm", "budget", "seed"], maintain_order=True):
        first = own.row(0, named=True)
        key = ArmKey(first["arm"], first["budget"], first["seed"])
        if key in known:
            continue
        values = {
            str(metric): dict(zip(of["item"], of["value"], strict=True))
            for (metric,), of in own.group_by("metric", maintain_order=True)
        }
        took = (first["training_rows"], first["training_tokens"], first["seconds"])
        recipe = trained_from(model, first["recipe"])
        put_arm(store, study, first["target"], model, recipe, ArmResult(key, None, *took, values))
        taken += 1
    return taken


def public_name(model: str) -> str:
    """Return a model's name, without where its folder lies on this machine."""
    return Path(model).name if Path(model).is_dir() else model


def trained_from(model: str, recipe: str) -> str:
    """Return a study's settings with the model of its recipe named so."""
    settings = json.loads(recipe)
    return canonical_json({**settings, "recipe": {**settings["recipe"], "model": model}})

"""What benchmarks/kept_studies.py keeps of a study is taken up elsewhere as it was."""

from __future__ import annotations

import importlib

import polars as pl
import pytest

from coresetdb.schemas.canonical import canonical_json
from coresetdb.store.evaluation_results import ArmKey, ArmResult, measurements, put_arm
from coresetdb.store.store import Store

SAME = ("study", "target", "arm", "budget", "seed", "metric", "item", "value", "seconds")


@pytest.fixture
def kept_studies(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module("kept_studies")


def recipe(model: str) -> str:
    return canonical_json({"seeds": 2, "recipe": {"model": model, "epochs": 2}})


def rows_of(store: Store) -> list[dict]:
    rows = measurements(store, "pair", [*SAME, "model", "recipe"]).to_pylist()
    return sorted(rows, key=lambda row: [str(row[name]) for name in SAME])


def test_a_study_goes_on_elsewhere(kept_studies, tmp_path):
    here, there = (Store.create(str(tmp_path / name), {}) for name in ("here", "there"))
    (tmp_path / "models" / "small").mkdir(parents=True)
    model = str(tmp_path / "models" / "small")
    arms = [ArmKey("zero-shot", None, None), ArmKey("random", "40", 0), ArmKey("rds", "40", 0)]
    for place, key in enumerate(arms):
        values = {"loss": {"a": place / 3, "b": 1.0}, "exact_match": {"a": 0.0, "b": 1.0}}
        result = ArmResult(key, f"coreset-{place}", 80 * place, 900, 1.5, values)
        put_arm(here, "pair", "sums", model, recipe(model), result)
        if place == 1:  # it is there already
            put_arm(there, "pair", "sums", "other/small", recipe("other/small"), result)
    kept_studies.keep(here, "pair", tmp_path / "kept")
    kept = pl.read_parquet(tmp_path / "kept" / "pair.parquet")
    assert set(kept["model"]) == {"small"} and set(kept["recipe"]) == {recipe("small")}
    assert "coreset" not in kept.columns
    taken = [
        kept_studies.take_up(there, name, tmp_path / "kept", "other/small")
        for name in ("pair", "pair", "none")
    ]
    assert taken == [2, 0, 0]
    assert rows_of(there) == [
        {**row, "model": "other/small", "recipe": recipe("other/small")} for row in rows_of(here)
    ]

"""A plan adds up, says what it measured, and leaves the store as it is."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from helpers import toy_fits
from helpers.files import write_jsonl
from helpers.toy_fits import Centre

import coresetdb
from coresetdb.ingest import planning as counting
from coresetdb.ingest.jobs.fitting import MemoryCache, jobs_for
from coresetdb.ingest.models.describe import BackboneConfig, describe
from coresetdb.ingest.representations import registry
from coresetdb.schemas.errors import UsageError


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    toy_fits.register(monkeypatch)
    yield
    registry.forget_installed()


@pytest.fixture
def create(tmp_path, tiny_llama):
    def make(features):
        place = str(tmp_path / "pool")
        return coresetdb.create(place, backbone=str(tiny_llama), dtype="float32", features=features)

    return make


def records(n, start=0):
    return [
        {"prompt": f"How many? {'x' * (i % 50)} {i}", "response": f"It is {i}."}
        for i in range(start, start + n)
    ]


def test_a_plan_of_what_is_settled(create, tmp_path):
    database = create("rds,losses")
    database.ingest(write_jsonl(tmp_path / "old.jsonl", records(10)))
    version = database.store.version()
    rejected = {"prompt": "?", "response": ""}
    plan = database.plan(write_jsonl(tmp_path / "a.jsonl", [*records(40), *records(5), rejected]))
    assert (plan.records, plan.rows, plan.read, plan.exact) == (46, 30, 46, True)
    assert plan.features == ["rds", "losses"] and plan.fits == [] and plan.notes == []
    columns = {column.column: column for column in plan.columns}
    assert (columns["rds"].bytes_per_row, columns["rds"].measured) == (64.0, False)
    assert (columns["nll"].bytes_per_row, columns["truncated"].bytes_per_row) == (4.0, 0.125)
    assert columns["messages"].measured and columns["messages"].bytes_per_row > 40
    assert set(columns) == set(database.store.dataset("pool").schema.names)
    assert [(each.what, each.features) for each in plan.passes] == [
        ("forward, whole rows", ["rds", "losses"]),
        ("forward, answers alone", ["losses"]),
        ("everything else: tokens, columns", []),
    ]
    assert plan.seconds == pytest.approx(sum(each.seconds for each in plan.passes))
    for model_pass in plan.passes:
        assert model_pass.seconds == pytest.approx(model_pass.seconds_per_1000_rows * 30 / 1000)
    assert plan.bytes_per_row == sum(each.bytes_per_row for each in plan.columns)
    assert plan.gigabytes == pytest.approx(plan.bytes_per_row * 30 / 1e9)
    assert json.loads(json.dumps(plan.as_dict()))["gigabytes"] == plan.gigabytes
    assert database.store.version() == version


def test_what_is_not_fitted_is_fitted_on_the_trial_alone(create, tmp_path):
    database = create("rds,spreading")
    file = write_jsonl(tmp_path / "a.jsonl", records(40))
    plan = database.plan(file)
    assert [(fit.fit, fit.rows, fit.artifacts) for fit in plan.fits] == [
        ("centre", 8, ["centre/1", "centre/2"]),
        ("spread", 2, ["spread"]),
    ]
    assert all(each.bytes > 0 for each in plan.fits)
    assert {"spreading", "spreading_reason"} <= {column.column for column in plan.columns}
    assert "fits were tried on" in plan.notes[0]
    assert database.store.dataset("artifacts").count_rows() == 0
    assert database.pending() == ["spreading"]
    database.fit(file)
    Centre.ran.clear()
    assert database.plan(file).fits == [] and Centre.ran == []


def test_the_time_of_a_fit_comes_from_rates_and_rows(tiny_llama):
    """10 ms a forward, training steps as in the trial; a shared pass counts once."""
    info, cache = describe(BackboneConfig(str(tiny_llama), dtype="float32")), MemoryCache()

    def planned(features, trial, total):
        tried = [
            (job, trial) for spec in registry.parse_specs(features) for job in jobs_for(info, spec)
        ]
        return {fit.fit: fit for fit in counting._planned(tried, 20, total, 0.01, cache)}

    fits = planned("nait:neuron=mlp,trim", 5.0, 8000)
    assert fits["nait-bases"].rows == 1024 and fits["nait-bases"].seconds == pytest.approx(10.24)
    assert fits["trim-basis"].rows == 2000
    assert fits["trim-basis"].seconds == pytest.approx((1.5 * 2000 - 1024 + 2 * 64) * 0.01)
    warmed = planned("trim:warmup=lora:epochs=2", 4.0, 8000)
    assert warmed["warm-up"].rows == 1280
    assert warmed["warm-up"].seconds == pytest.approx(4.0 * 1280 / 20)
    assert warmed["trim-basis"].seconds == pytest.approx((1.5 * 2000 + 2 * 64) * 0.01)
    assert planned("trim:rank=8", 5.0, 100)["trim-basis"].seconds == pytest.approx(1.3)


def test_other_features_can_be_planned(create, tmp_path):
    database = create("rds")
    file = write_jsonl(tmp_path / "a.jsonl", records(30))
    plan = database.plan(file, features="losses:alone=false,counted")
    assert plan.features == ["losses:alone=False", "counted"]
    assert plan.passes[0].what == "forward, whole rows"
    assert plan.passes[0].features == ["losses", "counted"]
    few = write_jsonl(tmp_path / "few.jsonl", records(2))
    plan = database.plan(few, features="rds,counted")
    assert plan.notes == [
        "counted is left out: centre needs 3 rows, not 2 (tried on 2 rows)",
    ]
    with pytest.raises(UsageError, match="unknown feature 'nonsense'"):
        database.plan(file, features="nonsense")


def test_large_files_are_told_from_a_part(create, tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "COUNTED_RECORDS", 1500)
    monkeypatch.setattr(counting, "LEAST_PER_FILE", 1500)
    database = create("rds")
    rows = [{**row, "pad": "p" * 800} for row in records(12_000)]
    plan = database.plan(write_jsonl(tmp_path / "a.jsonl", rows))
    assert not plan.exact and plan.read == 1500
    assert abs(plan.records - 12_000) < 2500 and plan.rows == plan.records


def test_nothing_new_is_said(create, tmp_path):
    database = create("rds")
    file = write_jsonl(tmp_path / "a.jsonl", records(5))
    database.ingest(file)
    with pytest.raises(UsageError, match="none of the 5 records read is new"):
        database.plan(file)


def test_the_bytes_are_those_that_are_stored(create, tmp_path):
    database = create("rds,losses")
    file = write_jsonl(tmp_path / "a.jsonl", records(300))
    plan = database.plan(file)
    database.ingest(file)
    table = database.store.dataset("pool").to_table()
    for column in plan.columns:
        if column.column in ("id", "corpus", "run") or pa.types.is_string(
            table[column.column].type
        ):
            continue
        real = table[column.column].nbytes / 300
        assert column.bytes_per_row == pytest.approx(real, rel=0.15, abs=0.5), column.column


def test_a_plan_tells_the_bytes_of_features_and_of_presets(create, tmp_path):
    database = create("rds,losses")
    file = write_jsonl(tmp_path / "a.jsonl", records(60))
    plan = database.plan(file)
    sizes = plan.bytes_of_features
    assert list(sizes) == ["rds", "losses"] and 68 <= sizes["rds"] < 73
    of_columns = (column.bytes_per_row for column in plan.columns if column.feature == "losses")
    assert sizes["losses"] == pytest.approx(sum(of_columns))
    assert list(plan.presets) == ["lean", "fast"] and plan.notes == []
    assert 2048 < plan.presets["lean"] < 8192 < plan.presets["fast"]
    text = str(plan)
    assert "all features" in text and "GB per million rows" in text
    assert f"Features of the preset lean would take {plan.presets['lean']:,.0f} bytes" in text
    assert json.loads(json.dumps(plan.as_dict()))["bytes_of_features"] == sizes
    planned = database.plan(file, features="lean")
    assert planned.presets["lean"] == pytest.approx(sum(planned.bytes_of_features.values()))
    made = coresetdb.create(
        str(tmp_path / "lean"),
        backbone=database.store.config["backbone"]["name"],
        dtype="float32",
        features="lean",
    )
    made.ingest(file)
    names = [row["feature"] for row in made.status().features]
    table = made.store.dataset("pool").to_table(columns=names)
    assert table.nbytes / 60 == pytest.approx(planned.presets["lean"], rel=0.15)
    (less,) = (row for row in made.status().sizes if row["of"] == "less")
    assert 2048 <= less["bytes per row"] < 2200


def test_a_preset_that_cannot_be_made_is_told(create, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.PRESETS, "lean", ("rds:stored=int8", "less:dims=6"))
    plan = create("rds").plan(write_jsonl(tmp_path / "a.jsonl", records(20)))
    assert list(plan.presets) == ["fast"]
    assert "dims 6" in plan.unsized["lean"]
    assert "What the preset lean takes is not known: less: dims 6" in str(plan)

"""Presets stand for their features wherever features are named."""

from __future__ import annotations

import pytest

import coresetdb
from coresetdb.ingest.create import resolve_features
from coresetdb.ingest.representations import registry as presets
from coresetdb.ingest.representations.registry import (
    PRESETS,
    expanded,
    get,
    parse_specs,
)
from coresetdb.schemas.errors import UsageError
from coresetdb.store import catalog


def test_a_preset_is_its_features():
    made = [get(entry.partition(":")[0]).name for entry in expanded("fast")]
    assert made == ["rds", "losses", "nait", "mads", "trim", "less"]
    assert [spec.representation for spec in parse_specs("lean")] == made
    assert set(PRESETS["paper"]) > {"gradfiltering", "embed", "less:warmup=lora"}
    assert expanded(" fast , embed") == [*PRESETS["fast"], "embed"]
    assert expanded("rds,losses") == ["rds", "losses"]


def test_what_stands_beside_a_preset_takes_its_place():
    assert expanded("fast,less:dims=512")[-1] == "less:dims=512"
    assert len(expanded("fast,less:dims=512")) == len(PRESETS["fast"])
    both = expanded("fast,less,less:dims=512")
    assert both[-2:] == ["less", "less:dims=512"]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "small", ("rds", "losses:alone=false"))


def test_a_store_keeps_what_a_preset_meant(small, tmp_path, tiny_llama):
    database = coresetdb.create(
        str(tmp_path / "pool"), backbone=str(tiny_llama), dtype="float32", features="small"
    )
    assert database.store.config["features"] == "rds,losses:alone=False"
    assert database.pending() == []
    assert "nll_alone" not in database.store.dataset("pool").schema.names


def test_what_is_written_is_read_again(small):
    wanted = parse_specs("small,losses,rds+")
    assert [str(each) for each in wanted] == ["rds", "losses"]
    for text in ("small", "rds,losses:alone=false"):
        wanted = parse_specs(text)
        assert parse_specs(",".join(map(str, wanted))) == wanted


def test_an_unknown_name_is_told_of_the_presets():
    with pytest.raises(UsageError, match="the presets fast, lean, paper"):
        parse_specs("fats")


def test_an_option_that_came_later_makes_no_feature_wait(monkeypatch, tmp_path, tiny_llama):
    database = coresetdb.create(
        str(tmp_path / "pool"), backbone=str(tiny_llama), dtype="float32", features="losses,rds"
    )
    losses = type(get("losses"))
    monkeypatch.setattr(losses, "defaults", {**losses.defaults, "later": 1})
    monkeypatch.setattr(losses, "version", 99)
    assert database.pending() == []
    assert not parse_specs("losses:alone=false")[0].matches(catalog.recipes(database.store)["nll"])


def test_a_minus_takes_a_feature_of_a_preset_away():
    assert expanded("paper,-embed") == [each for each in expanded("paper") if each != "embed"]
    with pytest.raises(UsageError, match="contains 'embed', so it cannot"):
        expanded("fast,-embed")


@pytest.mark.parametrize("feature", ["less:epochs=2", "trim:lora_rank=4"])
def test_an_option_of_a_warm_up_says_nothing_without_one(feature):
    with pytest.raises(UsageError, match=f"write {feature.replace(':', ':warmup=lora:', 1)}"):
        parse_specs(feature)
    assert parse_specs(feature.replace(":", ":warmup=lora:", 1))


@pytest.mark.parametrize("name", ["gradfiltering", "embed"])
def test_a_model_folder_is_kept_absolute_and_can_be_written(name, tmp_path, monkeypatch):
    (tmp_path / "small").mkdir()
    (tmp_path / "a,b").mkdir()
    monkeypatch.chdir(tmp_path)
    (asked,) = parse_specs(f"{name}:model=small")
    assert asked.options["model"] == str(tmp_path / "small")
    monkeypatch.chdir(tmp_path / "a,b")
    (tmp_path / "a,b" / "small").mkdir()
    with pytest.raises(UsageError, match="cannot hold a comma"):
        parse_specs(f"{name}:model=small")


def test_a_preset_is_content_with_what_is_stored_otherwise(monkeypatch, tmp_path, tiny_llama):
    monkeypatch.setitem(presets.PRESETS, "small", ("rds:stored=int8", "losses:alone=false"))
    database = coresetdb.create(
        str(tmp_path / "pool"), backbone=str(tiny_llama), dtype="float32", features="rds"
    )
    present, late = resolve_features(database.store, "small")
    assert present.options == {} and str(late) == "losses:alone=False"
    (asked,) = resolve_features(database.store, "rds:stored=int8")
    assert str(asked) == "rds:stored=int8"

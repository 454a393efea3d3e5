"""Presets stand for their features wherever features are named."""

from __future__ import annotations

from typing import ClassVar

import pytest

import coresetdb
from coresetdb.ingest.create import resolve_features
from coresetdb.ingest.representations import registry as presets
from coresetdb.ingest.representations.registry import (
    PRESETS,
    configured_specs,
    expanded,
    feature_spec,
    get,
    parse_specs,
)
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.recipe import Recipe
from coresetdb.store import catalog
from coresetdb.store.features import features_of
from coresetdb.store.store import Store


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


def test_a_configuration_keeps_the_defaults_of_its_day(tmp_path, tiny_llama):
    """Version 0.1 wrote `less` for sketches of 2,048 numbers, and its stores go on with them."""
    written = {"less": "less:dims=8192", "less:dims=2048": "less", "less:dims=64": "less:dims=64"}
    for text, configured in written.items():
        (spec,) = parse_specs(text)
        assert spec.configured == configured and configured_specs(configured) == [spec]
    assert configured_specs("") == []
    database = coresetdb.create(
        str(tmp_path / "pool"),
        backbone=str(tiny_llama),
        dtype="float32",
        features="less:dims=2048,trim,less:warmup=lora:dims=2048",
    )
    store = database.store
    assert store.config["features"] == "less,trim,less:warmup=lora"
    assert database.pending() == ["trim", "less:warmup=lora:dims=2048"]
    # By its name a store's feature is meant, in whatever size; others are new ones.
    recipe = features_of(store)["less"]
    assert resolve_features(store, "less") == resolve_features(store, "less:dims=2048") == [recipe]
    both = resolve_features(store, "less,less:dims=8192")
    assert both == [recipe, *parse_specs("less:dims=8192")]
    database.remove_feature("trim")
    assert Store.open(store.uri).config["features"] == "less,less:warmup=lora"


def test_a_feature_with_a_new_option_is_not_one_without():
    class Grown(type(get("rds"))):
        name = "grown"
        defaults: ClassVar = {"old": 1, "new": "plain"}

    older = Recipe("grown", 1, {"old": 1})
    with presets.added(Grown()):
        assert feature_spec("grown").matches(older)
        assert not feature_spec("grown", {"new": "fancy"}).matches(older)
        assert not feature_spec("grown", {"old": 2}).matches(older)


def test_an_ensemble_of_version_0_1_is_no_feature_to_be_made():
    """It had fewer options, and other defaults."""
    older = ("members=4", "gradient=adapter", "noise=normalised")
    (meant,) = configured_specs("gradfiltering:rank=1")
    (spelled,) = parse_specs(f"gradfiltering:rank=1:{':'.join(older)}")
    assert meant == spelled and spelled.configured == "gradfiltering:rank=1"
    options = {name: value for name, value in meant.options.items() if name != "gradient"}
    recipe = Recipe("gradfiltering", 2, options)
    assert meant.matches(recipe)
    for other in older:
        rest = [each for each in older if each != other]
        (spec,) = parse_specs(f"gradfiltering:rank=1:{':'.join(rest)}")
        assert not spec.matches(recipe)
    (today,) = parse_specs("gradfiltering")
    assert configured_specs(today.configured) == [today]
    assert not today.matches(recipe)


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

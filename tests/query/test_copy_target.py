"""Targets in another store, and targets scored by one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.files import write_jsonl
from helpers.tiny_models import tiny_folder
from helpers.toy_representations import toy_representations

from coresetdb.database import Database
from coresetdb.query.snapshot import Snapshot
from coresetdb.schemas.errors import FingerprintError, MissingFeatureError, UsageError

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("toy_representations")
_ = toy_representations

SUMS = [("what is one plus one?", "it is two"), ("two plus two?", "four"), ("nine?", "yes nine")]
TALES = [("tell of a tree", "a tree grows by the river"), ("tell of rain", "rain falls slowly")]
POOL = [(f"{word} number {n}?", f"the {word} is {n}") for n in range(9) for word in ("sum", "tree")]


def write_pairs(path, pairs):
    return write_jsonl(path, ({"prompt": prompt, "completion": text} for prompt, text in pairs))


def create(folder, features, pool=POOL, backbone="llama"):
    database = Database.create(
        str(folder), backbone=str(tiny_folder(backbone)), dtype="float32", features=features
    )
    database.ingest(write_pairs(folder.with_suffix(".jsonl"), pool))
    return database


@pytest.fixture
def home(tmp_path):
    """A store with two targets."""
    database = create(tmp_path / "home", "rds,words")
    database.add_target("sums", write_pairs(tmp_path / "sums.jsonl", SUMS))
    database.add_target("tales", write_pairs(tmp_path / "tales.jsonl", TALES))
    return database


def no_model(monkeypatch):
    def loaded(*args, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("coresetdb.ingest.models.backbone.Backbone.load", loaded)


def test_a_copy_asks_as_the_original_does(home, tmp_path, monkeypatch):
    away = create(tmp_path / "away", "words,length,rds", POOL[::-1])
    no_model(monkeypatch)
    copied = home.copy_target("sums", away.store.uri, "arithmetic")
    assert (copied.target.name, copied.target.examples) == ("arithmetic", 3)
    assert set(copied.features) == {"rds", "words"}
    assert copied.left_out == (
        f"length was not copied: make it with coresetdb featurize {away.store.uri} length",
    )
    for method in ("words", "words(scope=odd)", "rds", "rds:top(by=max)"):
        first = home.select("sums", method=method, budget=10)
        second = away.select("arithmetic", method=method, budget=10)
        assert first.ids == second.ids
        np.testing.assert_array_equal(first.table()["score"], second.table()["score"])
    rows = away.store.dataset("targets").to_table().sort_by("position").to_pylist()
    assert [row["messages"][0]["content"] for row in rows] == [prompt for prompt, _ in SUMS]
    assert {row["length"] for row in rows} == {None}
    assert away.replay(second.name).same


def test_features_under_other_names_find_their_columns(home, tmp_path, monkeypatch):
    """A second recipe has columns of its own there."""
    away = create(tmp_path / "away", "words:first=1,words")
    recipe = Snapshot(home.store).features["words"].recipe
    second = f"words__{recipe.fingerprint[:8]}"
    assert second in Snapshot(away.store).features
    no_model(monkeypatch)
    copied = home.copy_target("sums", away)
    assert copied.features == ("words",)
    assert (
        "words was not copied: it is made differently there (options.first: 0, not 1)"
        in copied.left_out
    )
    there = away.select("sums", method=second, budget=9)
    assert there.ids == home.select("sums", method="words", budget=9).ids
    with pytest.raises(MissingFeatureError, match="words was never made for target 'sums'"):
        away.select("sums", method="words", budget=9)


def test_refusals(home, tmp_path):
    alike = create(tmp_path / "alike", "words:first=1")
    with pytest.raises(FingerprintError, match=r"options.first: 0, not 1"):
        home.copy_target("sums", alike)
    other = create(tmp_path / "other", "rds,words:first=1", backbone="gpt2")
    with pytest.raises(FingerprintError, match="features are by different models") as refusal:
        home.copy_target("sums", other)
    said = str(refusal.value)
    assert "weights" not in said and f"coresetdb target add {other.store.typed} sums " in said
    assert other.list_targets() == alike.list_targets() == []
    with pytest.raises(UsageError, match="targets: sums, tales"):
        home.copy_target("poems", other)
    with pytest.raises(UsageError, match="--as"):
        home.copy_target("sums", home, "tales")
    with pytest.raises(UsageError, match="target name"):
        home.copy_target("sums", other, "a b")
    assert home.copy_target("sums", home, "again").features == ("rds", "words")


def test_transfer(home, monkeypatch):
    no_model(monkeypatch)
    table = home.store.dataset("targets").to_table(columns=["target", "words"]).to_pylist()
    words = {name: [r["words"] for r in table if r["target"] == name] for name in ("sums", "tales")}
    known = {name: {each for row in rows for each in row} for name, rows in words.items()}
    frame = home.transfer("sums", "tales", method="words")
    assert frame.columns == ["examples", "sums", "tales"]
    for row in frame.to_dicts():
        for scoring in ("sums", "tales"):
            if scoring == row["examples"]:
                assert row[scoring] is None
                continue
            shares = [
                np.mean([each in known[scoring] for each in ids]) for ids in words[row["examples"]]
            ]
            assert row[scoring] == pytest.approx(np.mean(shares), rel=1e-6)
    with pytest.raises(UsageError, match="two or more"):
        home.transfer("sums", "sums", method="words")
    with pytest.raises(UsageError, match="scores for a target"):
        home.transfer("sums", "tales", method="rds")
    with pytest.raises(UsageError, match="targets: sums"):
        home.transfer("sums", "poems", method="words")

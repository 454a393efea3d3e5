"""After `target add` no model runs: its folder is gone, and every method still selects."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from helpers.files import write_jsonl
from helpers.tiny_models import tiny_conversations, tiny_folder

from coresetdb.database import Database
from coresetdb.query.methods import method_names
from coresetdb.query.snapshot import Snapshot

torch.set_num_threads(1)

FEATURES = (
    "rds,losses,less:dims=64,trim,nait,mads,lexical,gradfiltering:members=4:rank=2:at_least=8"
)
METHODS = [
    *("random", "rds", "less", "trim", "nait", "mads", "gradfiltering"),
    *("lexical:bm25", "lexical:dsir", "losses(score=nll)"),
]
ENCODERS = find_spec("sentence_transformers") is not None
if ENCODERS:
    METHODS.append("embed")


def write_chats(path, instructions):
    return write_jsonl(
        path,
        ({"messages": [message.as_dict() for message in row.messages]} for row in instructions),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store with every feature that a tiny model gives, two targets, and no model any more."""
    place = tmp_path_factory.mktemp("no-model")
    model = shutil.copytree(tiny_folder(), place / "model")
    rows = tiny_conversations()
    features = f"{FEATURES}:model={model}"
    if ENCODERS:
        from helpers.tiny_encoders import tiny_encoder

        encoder = shutil.copytree(tiny_encoder(), place / "encoder")
        features += f",embed:model={encoder}"
    made = Database.create(
        str(place / "store"), backbone=str(model), dtype="float32", features=features
    )
    made.ingest(write_chats(place / "pool.jsonl", rows))
    assert made.pending() == []
    made.add_target("sums", write_chats(place / "sums.jsonl", rows[:5]))
    made.add_target("rest", write_chats(place / "rest.jsonl", rows[5:]))
    shutil.rmtree(model)
    if ENCODERS:
        shutil.rmtree(encoder)
    return place


@pytest.fixture
def database(folder, monkeypatch):
    def loaded(*args, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("coresetdb.ingest.models.backbone.Backbone.load", loaded)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", loaded)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", loaded)
    return Database.open(str(folder / "store"))


def test_every_method_selects_and_replays(database):
    features = {
        name: each.representation for name, each in Snapshot(database.store).features.items()
    }
    names = method_names(features)
    chosen_by = {method.partition(":")[0] for method in names if ":" in method}
    assert {*chosen_by, "random"} == {re.match(r"\w+", method)[0] for method in METHODS}
    for method in [*METHODS, *names]:
        coreset = database.select("sums", "rest", method=method, leakage="off", budget=6)
        assert len(coreset) + coreset.short_by == 6, method
        # An ifd of 1 and more is left out, and so is a row too close to one taken.
        assert len(coreset) == 6 or method.startswith("losses:") or "deita" in method, method
        assert database.replay(coreset.name).same, method


def test_tokens_add_up_to_the_score(database):
    for method in ("trim", "trim(scope=response,penalty=0.25)"):
        table = database.select("sums", method=method, leakage="off", budget=8).table()
        for row, score in zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True):
            tokens = database.token_scores("sums", row, method)
            counted = tokens.filter(tokens["counts"])["score"].to_numpy()
            assert (counted.mean() + counted.max()) / 2 == pytest.approx(score, abs=1e-5)
            same = (tokens["token"] == tokens["class"]).to_list()
            assert tokens["seen"].to_list() == same
            assert set(tokens["text"].to_list()) == {None}


def test_layers_add_up_to_the_score(database):
    paper = "nait(direction=pca,score=dot)"
    for method in ("nait", paper, "nait(activation=drift,direction=mean,score=cosine)"):
        table = database.select("sums", method=method, leakage="off", budget=8).table()
        for row, score in zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True):
            layers = database.layer_contributions("sums", row, method)
            assert layers["layer"].to_list() == [0, 1]
            assert layers["contribution"].sum() == pytest.approx(score, rel=1e-4, abs=1e-4)


def test_transfer_is_the_mean_score_along_the_other_direction(database):
    frame = database.transfer("sums", "rest")
    store = database.store
    ids = store.dataset("targets").to_table(columns=["target", "id"]).to_pylist()
    for scoring, scored in (("sums", "rest"), ("rest", "sums")):
        ranked = (
            database.select(scoring, method="nait", leakage="off", budget=1000).table().to_pylist()
        )
        scores = {row["id"]: row["score"] for row in ranked}
        own = [scores[row["id"]] for row in ids if row["target"] == scored and row["id"] in scores]
        (found,) = frame.filter(frame["examples"] == scored)[scoring].to_list()
        assert found == pytest.approx(np.mean(own), rel=1e-3)

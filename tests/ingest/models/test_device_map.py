"""A model that is spread over memory and disk: the features of the whole one, or a clear refusal.

Two accelerators cannot be tried here; on a CPU parts of the model go to disk, and hooks of
accelerate bring them in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.files import write_jsonl
from helpers.tiny_models import tiny_backbone, tiny_conversations, tiny_folder

import coresetdb
from coresetdb.ingest.capabilities import features_possible
from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.models import device_map
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.models.device_map import moved_parts
from coresetdb.ingest.representations.registry import parse_features, parse_specs
from coresetdb.schemas.errors import BackboneError, UsageError

FORWARD_ONLY = "rds,mads,nait,losses"

torch.set_num_threads(1)


def spread(monkeypatch, folder: Path, share: float) -> Backbone:
    """The model, with as much memory as a share of its weights, the rest on disk."""
    weights = (folder / "model.safetensors").stat().st_size
    monkeypatch.setattr(device_map, "room_of_devices", lambda: {"cpu": int(share * weights)})
    return Backbone.load(BackboneConfig(str(folder), "auto-map", "float32"))


@pytest.mark.parametrize(
    ("architecture", "share"), [("llama", 0.8), ("llama", 0.1), ("gpt2", 0.6), ("mixtral", 0.6)]
)
def test_features_are_those_of_the_whole_model(monkeypatch, architecture, share):
    whole = tiny_backbone(architecture)
    other = spread(monkeypatch, Path(whole.config.name), share)
    assert moved_parts(other.model) and not moved_parts(whole.model)
    assert other.info.identity == whole.info.identity  # so fingerprints are the same
    rows = tiny_conversations()
    tables = [
        Featurizer(backbone, parse_features(FORWARD_ONLY, backbone.info)).featurize(rows)
        for backbone in (whole, other)
    ]
    for name in tables[0].column_names:
        for one, two in zip(*(table[name].to_pylist() for table in tables), strict=True):
            if isinstance(one, list) and isinstance(one[0], float):
                np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
            elif isinstance(one, float):
                assert two == pytest.approx(one, rel=1e-4)
            else:
                assert two == one, name


def test_everything_forward_is_possible(monkeypatch):
    other = spread(monkeypatch, tiny_folder("llama"), 0.1)  # no weight stays, embeddings included
    assert features_possible(other, parse_specs(f"{FORWARD_ONLY},trim:rank=4")) == ()


@pytest.mark.parametrize(
    ("features", "why"),
    [
        ("less:dims=64", "gradients need weights that stay in place.*leave less"),
        ("losses:grad_norm=exact", "gradients need weights that stay.*leave losses"),
        ("trim:warmup=lora", "an adapter stands on one device"),
        ("less:warmup=lora:dims=64", "an adapter stands on one device|gradients need weights"),
    ],
)
def test_what_needs_weights_in_place_is_refused_at_init(monkeypatch, tmp_path, features, why):
    folder = tiny_folder("llama")
    spread(monkeypatch, folder, 0.6)
    with pytest.raises(BackboneError, match=why):
        coresetdb.create(
            tmp_path / "pool", backbone=folder, device="auto-map", features=f"rds,{features}"
        )
    assert not (tmp_path / "pool").exists()


def test_a_store_from_init_to_select(monkeypatch, tmp_path):
    folder = tiny_folder("llama")
    spread(monkeypatch, folder, 0.6)
    database = coresetdb.create(
        tmp_path / "pool", backbone=folder, device="auto-map", features="rds"
    )
    rows = [{"prompt": f"Name colour {i}.", "response": f"It is {i}."} for i in range(12)]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(UsageError, match="leave --workers"):
        database.ingest(file, workers=2)
    assert "room for no other" in str(database.plan(file))
    assert database.ingest(file).total("new") == 12
    database.add_target("colours", write_jsonl(tmp_path / "t.jsonl", rows[:2]))
    assert len(database.select("colours", budget=3, leakage="off")) == 3


def test_a_model_that_fits_is_not_spread():
    folder = tiny_folder("llama")
    one = Backbone.load(BackboneConfig(str(folder), "auto-map", "float32"))
    assert one.device == one.model.device and not moved_parts(one.model)
    assert features_possible(one, parse_specs("less:dims=64,trim:rank=4:warmup=lora")) == ()

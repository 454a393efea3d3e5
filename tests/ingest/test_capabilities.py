"""What a backbone cannot give is said at `init`, with the features to leave out."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.architectures import tiny_config_of
from helpers.tiny_models import TEMPLATE, save_tiny_model, tiny_backbone, tiny_folder
from torch import nn

import coresetdb
from coresetdb.ingest import capabilities
from coresetdb.ingest.capabilities import features_possible
from coresetdb.ingest.models.anatomy import decoder_layers
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.representations.registry import parse_specs
from coresetdb.schemas.errors import BackboneError, UsageError


@pytest.fixture(autouse=True)
def nothing_tried_yet():
    capabilities._tried.cache_clear()


@pytest.fixture(scope="module")
def mamba(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("mamba"), tiny_config_of("mamba"))


def test_the_features_to_leave_out_are_named(mamba, tmp_path):
    with pytest.raises(BackboneError) as error:
        coresetdb.create(tmp_path / "pool", backbone=mamba, features="fast", device="cpu")
    assert str(error.value) == (
        f"{mamba}: MambaForCausalLM cannot give every feature (mads: no feed-forward network is "
        "found; trim: 2 of the last 2 layers give no attention map). Give another backbone, or "
        "leave mads and trim out: --features fast,-mads,-trim"
    )
    with pytest.raises(BackboneError, match=r"leave mads out: --features rds,nait$"):
        coresetdb.create(tmp_path / "pool", backbone=mamba, features="rds,mads,nait", device="cpu")
    assert not (tmp_path / "pool").exists()


def test_what_is_left_works_and_what_gradients_leave_out_is_said(mamba, tmp_path):
    features = "rds,losses:grad_norm=sketch,nait,less"
    database = coresetdb.create(tmp_path / "pool", backbone=mamba, features=features, device="cpu")
    (notice,) = database.notices
    assert "the gradients leave out 4 weights" in notice and "conv1d" in notice


def test_fits_are_tried(mamba):
    backbone = Backbone.load(BackboneConfig(str(mamba), "cpu", "float32"))
    with pytest.raises(BackboneError, match=r"less:warmup=lora: .*no attention projections.*rds$"):
        features_possible(backbone, parse_specs("rds,less:warmup=lora"))


def test_warm_ups_and_ensembles_are_possible():
    features = "less:warmup=lora,trim:warmup=lora,gradfiltering:model={},nait:zscore=true,lexical"
    specs = parse_specs(features.format(tiny_folder()))
    before = [weight.clone() for weight in tiny_backbone().model.parameters()]
    assert features_possible(tiny_backbone(), specs) == ()
    after = list(tiny_backbone().model.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not any(weight.requires_grad for weight in after)


def test_a_gradient_that_is_not_autograds_is_found():
    class Doubled(nn.Linear):
        def forward(self, inputs):
            return 2 * super().forward(inputs)

    backbone = copy.copy(tiny_backbone())
    backbone.model = copy.deepcopy(backbone.model)
    projection = decoder_layers(backbone.model)[1].mlp.down_proj
    projection.__class__ = Doubled
    backbone = Backbone(
        backbone.config, backbone.info, backbone.model, backbone.encoder, backbone.padding_token
    )
    with pytest.raises(BackboneError, match=r"down_proj differs from that of autograd by"):
        features_possible(backbone, parse_specs("rds,less"))
    assert features_possible(backbone, parse_specs("rds,nait")) == ()


def test_a_template_that_refuses_the_rows_is_said(tmp_path):
    refusing = "{{ raise_exception('only in verse') }}" + TEMPLATE
    folder = save_tiny_model(tmp_path / "model", template=refusing)
    database = coresetdb.create(tmp_path / "pool", backbone=folder, device="cpu")
    assert (
        "only in verse" in database.notices[-1] and "no feature was tried" in database.notices[-1]
    )


def test_a_model_that_does_not_fit_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(capabilities, "_free_bytes", lambda device: 1000.0)
    monkeypatch.setattr(Backbone, "load", None)
    database = coresetdb.create(tmp_path / "pool", backbone=tiny_folder(), device="cpu")
    assert "rds, losses will show at the first ingestion" in database.notices[-1]


def test_the_proxy_is_not_loaded_and_a_model_once(tmp_path, monkeypatch):
    loaded = []
    load = Backbone.load
    monkeypatch.setattr(Backbone, "load", lambda config: loaded.append(config.name) or load(config))
    coresetdb.create(tmp_path / "a", features="fast")
    for name in "bc":
        coresetdb.create(tmp_path / name, backbone=tiny_folder(), device="cpu")
    with pytest.raises(UsageError, match="there is a store already"):
        coresetdb.create(tmp_path / "c", backbone=tiny_folder(), features="nait", device="cpu")
    assert loaded == [str(tiny_folder())]

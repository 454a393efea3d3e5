"""Adapters of the tiny models: random ones, the same in peft, and fits run without a store."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch

from coresetdb.ingest.fits.fit import Fitting, Sample
from coresetdb.ingest.models.anatomy import attention_projections
from coresetdb.store.catalog import Artifact

RANK, ALPHA = 4, 8


def random_adapter(backbone, seed: int = 0) -> Artifact:
    draw = np.random.default_rng(seed)
    arrays = {}
    for name in attention_projections(backbone.model):
        weight = backbone.model.get_submodule(name).weight
        inputs, outputs = weight.shape if backbone.info.model_type == "gpt2" else weight.shape[::-1]
        arrays[f"{name}.A"] = draw.normal(0, 0.2, (RANK, inputs)).astype(np.float32)
        arrays[f"{name}.B"] = draw.normal(0, 0.2, (outputs, RANK)).astype(np.float32)
    return Artifact(arrays, {"scaling": ALPHA / RANK})


def in_peft(backbone, adapter: Artifact):
    """A copy of the model under peft with the same adapter."""
    import peft

    names = [key.removesuffix(".A") for key in adapter.arrays if key.endswith(".A")]
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=names,
        fan_in_fan_out=backbone.info.model_type == "gpt2",
    )
    model = peft.get_peft_model(copy.deepcopy(backbone.model), config).eval()
    with torch.no_grad():
        for name in names:
            layer = model.base_model.model.get_submodule(name)
            layer.lora_A["default"].weight.copy_(torch.tensor(adapter.arrays[f"{name}.A"]))
            layer.lora_B["default"].weight.copy_(torch.tensor(adapter.arrays[f"{name}.B"]))
    return model


class KilledError(Exception):
    pass


def run(
    fit,
    backbone,
    rows,
    kept: Mapping[str, Artifact] | None = None,
    stop_after=None,
    say=lambda sentence: None,
):
    """Run a fit; return every artifact it kept and the progress it reported."""
    artifacts, progress = dict(kept or {}), []

    def keep(name: str, artifact: Artifact) -> Artifact:
        assert name not in artifacts, f"{name} was kept twice"
        artifacts[name] = artifact
        return artifact

    def report(fraction: float, sentence: str) -> None:
        progress.append((fraction, sentence))
        if stop_after is not None and stop_after in artifacts:
            raise KilledError

    sample = Sample([row.id for row in rows], rows, len(rows))
    try:
        fit.run(Fitting(backbone, sample, dict(kept or {}), keep, report, say))
    except KilledError:
        assert stop_after in artifacts
    return artifacts, progress


def same(one: Artifact, other: Artifact) -> bool:
    return one.facts == other.facts and all(
        np.array_equal(one.arrays[key], other.arrays[key])
        for key in one.arrays.keys() | other.arrays.keys()
    )

"""Gradients of one row at a time, from autograd's .grad of every weight: slow, obviously right."""

from __future__ import annotations

import copy
from functools import cache

import torch

from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from helpers.tiny_models import tiny_backbone, tiny_conversations

MIXTURES = ("mixtral", "qwen3_moe")
BUILTIN_ROWS = 2


@cache
def backbone_of(name: str) -> Backbone:
    if name == "builtin":
        return Backbone.load(BackboneConfig("builtin", "cpu", "float32"))
    return tiny_backbone(name)


def rows_of(backbone):
    rows = [backbone.encode(row) for row in tiny_conversations()]
    return rows[:BUILTIN_ROWS] if backbone.info.name == "builtin" else rows


def loss_of(model, row) -> torch.Tensor:
    """The mean of -log p over the response tokens of one row, from the model's own logits."""
    ids = torch.from_numpy(row.ids).long()
    logits = model(input_ids=ids[None], use_cache=False).logits[0].double()
    losses = [
        -torch.log_softmax(logits[place - 1], 0)[ids[place]]
        for place in range(1, len(ids))
        if row.response[place]
    ]
    return sum(losses) / len(losses)


@cache
def naive(name: str) -> list[dict[str, torch.Tensor]]:
    """Per row: parameter name -> .grad, (out, in) or (experts, out, in)."""
    backbone = backbone_of(name)
    model = copy.deepcopy(backbone.model)
    model.set_experts_implementation("eager") if name in MIXTURES else None
    model.requires_grad_(True)
    gradients = []
    for row in rows_of(backbone):
        model.zero_grad()
        loss_of(model, row).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.ndim > 1})
    return gradients

"""The loss of learned tokens, and that training with it is TRL's training."""

import numpy as np
import pytest
import torch

from coresetdb.evaluation import learned_loss
from coresetdb.evaluation.learned_loss import frozen_head_loss
from coresetdb.evaluation.training import TrainingRecipe, trained
from coresetdb.ingest.conversations.tokenization import Encoded
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig


@pytest.mark.parametrize("step", [1, 3, 100])
def test_loss_and_derivative_are_those_of_cross_entropy(step):
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(6, 11, bias=True).requires_grad_(False)
    targets = torch.randint(11, (7,), generator=generator)
    hidden = torch.randn(7, 6, generator=generator, requires_grad=True)
    again = hidden.detach().clone().requires_grad_(True)
    parts = [slice(at, at + step) for at in range(0, 7, step)]

    ours = frozen_head_loss(hidden, head, targets, parts)
    naive = torch.nn.functional.cross_entropy(head(again), targets, reduction="sum")
    (ours / 7).backward()
    (naive / 7).backward()

    torch.testing.assert_close(ours, naive)
    torch.testing.assert_close(hidden.grad, again.grad)


def test_a_batch_without_a_learned_token_has_no_loss():
    head = torch.nn.Linear(6, 11).requires_grad_(False)
    hidden = torch.zeros(0, 6, requires_grad=True)
    loss = frozen_head_loss(hidden, head, torch.zeros(0, dtype=torch.long), [])
    assert loss.item() == 0


@pytest.mark.parametrize("lora, batch_cost", [(4, 1000), (4, 0), (0, 0)])
def test_weights_after_training_are_those_of_trls_own_loss(
    tiny_llama, monkeypatch, lora, batch_cost
):
    pytest.importorskip("trl", reason="TRL is not installed")
    # Where a batch costs nothing, every row goes through the model without padding.
    monkeypatch.setattr(learned_loss, "batch_cost", lambda *_: batch_cost)
    backbone = Backbone.load(BackboneConfig(str(tiny_llama), dtype="float32"))
    generator = np.random.default_rng(0)
    rows = []
    for length in (5, 9, 14, 3):
        response = np.zeros(length, dtype=bool)
        response[length // 2 :] = True
        ids = generator.integers(20, size=length, dtype=np.int32)
        nothing = np.zeros(length, dtype=bool)
        rows.append(Encoded(ids, response, response, nothing, False, False, f"row-{length}"))
    recipe = TrainingRecipe(str(tiny_llama), "float32", "cpu", lora, 2, 1e-2, batch=2)

    def after_training():
        with trained(backbone, rows, recipe, seed=0) as tokens:
            assert tokens == 2 * 31
            return {
                name: tensor.clone()
                for name, tensor in backbone.model.state_dict().items()
                if "lora_" in name or not lora
            }

    ours = after_training()
    backbone.plain_head = False  # the trainer then takes the loss as TRL computes it
    trls = after_training()
    assert len(ours) > 2
    for name, tensor in trls.items():
        torch.testing.assert_close(ours[name], tensor, msg=name)

"""The proxy's training code: packed rows are scored as single rows, and a stopped run goes on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

# The training scripts are no part of the package and import each other as `python train.py` does.
sys.path.insert(0, str(Path(__file__).parents[2] / "proxies"))

from accelerator import Accelerator, pack  # pyright: ignore
from batches import Encoded, Piece, packs  # pyright: ignore
from export import transformers_model  # pyright: ignore
from model import Llama, Shape  # pyright: ignore
from train import Trainer, Watched, train  # pyright: ignore

SIZE = 64
VOCABULARY = 300


def rows_of(lengths: list[int], seed: int = 0) -> Encoded:
    ids = np.random.default_rng(seed).integers(7, VOCABULARY, sum(lengths)).astype(np.uint16)
    return Encoded(ids, np.array(lengths), np.array(lengths) * 3)


@pytest.fixture
def pieces() -> list[Piece]:
    return rows_of([9, 30, 2, 17, 41, 12, 5]).pieces()


def test_packs_hold_every_piece_once_and_are_never_too_full(pieces):
    groups = packs(pieces, 3, SIZE)
    assert sorted(id(p) for group in groups for p in group) == sorted(map(id, pieces))
    assert all(sum(piece.inputs for piece in group) <= SIZE for group in groups)
    assert packs(pieces, 4, SIZE) != groups == packs(pieces, 3, SIZE)


def test_packed_rows_have_the_loss_and_gradient_of_rows_alone(pieces, repository):
    torch.manual_seed(0)
    shape = Shape(vocabulary=6144, layers=2)
    ours = Llama(shape, torch.float32, compiled=False)
    theirs = transformers_model(
        shape, ours.transformers_state(), repository / "proxies" / "builtin"
    )
    loss = torch.zeros(())
    for piece in pieces:
        ids = torch.from_numpy(piece.tokens.astype(np.int64))
        logits = theirs(ids[None, :-1]).logits[0]
        loss = loss + F.cross_entropy(logits, ids[1:], reduction="sum")
    loss.backward()

    losses = Accelerator(ours, SIZE).losses(packs(pieces, 0, SIZE), 1.0)
    assert float(sum(losses)) == pytest.approx(loss.item(), rel=1e-4)
    expected = dict(theirs.named_parameters())
    for name, weight in ours.weights.items():
        reference = expected[f"{name.replace('/', '.')}.weight"].grad
        # The gradient of the logits is kept in bf16, so a hundredth is what can be asked.
        assert (weight.grad - reference).norm() < 1e-2 * reference.norm()


def test_what_a_pack_leaves_over_has_no_targets(pieces):
    laid = pack(pieces[:2], SIZE)
    assert (laid.targets[38:] == -1).all() and (laid.targets[:37] >= 0).all()
    assert laid.bounds.tolist() == [0, 8, 37, 64] and laid.positions[37] == 0


def options_of(work: Path, epochs: float) -> argparse.Namespace:
    return argparse.Namespace(
        work=work, device="cpu", threads=1, seed=0, vocab=VOCABULARY, layers=1, accumulate=1,
        matrix_lr=6e-3, other_lr=4e-3, weight_decay=0.1, clip=1.0, warmup=0.1, decay_from=0.3,
        minutes=None, tokens=None, epochs=epochs, log_every=1, watch_minutes=9, save_minutes=0,
    )  # fmt: skip


def run(options: argparse.Namespace, resume: bool = False) -> Trainer:
    trainer = Trainer(options)
    if resume:
        trainer.load(options.work / "checkpoint.pt")
    engine = Accelerator(trainer.model, SIZE)
    rows = rows_of([20, 30, 12, 40, 25, 33, 8, 15, 60])
    train(trainer, engine, rows.pieces(), {"held_out": Watched(rows_of([30], 1), engine)})
    return trainer


class Stopped(Exception):
    pass


def test_a_run_stopped_and_resumed_ends_as_one_that_was_not(tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    with torch.compiler.set_stance("force_eager"):
        whole = run(options_of(tmp_path / "whole", 4))
        save = Trainer.save

        def save_and_stop(trainer, path):
            save(trainer, path)
            if trainer.step == 7:
                raise Stopped

        monkeypatch.setattr(Trainer, "save", save_and_stop)
        with pytest.raises(Stopped):
            run(options_of(tmp_path / "parts", 4))
        monkeypatch.undo()
        parts = run(options_of(tmp_path / "parts", 4), resume=True)
    assert 7 < parts.step == whole.step and parts.tokens == whole.tokens
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert [entry["loss"] for entry in parts.log] == [entry["loss"] for entry in whole.log]
    assert "held_out_bits_per_byte" in parts.log[-1]

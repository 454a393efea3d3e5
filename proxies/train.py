"""Train the proxy from nothing on CPU or one GPU: schedule, optimisers, checkpoints, log.

    python proxies/train.py --work DIR --epochs 16 --device cuda [--data PATH]
    python proxies/train.py --work DIR --minutes 95 [--threads 2]
    python proxies/train.py --work DIR --minutes 95 --resume     # goes on after a stop

The end is given as `--minutes` of training, `--tokens` or `--epochs`; with several, whichever
comes first. The learning rate follows the fraction done, so a run slowed down by other work still
ends with its full decay. DIR gets `tokenizer/` and `tokens.npz` (both are read where they exist),
`checkpoint.pt` (every few minutes) and `log.jsonl`; `export.py` turns a checkpoint into a model
folder.
"""

import argparse
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerator import Accelerator
from batches import Encoded, Piece, training_and_held_out
from corpus import DATA
from gradient_processes import Workers
from model import Llama, Shape
from tokenizer import VOCABULARY

# Of the held-out rows and of the training rows, those whose bits per byte the log follows.
WATCHED_EVERY = {"held_out": 5, "training": 250}

Engine = Workers | Accelerator


def learning_rate_factor(progress: float, options: argparse.Namespace) -> float:
    """Warm-up, plateau, then a straight line to zero at progress 1."""
    if progress < options.warmup:
        return (progress + 1e-3) / (options.warmup + 1e-3)
    if progress < options.decay_from:
        return 1.0
    return max(0.0, (1 - progress) / (1 - options.decay_from))


class Watched:
    """Some rows whose bits per byte the log follows."""

    def __init__(self, rows: Encoded, engine: Engine) -> None:
        self.engine = engine
        self.groups = engine.groups(rows.pieces(), 0)
        self.bytes = int(rows.content_bytes.sum())

    def bits_per_byte(self) -> float:
        return float(sum(self.engine.losses(self.groups, 0.0))) / math.log(2) / self.bytes


class Trainer:
    """Model, optimisers, position in the data, time spent: all that a checkpoint holds."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        shape = Shape(vocabulary=options.vocab, layers=options.layers)
        on_gpu = options.device == "cuda"
        self.model = Llama(shape, one_size=on_gpu).to(options.device)
        matrices = self.model.matrix_parameters()
        inside = {id(parameter) for parameter in matrices}
        others = [p for p in self.model.parameters() if id(p) not in inside]
        muons = [
            torch.optim.Muon(
                matrices[part :: options.threads],
                lr=options.matrix_lr,
                weight_decay=options.weight_decay,
                momentum=0.95,
                adjust_lr_fn="match_rms_adamw",
            )
            for part in range(options.threads)
        ]
        adam = torch.optim.AdamW(
            others, lr=options.other_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self.optimizers = [(muon, options.matrix_lr) for muon in muons]
        self.optimizers += [(adam, options.other_lr)]
        # One thread per optimiser, for the reason that gradient_processes.py gives.
        self.pool = ThreadPoolExecutor(
            options.threads, initializer=torch.set_num_threads, initargs=(1,)
        )
        self.step = self.tokens = self.epoch = self.position = 0
        self.elapsed_s = 0.0
        self.log: list[dict[str, float]] = []

    def save(self, path: Path) -> None:
        state = {
            "shape": vars(self.model.shape),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
            "counters": {
                name: getattr(self, name)
                for name in ("step", "tokens", "epoch", "position", "elapsed_s", "log")
            },
            "recipe": {k: v for k, v in vars(self.options).items() if not isinstance(v, Path)},
            "random": torch.get_rng_state(),
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, map_location="cpu")
        self.model.load_state_dict(state["model"])
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name, value in state["counters"].items():
            setattr(self, name, value)
        torch.set_rng_state(state["random"])

    def progress(self, epoch_tokens: int) -> float:
        """The fraction done of the time, tokens or epochs allowed, whichever is most."""
        options = self.options
        done = [
            (self.elapsed_s / 60, options.minutes),
            (self.tokens, options.tokens),
            (self.tokens, options.epochs and options.epochs * epoch_tokens),
        ]
        return max(spent / allowed for spent, allowed in done if allowed)

    def update(self, groups: list[list[Piece]], factor: float, engine: Engine) -> Any:
        """One optimiser step on some groups; the mean loss in nats per token, number or tensor."""
        count = sum(piece.inputs for group in groups for piece in group)
        losses = engine.losses(groups, 1 / count)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        for optimizer, peak in self.optimizers:
            for settings in optimizer.param_groups:
                settings["lr"] = peak * factor
        list(self.pool.map(lambda pair: pair[0].step(), self.optimizers))
        self.step, self.tokens = self.step + 1, self.tokens + count
        return sum(losses) / count


def train(
    trainer: Trainer, engine: Engine, pieces: list[Piece], watched: dict[str, Watched]
) -> None:
    """Run to the end of the budget, logging, watching and saving on the way."""
    options, epoch_tokens = trainer.options, sum(piece.inputs for piece in pieces)
    print(f"epoch: {epoch_tokens} tokens, {len(pieces)} pieces", flush=True)
    groups: list[list[Piece]] = []
    grouped_epoch = -1
    # Compile before the clock starts; the factor is too small to leave a gradient worth a name.
    engine.losses(engine.groups(pieces, 0)[:40], 1e-30)
    start = time.monotonic() - trainer.elapsed_s
    saved_s = watched_s = trainer.elapsed_s
    losses: list[Any] = []
    while (progress := trainer.progress(epoch_tokens)) < 1:
        if trainer.epoch != grouped_epoch:
            grouped_epoch = trainer.epoch
            groups = engine.groups(pieces, options.seed + trainer.epoch)
        taken = groups[trainer.position : trainer.position + options.accumulate]
        factor = learning_rate_factor(progress, options)
        losses.append(trainer.update(taken, factor, engine))
        trainer.position += options.accumulate
        if trainer.position >= len(groups):
            trainer.epoch, trainer.position = trainer.epoch + 1, 0
        trainer.elapsed_s = time.monotonic() - start
        watch = trainer.elapsed_s - watched_s >= 60 * options.watch_minutes
        done = trainer.progress(epoch_tokens) >= 1
        if trainer.step % options.log_every == 0 or watch or done:
            entry = {
                "step": trainer.step,
                "tokens": trainer.tokens,
                "seconds": round(trainer.elapsed_s, 1),
                "lr": round(factor * options.matrix_lr, 6),
                "loss": round(float(sum(losses)) / len(losses), 4),
            }
            losses.clear()
            if watch or done:
                for name, rows in watched.items():
                    entry[f"{name}_bits_per_byte"] = round(rows.bits_per_byte(), 4)
                trainer.elapsed_s = watched_s = time.monotonic() - start
            trainer.log.append(entry)
            print(json.dumps(entry), flush=True)
        if trainer.elapsed_s - saved_s >= 60 * options.save_minutes or done:
            trainer.save(options.work / "checkpoint.pt")
            lines = "".join(json.dumps(entry) + "\n" for entry in trainer.log)
            (options.work / "log.jsonl").write_text(lines)
            trainer.elapsed_s = saved_s = time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the proxy")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--tokens", type=float)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="worker processes on CPU")
    parser.add_argument("--pack-tokens", type=int, default=32768, help="of a group on a GPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocab", type=int, default=VOCABULARY)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--accumulate", type=int, help="groups per step: 4 on CPU, 1 on a GPU")
    parser.add_argument("--matrix-lr", type=float, default=6e-3, help="Muon, RMS-matched")
    parser.add_argument("--other-lr", type=float, default=4e-3, help="AdamW: embedding, norms")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--warmup", type=float, default=0.01, help="fraction of the budget")
    parser.add_argument("--decay-from", type=float, default=0.3, help="fraction of the budget")
    parser.add_argument("--log-every", type=int, default=25, help="steps")
    parser.add_argument("--watch-minutes", type=float, default=4)
    parser.add_argument("--save-minutes", type=float, default=4)
    options = parser.parse_args()
    if not (options.minutes or options.tokens or options.epochs):
        parser.error("say when to stop: --minutes, --tokens or --epochs")
    if options.device == "cuda":
        options.threads = 1
    options.accumulate = options.accumulate or (1 if options.device == "cuda" else 4)
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)

    training, held_out = training_and_held_out(options.data, options.work, options.vocab)
    trainer = Trainer(options)
    if options.resume:
        trainer.load(options.work / "checkpoint.pt")
    if options.device == "cuda":
        engine: Engine = Accelerator(trainer.model, options.pack_tokens)
    else:
        engine = Workers(trainer.model, options.threads)
    splits = {"held_out": held_out, "training": training}
    watched = {
        name: Watched(rows.every(WATCHED_EVERY[name]), engine) for name, rows in splits.items()
    }
    train(trainer, engine, training.pieces(), watched)
    engine.close()


if __name__ == "__main__":
    main()

"""Train the proxy from nothing on one CPU: tokenizer, batches, schedule, checkpoints, log.

    python proxies/train.py --work DIR --minutes 95 [--data PATH] [--threads 2]
    python proxies/train.py --work DIR --minutes 95 --resume     # goes on after a stop

The end is given as `--minutes` of training, `--tokens` or `--epochs`; with several, whichever
comes first. The learning rate follows the fraction done, so a run slowed down by other work still
ends with its full decay. DIR gets `tokenizer/`, `checkpoint.pt` (every few minutes) and
`log.jsonl`; `export.py` turns a checkpoint into a model folder.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from corpus import DATA, Row, read_rows
from model import Llama, Shape
from tokenizer import (
    CONTEXT_TOKENS,
    VOCABULARY,
    encode_conversations,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from tokenizers import Tokenizer
from workers import Task, Workers

MICRO_BATCH_TOKENS = 2048  # padding counted in
ROUNDED_TO_TOKENS = 64  # few sizes of micro-batches: their kernels are prepared once each
WATCHED_EVERY = 5  # of the held-out rows, those whose bits per byte the log follows
LENGTH_JITTER = 0.04  # of a row's length: makes the batches of two epochs differ


@dataclass(frozen=True)
class Piece:
    """At most `CONTEXT_TOKENS` + 1 tokens of one row: all but the last are inputs."""

    tokens: np.ndarray

    @property
    def inputs(self) -> int:
        return len(self.tokens) - 1


def cut(tokens: list[int]) -> Iterator[Piece]:
    """Windows of a row, each starting at the token that the one before predicted last."""
    for start in range(0, len(tokens) - 1, CONTEXT_TOKENS):
        yield Piece(np.array(tokens[start : start + CONTEXT_TOKENS + 1], dtype=np.int64))


def micro_batches(pieces: list[Piece], seed: int) -> list[list[Piece]]:
    """All pieces once, in random groups of near-equal length whose padded size fits."""
    rng = random.Random(seed)
    jittered = sorted(pieces, key=lambda piece: piece.inputs * rng.uniform(1, 1 + LENGTH_JITTER))
    groups: list[list[Piece]] = []
    group: list[Piece] = []
    longest = 0
    for piece in jittered:
        longest = max(longest, piece.inputs)
        if group and longest * (len(group) + 1) > MICRO_BATCH_TOKENS:
            groups.append(group)
            group, longest = [], piece.inputs
        group.append(piece)
    groups.append(group)
    rng.shuffle(groups)
    return groups


def padded(group: list[Piece], factor: float) -> Task:
    """A task for the workers: targets of padding are -1, and so are those that fill up the end."""
    rows, length = len(group), max(piece.inputs for piece in group)
    flat = math.ceil(rows * length / ROUNDED_TO_TOKENS) * ROUNDED_TO_TOKENS
    tokens = np.zeros(flat, dtype=np.int64)
    targets = np.full(flat, -1, dtype=np.int64)
    for row, piece in enumerate(group):
        at = slice(row * length, row * length + piece.inputs)
        tokens[at], targets[at] = piece.tokens[:-1], piece.tokens[1:]
    return tokens, targets, rows, length, factor


def learning_rate_factor(progress: float, options: argparse.Namespace) -> float:
    """Warm-up, plateau, then a straight line to zero at progress 1."""
    if progress < options.warmup:
        return (progress + 1e-3) / (options.warmup + 1e-3)
    if progress < options.decay_from:
        return 1.0
    return max(0.0, (1 - progress) / (1 - options.decay_from))


class Watched:
    """Some held-out rows whose bits per byte the log follows."""

    def __init__(self, rows: list[Row], tokenizer: Tokenizer) -> None:
        encoded = encode_conversations(tokenizer, [row.messages for row in rows])
        pieces = [piece for tokens in encoded for piece in cut(tokens)]
        self.tasks = [padded(group, 0.0) for group in micro_batches(pieces, 0)]
        self.bytes = sum(row.content_bytes for row in rows)

    def bits_per_byte(self, workers: Workers) -> float:
        return sum(workers.losses_of(self.tasks)) / math.log(2) / self.bytes


class Trainer:
    """Model, optimisers, position in the data, time spent: all that a checkpoint holds."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.model = Llama(Shape(vocabulary=options.vocab, layers=options.layers))
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
        # One thread per optimiser, for the reason that workers.py gives.
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
        state = torch.load(path, weights_only=True)
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

    def update(self, groups: list[list[Piece]], factor: float, workers: Workers) -> float:
        """One optimiser step on some micro-batches; the mean loss in nats per token."""
        count = sum(piece.inputs for group in groups for piece in group)
        losses = workers.losses_of([padded(group, 1 / count) for group in groups])
        workers.collect_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        for optimizer, peak in self.optimizers:
            for settings in optimizer.param_groups:
                settings["lr"] = peak * factor
        list(self.pool.map(lambda pair: pair[0].step(), self.optimizers))
        self.step, self.tokens = self.step + 1, self.tokens + count
        return sum(losses) / count


def train(trainer: Trainer, workers: Workers, pieces: list[Piece], watched: Watched) -> None:
    """Run to the end of the budget, logging, watching and saving on the way."""
    options, epoch_tokens = trainer.options, sum(piece.inputs for piece in pieces)
    print(f"epoch: {epoch_tokens} tokens, {len(pieces)} pieces", flush=True)
    groups: list[list[Piece]] = []
    grouped_epoch = -1
    # Compile before the clock starts; the factor is too small to leave a gradient worth a name.
    warm = micro_batches(pieces, 0)[:40]
    workers.losses_of([padded(group, 1e-30) for group in warm])
    workers.collect_gradients()
    start = time.monotonic() - trainer.elapsed_s
    saved_s = watched_s = trainer.elapsed_s
    losses: list[float] = []
    while (progress := trainer.progress(epoch_tokens)) < 1:
        if trainer.epoch != grouped_epoch:
            grouped_epoch = trainer.epoch
            groups = micro_batches(pieces, options.seed + trainer.epoch)
        taken = groups[trainer.position : trainer.position + options.accumulate]
        factor = learning_rate_factor(progress, options)
        losses.append(trainer.update(taken, factor, workers))
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
                "loss": round(sum(losses) / len(losses), 4),
            }
            losses.clear()
            if watch or done:
                value = watched.bits_per_byte(workers)
                entry["held_out_bits_per_byte"] = round(value, 4)
                trainer.elapsed_s = watched_s = time.monotonic() - start
            trainer.log.append(entry)
            print(json.dumps(entry), flush=True)
        if trainer.elapsed_s - saved_s >= 60 * options.save_minutes or done:
            trainer.save(options.work / "checkpoint.pt")
            lines = "".join(json.dumps(entry) + "\n" for entry in trainer.log)
            (options.work / "log.jsonl").write_text(lines)
            trainer.elapsed_s = saved_s = time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the proxy on CPU")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--tokens", type=float)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--threads", type=int, default=2, help="worker processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocab", type=int, default=VOCABULARY)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--accumulate", type=int, default=4, help="micro-batches per step")
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
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)

    rows = list(read_rows(options.data))
    training = [row for row in rows if not row.held_out]
    watched_rows = [row for row in rows if row.held_out][::WATCHED_EVERY]
    folder = options.work / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        contents = (content for row in training for _, content in row.messages)
        save_tokenizer(train_tokenizer(contents, options.vocab), folder)
    tokenizer = load_tokenizer(folder)
    encoded = encode_conversations(tokenizer, [row.messages for row in training])
    pieces = [piece for tokens in encoded for piece in cut(tokens)]
    del encoded

    trainer = Trainer(options)
    if options.resume:
        trainer.load(options.work / "checkpoint.pt")
    workers = Workers(trainer.model, options.threads)
    train(trainer, workers, pieces, Watched(watched_rows, tokenizer))
    workers.close()


if __name__ == "__main__":
    main()

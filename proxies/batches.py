"""From rows to what a step sees: token ids kept in a file, pieces of them, groups of pieces.

Not a script; `train.py` and its two engines (`gradient_processes.py`, `accelerator.py`) use it.

On CPU a group holds rows of near-equal length and is padded; on a GPU it holds any rows, laid end
to end (`packs`), so that every step sees a fair mix of the data and all sizes are one size.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from corpus import Row, read_rows
from tokenizer import (
    CONTEXT_TOKENS,
    encode_conversations,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

MICRO_BATCH_TOKENS = 2048  # padding counted in
LENGTH_JITTER = 0.04  # of a row's length: makes the batches of two epochs differ


@dataclass(frozen=True)
class Piece:
    """At most `CONTEXT_TOKENS` + 1 tokens of one row: all but the last are inputs."""

    tokens: np.ndarray

    @property
    def inputs(self) -> int:
        return len(self.tokens) - 1


@dataclass(frozen=True)
class Encoded:
    """Rows end to end: ids (T,) uint16, tokens and UTF-8 bytes of content by row, both (N,)."""

    ids: np.ndarray
    lengths: np.ndarray
    content_bytes: np.ndarray

    def every(self, step: int) -> "Encoded":
        """Every `step`-th row."""
        kept = list(self.rows())[::step]
        return Encoded(np.concatenate(kept), self.lengths[::step], self.content_bytes[::step])

    def rows(self) -> Iterator[np.ndarray]:
        """The ids of each row, views into `ids`."""
        ends = np.cumsum(self.lengths)
        for end, length in zip(ends, self.lengths, strict=True):
            yield self.ids[end - length : end]

    def pieces(self) -> list[Piece]:
        """Windows of all rows, each starting at the token that the one before predicted last."""
        return [
            Piece(row[start : start + CONTEXT_TOKENS + 1])
            for row in self.rows()
            for start in range(0, len(row) - 1, CONTEXT_TOKENS)
        ]


def encode_split(rows: list[Row], tokenizer_folder: Path) -> Encoded:
    """Token ids of rows as the chat template renders them."""
    encoded = encode_conversations(load_tokenizer(tokenizer_folder), [row.messages for row in rows])
    return Encoded(
        np.concatenate([np.array(ids, dtype=np.uint16) for ids in encoded]),
        np.array([len(ids) for ids in encoded]),
        np.array([row.content_bytes for row in rows]),
    )


def training_and_held_out(data: Path, work: Path, vocabulary: int) -> tuple[Encoded, Encoded]:
    """Both splits as token ids; `work` keeps them, and the tokenizer, for the next start."""
    kept = work / "tokens.npz"
    if not kept.exists():
        rows = list(read_rows(data))
        training = [row for row in rows if not row.held_out]
        folder = work / "tokenizer"
        if not (folder / "tokenizer.json").exists():
            contents = (content for row in training for _, content in row.messages)
            save_tokenizer(train_tokenizer(contents, vocabulary), folder)
        splits = {"training": training, "held_out": [row for row in rows if row.held_out]}
        arrays = {
            f"{split}_{name}": array
            for split, members in splits.items()
            for name, array in vars(encode_split(members, folder)).items()
        }
        part = work / "tokens.part.npz"
        np.savez_compressed(part, allow_pickle=False, **arrays)
        part.replace(kept)
    with np.load(kept) as arrays:
        first, second = (
            Encoded(*(arrays[f"{split}_{name}"] for name in ("ids", "lengths", "content_bytes")))
            for split in ("training", "held_out")
        )
    return first, second


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


def packs(pieces: list[Piece], seed: int, size: int) -> list[list[Piece]]:
    """All pieces once, in random groups of at most `size` inputs, nearly full."""
    rng = random.Random(seed)
    groups: list[list[Piece]] = [[]]
    room = size
    for piece in rng.sample(pieces, len(pieces)):
        if piece.inputs > room:
            groups.append([])
            room = size
        groups[-1].append(piece)
        room -= piece.inputs
    return groups

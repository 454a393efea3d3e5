"""Batches: rows of tokens as padded tensors with masks.

Rows are sorted by length and cut where the padding and the number of batches cost least together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..conversations.tokenization import Encoded
from .anatomy import parameter_count, text_model
from .backbone import padded_width

if TYPE_CHECKING:
    from .backbone import Backbone

Side = Literal["right", "left"]
"""Where rows are padded."""

TOKENS_PER_BATCH_CPU = 1024

TOKENS_PER_BATCH_ACCELERATOR = 16384
"""Padded tokens of a forward. On a CPU they fit the caches: on two Zen 4 cores 8192 tokens are a
quarter slower, half of it padding; on a Zen 5 core 2048 are 5 to 10 % slower for SmolLM2-135M, and
as fast for the proxy."""

BATCH_TOKENS, CALL_TOKENS = 25, 100
"""What a batch costs on a CPU beside its padded tokens, as so many tokens: 25 for reading the
weights, and 100 over the millions of weights of a layer for the calls. For SmolLM2-135M that is 53;
measured on a Zen 5 core in bfloat16, 50 to 70 with gradients and 35 without."""


def tokens_per_batch(device: torch.device) -> int:
    """Return the padded tokens of a forward that suit a device."""
    return TOKENS_PER_BATCH_CPU if device.type == "cpu" else TOKENS_PER_BATCH_ACCELERATOR


@dataclass(frozen=True)
class Batch:
    """Rows as padded tensors on the backbone's device.

    Attributes:
        ids: (B, T) int64.
        mask: (B, T) bool, true at tokens and false at padding.
        response: (B, T) bool.
        positions: (B, T) int64, 1 .. T of each row's own tokens; 0 at padding before them.
    """

    rows: Sequence[Encoded]
    ids: torch.Tensor
    mask: torch.Tensor
    response: torch.Tensor
    positions: torch.Tensor

    def tokens(self, which: str) -> torch.Tensor:
        """Return (B, T) bool: the tokens that are `content`, `response` or `all`."""
        if which != "content":
            return self.response if which == "response" else self.mask
        content = torch.zeros_like(self.mask)
        flags = np.concatenate([row.content for row in self.rows])
        content[self.mask] = torch.from_numpy(flags).to(content.device)
        return content

    def predicted(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rows (n,) and positions (n,) of the tokens that predict response tokens.

        These are the tokens before them; padding predicts nothing.
        """
        before = self.response[:, 1:] & self.mask[:, :-1]
        rows, places = before.nonzero(as_tuple=True)
        return rows, places


def batches_of(
    backbone: Backbone, rows: Sequence[Encoded], tokens_per_batch: int, side: Side = "right"
) -> Iterator[tuple[list[int], Batch]]:
    """Yield batches of rows, longest first, each with the indices of its rows."""
    multiple = backbone.width_multiple
    lengths = [len(row) for row in rows]
    cost = batch_cost(backbone, tokens_per_batch)
    for members in plan_batches(lengths, tokens_per_batch, cost, multiple):
        chosen = [rows[i] for i in members]
        yield members, make_batch(chosen, backbone.padding_token, backbone.device, side, multiple)


def batch_cost(backbone: Backbone, tokens_per_batch: int) -> float:
    """Return how many padded tokens cost as much as one batch more.

    On an accelerator as many as a batch may have: one more has to save as much padding.
    """
    if backbone.device.type != "cpu":
        return tokens_per_batch
    model = backbone.model
    weights = parameter_count(text_model(model)) - parameter_count(model.get_input_embeddings())
    millions = max(weights, 1) / 1e6
    return BATCH_TOKENS + CALL_TOKENS * backbone.info.layers / millions


def plan_batches(
    lengths: Sequence[int], tokens_per_batch: int, cost: float, multiple: int = 1
) -> list[list[int]]:
    """Return batches of at most `tokens_per_batch` padded tokens as indices of rows.

    Of all ways to cut the rows, sorted by length, the one that costs least in padded tokens and
    number of batches. A row longer than the budget is a batch by itself. The longest rows come
    first, so that a lack of memory shows at once.

    Args:
        cost: of a batch beside its padded tokens, in tokens.
        multiple: of the widths the batches will be padded to (see `padded_width`).
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    widths = [padded_width(max(1, lengths[index]), multiple) for index in order]
    starts, ends = np.array(widths), np.arange(len(order) + 1)
    least = np.zeros(len(order) + 1)  # that the first so many rows cost
    begins = [0] * (len(order) + 1)  # where the last of their batches begins
    first = 0
    for end in range(1, len(order) + 1):
        while first < end - 1 and widths[first] * (end - first) > tokens_per_batch:
            first += 1
        costs = least[first:end] + starts[first:end] * (end - ends[first:end])
        begins[end] = first + int(costs.argmin())
        least[end] = costs.min() + cost
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[begins[end] : end])
        end = begins[end]
    return batches[::-1]


def make_batch(
    rows: Sequence[Encoded],
    padding_token: int,
    device: torch.device,
    side: Side = "right",
    multiple: int = 1,
) -> Batch:
    """Return rows as a batch, padded to the `padded_width` of the longest."""
    ids = torch.from_numpy(pad([row.ids for row in rows], padding_token, side, multiple))
    ones = [np.ones(len(row), dtype=bool) for row in rows]
    mask = torch.from_numpy(pad(ones, False, side, multiple))
    response = torch.from_numpy(pad([row.response for row in rows], False, side, multiple))
    mask = mask.to(device)
    return Batch(rows, ids.long().to(device), mask, response.to(device), mask.long().cumsum(1))


def pad(
    rows: Sequence[NDArray], value: int | bool, side: Side = "right", multiple: int = 1
) -> NDArray:
    """Return a (B, T) array of rows of unequal length, filled up with `value` on `side`.

    T is the `padded_width` of the longest.
    """
    width = padded_width(max(map(len, rows)), multiple)
    padded = np.full((len(rows), width), value, dtype=rows[0].dtype)
    for line, row in zip(padded, rows, strict=True):
        if side == "right":
            line[: len(row)] = row
        else:
            line[width - len(row) :] = row
    return padded

"""What is measured of a model on items: loss, answers written, and choices.

* `loss`: mean -log p of the answer's tokens, lower is better.
* `exact_match`: whether the model, writing greedily, gives an accepted answer.
* `choice`: whether of the choices the right one has the highest likelihood per token.
* `choice_likelihood`: the right one's share, softmax over the choices of log-likelihood per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ingest.conversations.tokenization import Encoded
from ..ingest.passes.reducer import Collector, PassInputs, Reducer
from ..ingest.representations.losses import ResponseLoss
from ..schemas.errors import UsageError
from ..schemas.plain_text import count_of
from .answers import is_right
from .items import Item, with_answer

if TYPE_CHECKING:
    from ..ingest.models.backbone import Backbone
    from ..ingest.models.batches import Batch

METRICS = ("loss", "exact_match", "choice", "choice_likelihood")
LOWER_IS_BETTER = ("loss",)

VERDICT_ORDER = ("choice", "exact_match", "choice_likelihood", "loss")
"""Of these the first that was measured is what a study is judged by; loss is reported, and never
the verdict where anything else was measured."""

ANSWER_TOKENS_MOST = 256
ANSWER_TOKENS_MORE = 1.5
"""A model may write so many times the tokens of the longest answer."""

TOKENS_PER_GENERATION = 4096
"""Prompt tokens of a batch that is written on from."""

Report = Callable[[float], None]


def is_lower_better(metric: str) -> bool:
    """Return whether smaller values of a metric are better."""
    return metric.rpartition(":")[2] in LOWER_IS_BETTER


def sorted_by_verdict(metrics: Sequence[str]) -> list[str]:
    """Return metrics with what a study is judged by first."""
    order = {name: place for place, name in enumerate(VERDICT_ORDER)}
    return sorted(metrics, key=lambda metric: (order.get(metric, -1), metric))


def metrics_for(items: Sequence[Item], wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what can be measured on items, or of that what is wanted.

    By default loss, choices where all items have them, otherwise answers written.

    Raises:
        UsageError: an unknown metric, or choices of which items have none.
    """
    with_choices = sum(bool(item.choices) for item in items)
    for name in wanted:
        if name not in METRICS:
            raise UsageError(f"metric {name!r}: choose from {', '.join(METRICS)}")
        if name.startswith("choice") and with_choices < len(items):
            raise UsageError(
                f"metric {name}: {count_of(len(items) - with_choices, 'example')} of "
                f"{len(items):,} list no choices that the answer is one of"
            )
    if wanted:
        return tuple(dict.fromkeys(wanted))
    return (
        ("loss", "choice", "choice_likelihood")
        if with_choices == len(items)
        else ("loss", "exact_match")
    )


def measure(
    backbone: Backbone,
    items: Sequence[Item],
    metrics: Sequence[str],
    report: Report = lambda done: None,
) -> dict[str, dict[str, float]]:
    """Measure a model as it is now.

    Args:
        report: is given the share that is done.

    Returns:
        metric -> item -> value.

    Raises:
        RowRefusedError: the chat template cannot render an item.
    """
    rows = [backbone.encode(item.instruction) for item in items]
    values: dict[str, np.ndarray] = {}
    by_likelihood = any(name != "exact_match" for name in metrics)
    parts = by_likelihood + ("exact_match" in metrics)
    if by_likelihood:
        values |= _by_likelihood(
            backbone, items, rows, metrics, lambda share: report(share / parts)
        )
    if "exact_match" in metrics:
        written = answers(backbone, rows, lambda share: report((by_likelihood + share) / parts))
        right = [is_right(text, item.accepted) for text, item in zip(written, items, strict=True)]
        values["exact_match"] = np.array(right, dtype=np.float64)
    return {
        name: dict(zip((item.id for item in items), values[name].tolist(), strict=True))
        for name in metrics
    }


def _of_choices(metric: str) -> bool:
    return metric.startswith("choice")


class _Losses(Collector):
    """The mean response loss of every row."""

    def __init__(self, rows: int) -> None:
        self.inputs, self.places = PassInputs(logits=True), np.arange(rows)
        self.losses = np.full(rows, np.nan)

    def reducer(self, batch: Batch, places: Sequence[int]) -> Reducer:
        return ResponseLoss(batch)

    def add(self, places: Sequence[int], columns: Mapping[str, np.ndarray]) -> None:
        self.losses[list(places)] = columns["nll"]


def response_losses(
    backbone: Backbone, rows: Sequence[Encoded], report: Report = lambda done: None
) -> np.ndarray:
    """Return (N,) float64: mean -log p of each row's response tokens."""
    from ..ingest.passes.forward import pass_over

    collector = _Losses(len(rows))
    pass_over(backbone, rows, [collector], report=report)
    return collector.losses


def _by_likelihood(
    backbone: Backbone,
    items: Sequence[Item],
    rows: Sequence[Encoded],
    metrics: Sequence[str],
    report: Report,
) -> dict[str, np.ndarray]:
    """Return losses and choices in one pass, which sees an answer that is also a choice once."""
    of_choices = any(map(_of_choices, metrics))
    own_rows = rows if "loss" in metrics or not of_choices else ()
    choice_rows = [
        backbone.encode(with_answer(item.instruction, each))
        for item in (items if of_choices else ())
        for each in item.choices
    ]
    once: dict[bytes, int] = {}
    distinct: list[Encoded] = []
    places = []
    for row in (*own_rows, *choice_rows):
        key = row.ids.tobytes() + row.response.tobytes()
        if key not in once:
            once[key] = len(distinct)
            distinct.append(row)
        places.append(once[key])
    losses = response_losses(backbone, distinct, report)[places]
    values = {"loss": losses[: len(own_rows)]}
    return values | _choices(items, -losses[len(own_rows) :]) if of_choices else values


def _choices(items: Sequence[Item], likelihoods: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the likelihoods of all choices say, one item's after the other's."""
    right, share, start = np.zeros(len(items)), np.zeros(len(items)), 0
    for place, item in enumerate(items):
        own = likelihoods[start : start + len(item.choices)]
        start += len(own)
        right[place] = own.argmax() == item.right
        weights = np.exp(own - own.max())
        share[place] = weights[item.right] / weights.sum()
    return {"choice": right, "choice_likelihood": share}


def answers(
    backbone: Backbone, rows: Sequence[Encoded], report: Report = lambda done: None
) -> list[str]:
    """Return what the model writes, greedily, in place of each row's last answer."""
    prompts = [row.ids[: _answer_start(row)] for row in rows]
    longest = max(len(row) - len(prompt) for row, prompt in zip(rows, prompts, strict=True))
    room = min(ANSWER_TOKENS_MOST, int(longest * ANSWER_TOKENS_MORE) + 1)
    ends = _end_tokens(backbone, rows)
    written = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda place: -len(prompts[place]))
    at = 0
    while at < len(order):
        step = max(1, TOKENS_PER_GENERATION // max(1, len(prompts[order[at]])))
        members = order[at : at + step]
        texts = _continued(backbone, [prompts[place] for place in members], room, ends)
        for place, text in zip(members, texts, strict=True):
            written[place] = text
        at += len(members)
        report(at / len(order))
    return written


def _answer_start(row: Encoded) -> int:
    """Return where the last answer begins."""
    last = len(row) - int(row.response[::-1].argmax())
    before = np.flatnonzero(~row.response[:last])
    return int(before[-1]) + 1 if len(before) else 0


def _end_tokens(backbone: Backbone, rows: Sequence[Encoded]) -> list[int]:
    """Return the tokens that end an answer: the model's own, and the template's end of turn."""
    config = backbone.model.generation_config
    own = config.eos_token_id if config is not None else None
    ends = set(own if isinstance(own, list) else [] if own is None else [own])
    ends |= {
        int(row.ids[row.response][-1])
        for row in rows
        if row.response.any() and int(row.ids[row.response][-1]) in backbone.encoder.special_ids
    }
    return sorted(ends)


@contextmanager
def _contiguous_states(model: Any) -> Iterator[None]:
    """Copy the states that the output layer is given inside the block.

    Of a prompt it is given the last token's, a slice of all. torch multiplies a batch of slices by
    a copy of the weights for every row, which for SmolLM2-135M took a third of all writing.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(
        lambda head, states: tuple(each.contiguous() for each in states)
    )
    try:
        yield
    finally:
        hook.remove()


def _continued(
    backbone: Backbone, prompts: Sequence[np.ndarray], room: int, ends: Sequence[int]
) -> list[str]:
    """Write on from prompts, padded on the left; return the new texts up to their end."""
    import torch

    width = max(1, *map(len, prompts))
    ids = np.full((len(prompts), width), backbone.padding_token, dtype=np.int64)
    mask = np.zeros((len(prompts), width), dtype=np.int64)
    for place, prompt in enumerate(prompts):
        if len(prompt):
            ids[place, -len(prompt) :] = prompt
            mask[place, -len(prompt) :] = 1
    device = backbone.device
    settings: dict[str, Any] = {"eos_token_id": list(ends)} if ends else {}
    with torch.inference_mode(), _contiguous_states(backbone.model):
        generated = backbone.model.generate(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
            max_new_tokens=room,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=backbone.padding_token,
            **settings,
        )
    texts = []
    for row in generated[:, width:].cpu().tolist():
        end = next((place for place, token in enumerate(row) if token in ends), len(row))
        texts.append(backbone.encoder.decode(row[:end]))
    return texts

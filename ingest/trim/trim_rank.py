"""How many directions TRIM's codes need: tried on the sample, with the code that scores pools.

Pseudo-targets of a few rows of the sample score the others, once from exact states and once from
the codes of each rank; a rank is good enough when both find nearly the same best rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from ..conversations.encoding import Encoded
from ..fits.artifacts import Artifact
from ..fits.sample_pass import states_of
from ..models.backbone import Backbone
from ..models.batch import Batch
from .fingerprints import fingerprints, nearest_classes
from .token_codes import quantise, unit_states
from .token_scores import ClassTable, row_terms, score_tokens

RANKS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Tried as far as they are below the full width, and then that. Steps of a third or a half: bytes
grow with the rank, and between 256 and a wide model's 4096 there would be nothing to choose."""

BEST = 0.05
"""Share of the rows that are the best ones."""

DRAWS, EXAMPLES = 8, 8
"""Pseudo-targets, and the rows each is made of (a quarter of the sample where that is fewer)."""


def ranks_tried(width: int) -> tuple[int, ...]:
    """The ranks among which one is chosen, for states of that width."""
    return (*(rank for rank in RANKS if rank < width), width)


def top_overlap(exact: np.ndarray, other: np.ndarray) -> float:
    """Share of the best `BEST` of the rows by `exact` that are among the best by `other`.

    Args:
        exact, other: (N,) scores; the first of equals is the better one.
    """
    count = max(1, round(BEST * len(exact)))
    best = [set(np.argsort(-each, kind="stable")[:count].tolist()) for each in (exact, other)]
    return len(best[0] & best[1]) / count


def overlaps(
    backbone: Backbone,
    rows: Sequence[Encoded],
    adapter: Artifact | None,
    directions: np.ndarray,
    layers: int,
    seed: int,
    tell: Callable[[float], None],
) -> dict[int, float]:
    """Rank -> mean overlap of the stored score's best rows with the exact one's.

    Args:
        rows: the sample; every one has content.
        directions: (d, d) float32 orthonormal columns, strongest first.
        layers: attention layers of a fingerprint.
        seed: draws the pseudo-targets.
    """
    draw = np.random.default_rng(seed)
    size = min(EXAMPLES, len(rows) // 4)
    drawn = [draw.choice(len(rows), size, replace=False) for _ in range(DRAWS)]
    tables: list[ClassTable] = []
    for members in drawn:
        found = fingerprints(backbone, [rows[i] for i in members], layers, adapter)
        nearest = nearest_classes(backbone.model, found.classes)
        tables.append(ClassTable(found.classes, found.vectors @ directions, nearest))
    ranks = ranks_tried(len(directions))
    scores = scores_by_rank(backbone, rows, adapter, directions, tables, ranks, tell)
    found = np.zeros((DRAWS, len(ranks)))
    for target, members in enumerate(drawn):
        others = np.delete(scores[:, target], members, axis=0)
        others = others[np.isfinite(others).all(1)]
        found[target] = [top_overlap(others[:, 0], each) for each in others.T[1:]]
    return dict(zip(ranks, found.mean(0).tolist(), strict=True))


def scores_by_rank(
    backbone: Backbone,
    rows: Sequence[Encoded],
    adapter: Artifact | None,
    directions: np.ndarray,
    tables: Sequence[ClassTable],
    ranks: Sequence[int],
    tell: Callable[[float], None] = lambda done: None,
) -> np.ndarray:
    """Scores of rows for some targets: (N, targets, 1 + ranks) float32, the exact one first.

    Args:
        tables: each target's fingerprints along all `directions`.
        ranks: of the codes the other scores are made from.
    """
    widths = (len(directions), *ranks)
    cut = [
        [replace(each, vectors=np.ascontiguousarray(each.vectors[:, :r])) for r in widths]
        for each in tables
    ]
    scores = np.empty((len(rows), len(tables), len(widths)), np.float32)

    def read(members: Sequence[int], batch: Batch, states: torch.Tensor) -> None:
        own, norms = unit_states(batch, states)
        turned = own @ torch.from_numpy(directions).to(own.device) / norms
        stored: list[tuple[np.ndarray, np.ndarray | None]] = [(turned.cpu().numpy(), None)]
        for rank in ranks:
            codes, scales = quantise(turned[:, :rank])
            stored.append((codes.cpu().numpy(), scales.cpu().numpy()))
        tokens = np.concatenate([row.ids for row in batch.rows])
        content = np.concatenate([row.content for row in batch.rows])
        lengths = np.array([len(row) for row in batch.rows])
        for target, tables_of_target in enumerate(cut):
            for place, (table, kept) in enumerate(zip(tables_of_target, stored, strict=True)):
                each = score_tokens(tokens, *kept, table).scores
                scores[members, target, place] = row_terms(each, content, lengths).scores

    states_of(backbone, rows, read, adapter, tell)
    return scores

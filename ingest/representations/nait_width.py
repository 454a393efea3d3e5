"""How many directions of every layer NAIT's ranking needs.

Pseudo-targets are made of the sample itself: a row drawn at random, and the rows most like it. Each
scores all others by the default comparison (contrast of means, centred cosine), once from the whole
summaries and once from what each width would store. Layers are taken one by one, so that beside the
sample there is memory for one layer only.
"""

from __future__ import annotations

import numpy as np

from .nait_scores import in_steps, unit
from .trim_basis import LEAST_BEST, top_overlap

WIDTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Those below the basis' width are tried, and then that."""

DRAWS, EXAMPLES = 16, 16
"""Pseudo-targets, and rows of each (at most a quarter of the sample)."""

Numbers = np.ndarray


def overlaps(summaries: Numbers, bases: Numbers, stored: str, seed: int) -> dict[int, float]:
    """Return width -> mean share of the best rows by whole summaries among those by stored ones.

    Args:
        summaries: means of the sample's rows, (n, L, d) float32.
        bases: (L, d', d) float32, orthonormal rows, the strongest first.
        stored: type of the blocks, "float16" or "int8".
        seed: draws the pseudo-targets.
    """
    widths = (*(width for width in WIDTHS if width < bases.shape[1]), bases.shape[1])
    rows, layers = summaries.shape[:2]
    size = max(1, min(EXAMPLES, rows // 4))
    drawn = np.random.default_rng(seed).choice(rows, min(DRAWS, rows), replace=False)
    alike = np.zeros((len(drawn), rows), np.float32)
    for layer in range(layers):
        centred = unit(summaries[:, layer] - summaries[:, layer].mean(axis=0))
        alike += centred[drawn] @ centred.T
    targets = np.argsort(-alike, axis=1, kind="stable")[:, :size]
    exact = np.zeros((len(targets), rows), np.float32)
    by_width = {width: np.zeros_like(exact) for width in widths}
    for layer in range(layers):
        whole = summaries[:, layer]
        exact += _scores(whole, targets)
        norms = np.linalg.norm(whole, axis=1, keepdims=True)
        blocks = unit(whole) @ bases[layer].T
        kept = in_steps(blocks) / np.float32(127) if stored == "int8" else blocks.astype(np.float16)
        for width, scores in by_width.items():
            scores += _scores(kept[:, :width].astype(np.float32) * norms, targets)
    shares = {width: np.empty(len(targets)) for width in widths}
    for place, members in enumerate(targets):
        others = np.setdiff1d(np.arange(rows), members)
        for width, scores in by_width.items():
            shares[width][place] = top_overlap(
                exact[place, others], scores[place, others], LEAST_BEST
            )
    return {width: float(each.mean()) for width, each in shares.items()}


def _scores(of_layer: Numbers, targets: Numbers) -> Numbers:
    """Return the term of one layer, (targets, n): cosines with the contrast, after centring."""
    mean = of_layer.mean(axis=0)
    directions = unit(of_layer[targets].mean(axis=1) - mean)
    return directions @ unit(of_layer - mean).T

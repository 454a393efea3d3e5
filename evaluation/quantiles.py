"""The quantile experiment: does nearness to the target predict what a model learns?

Source: "targeted selection" (arXiv 2602.14696): the pool is ordered by nearness, cut into bins, a
model is fine-tuned on rows of each, and the correlation of bin with loss and with the metric says
whether a representation's distance means anything for training.

It is a study whose arms are bins (`Study.bins`); this module names it.
"""

from __future__ import annotations

from .results import StudyResult

BINS = 10


def correlations(result: StudyResult) -> dict[str, dict[str, float]]:
    """Return metric -> budget -> Spearman's correlation of bin (nearest first) and metric.

    Where nearness predicts what is learned, that of loss is near +1 (far bins have higher losses)
    and that of an accuracy near -1.
    """
    return {metric: result.bins(metric) for metric in result.metrics}

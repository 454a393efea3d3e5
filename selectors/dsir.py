"""DSIR: rows drawn by how much likelier their words are in the target than in the pool.

Source: Xie et al. 2023, "Data Selection for Language Models via Importance Resampling". Words and
pairs of neighbouring words are hashed into buckets; p is the distribution of the buckets over the
target's examples, q that over all eligible rows. A row's log importance weight is the sum over its
words and pairs of log(p + s) - log(q + s), and rows are drawn without replacement by their weights:
the largest weights, each with a Gumbel variable added, are taken. The score is that sum. 10,000
buckets are the published number. `gumbel=false` adds nothing, for small budgets: the rows that are
most like the target instead of a sample that has its distribution, and the same for every seed.

The smoothing s is ours: 1e-4, a bucket's even share. The published code has 1e-8, for targets of
many thousand texts. The weight is a sum, and at 1e-8 every bucket that is absent from a handful of
examples costs a row about nine: the shortest rows win, whatever they say (docs/selectors.md has
figures).

The Gumbel variable is computed from the word that orders rows in `random`: seeded, and the same
for a row wherever it is stored. Where all weights are equal the order is that of `random`.
"""

from __future__ import annotations

import numpy as np

from .draws import gumbel
from .reductions import Reduction, RowWords, TopRows, WordSimilarity, WordTotals
from .selector import Option, Passes, Ranking, Selector, Task

_WORDS_AT_ONCE = 1 << 20  # of a block of 4 MB
_BYTES_PER_WORD = 64  # two buckets, the summed ratios, and intermediate results


def buckets_of(rows: RowWords, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """The bucket of every word, and of the pair that begins with it, both (total,) int64.

    The last word of a row begins no pair: -1. Ids of words are hashes already; those of a pair are
    mixed by two odd multipliers of 64 bits.
    """
    words = rows.words.astype(np.uint64)
    pairs = np.full(len(words), -1, np.int64)
    mixed = words[:-1] * np.uint64(0x9E3779B97F4A7C15) + words[1:]  # wraps on purpose
    mixed = (mixed * np.uint64(0xD6E8FEB86659FD93)) >> np.uint64(32)
    pairs[:-1] = (mixed % np.uint64(buckets)).astype(np.int64)
    pairs[rows.starts[1:] - 1] = -1
    return (words % np.uint64(buckets)).astype(np.int64), pairs


def bucket_counts(rows: RowWords, buckets: int) -> np.ndarray:
    """How many words and pairs of some rows fall into each bucket, (buckets,) int64."""
    words, pairs = buckets_of(rows, buckets)
    counts = np.bincount(words, minlength=buckets)
    return counts + np.bincount(pairs[pairs >= 0], minlength=buckets)


def log_weights(rows: RowWords, ratio: np.ndarray) -> np.ndarray:
    """The sum over each row's words and pairs of the ratio of their buckets, (n,) float64."""
    words, pairs = buckets_of(rows, len(ratio))
    values = ratio[words] + np.append(ratio, 0.0)[pairs]  # -1 is the last one: nothing
    return np.add.reduceat(values, rows.starts[:-1])


def _passes(task: Task) -> Passes:
    buckets, smoothing = task.options["buckets"], task.options["smoothing"]
    (pool,) = yield (WordTotals(lambda rows: bucket_counts(rows, buckets)),)
    starts = np.cumsum([0, *map(len, task.words)])
    examples = RowWords(np.zeros((len(task.words), 2)), starts, np.concatenate(task.words))
    target = bucket_counts(examples, buckets)
    likely, common = (counts / max(counts.sum(), 1) for counts in (target, pool))
    ratio = np.log(likely + smoothing) - np.log(common + smoothing)

    def scores(rows: RowWords) -> np.ndarray:
        weights = log_weights(rows, ratio)
        if task.options["gumbel"]:
            weights += gumbel(rows.keys, task.seed)
        return weights.astype(np.float32)[None]

    (best,) = yield (WordSimilarity(scores, TopRows(task.k, "mean")),)
    return Ranking(best.keys[0], best.scores[0])


def _own_memory(task: Task) -> int:
    return task.options["buckets"] * 64 + _WORDS_AT_ONCE * _BYTES_PER_WORD


def _later(task: Task) -> tuple[Reduction, ...]:
    return (TopRows(task.k, "mean"),)  # of one score a row, however many examples there are


SELECTOR = Selector(
    "dsir",
    1,
    ("terms",),
    _passes,
    _own_memory,
    {
        "gumbel": Option(True),
        "buckets": Option(10_000, least=1),
        # A bucket that is absent from the target must have a finite weight.
        "smoothing": Option(1e-4, least=1e-12),
    },
    feature="lexical",
    later=_later,
    paper="Xie et al. 2023",
    meaning="rows with words likelier in your examples than the pool",
)

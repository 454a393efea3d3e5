"""Scores of rows from an ensemble's gradient norms, and how far they can be trusted.

Everything is computed from the norms that are stored: the drop between two snapshots, the noise
between members, G-SNR; whether two halves of the members agree, and whether rows that members were
trained on differ from others.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..fits.ensemble import SNAPSHOTS
from ..fits.member_noise import Prior
from .representation import Scorer

NOISE_FLOOR = 1e-3
NOISES = ("shrunk", "normalised", "raw")
SCORES = ("snr", "drop")

NORMS, SEEN = "gradfiltering_norms", "gradfiltering_seen"


def snr(
    early: np.ndarray,
    late: np.ndarray,
    judges: np.ndarray,
    noise: str,
    prior: Prior | None = None,
) -> np.ndarray:
    """Return the G-SNR of every row: relative drop of the gradient over noise between members.

    Args:
        early, late: gradient norms (N, M) at the two snapshots.
        judges: (N, M) bool, the members that count; at least two a row, or one with `shrunk`.
        noise: `raw`, the variance of the late norms; `normalised`, the same over their squared
            mean; `shrunk`, that one moved towards what is usual.
        prior: of the normalised variances, for `shrunk`.

    Returns:
        (N,) float64; NaN where a norm is not finite or the early gradient is zero.
    """
    drop = drops(early, late, judges)
    with np.errstate(all="ignore"):  # the reason says what is not finite
        spread = noises(late, judges, noise, prior) + NOISE_FLOOR
        # Dividing a negative drop would reward noise.
        return np.where(drop > 0, drop / spread, drop * spread)


def drops(early: np.ndarray, late: np.ndarray, judges: np.ndarray) -> np.ndarray:
    """Return (early - late) / early of the mean squared norms of every row, (N,) float64.

    Args: as of `snr`. NaN where a norm is not finite or the early gradient is zero.
    """
    with np.errstate(all="ignore"):
        before, after = _mean(early**2, judges), _mean(late**2, judges)
        drop = (before - after) / before
        return np.where(np.isfinite(drop), drop, np.nan)


def noises(
    late: np.ndarray, judges: np.ndarray, noise: str, prior: Prior | None = None
) -> np.ndarray:
    """Return how far the members that count disagree about every row, (N,) float64; as `snr`."""
    count = judges.sum(1)
    with np.errstate(all="ignore"):
        centre = _mean(late, judges)
        variance = _mean((late - centre[:, None]) ** 2, judges) * count / (count - 1)
        if noise == "raw":
            return variance
        # All late gradients zero: they agree.
        variance = np.where(centre > 0, variance / centre**2, variance)
        if noise == "normalised":
            return variance
        assert prior is not None, "shrunk noise has a prior"
        shrunk = prior.shrunk(variance, count - 1)
        return np.where(np.isfinite(centre), shrunk, np.nan)


def _mean(values: np.ndarray, judges: np.ndarray) -> np.ndarray:
    return np.where(judges, values, 0.0).sum(1) / judges.sum(1)


class StoredScore(Scorer):
    """The stored score, which does not depend on a target."""

    columns = ("gradfiltering",)

    def scores(self, rows: pa.RecordBatch) -> np.ndarray:
        return rows.column("gradfiltering").to_numpy(zero_copy_only=False).astype(np.float32)


class NormScore(Scorer):
    """A score computed from the stored norms.

    Args:
        noise: of G-SNR; None for the drop alone.
        prior: for `shrunk`.
    """

    columns = (NORMS,)

    def __init__(self, noise: str | None, prior: Prior | None = None) -> None:
        self._noise, self._prior = noise, prior

    def scores(self, rows: pa.RecordBatch) -> np.ndarray:
        lists = rows.column(NORMS)
        scores = np.full(len(lists), np.nan, np.float32)
        present = np.asarray(lists.is_valid())
        if present.any():
            early, late, judges = norms_of(lists.drop_null())
            if self._noise is None:
                scores[present] = drops(early, late, judges)
            else:
                scores[present] = snr(early, late, judges, self._noise, self._prior)
        return scores


def norms_of(lists: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return early norms, late norms (n, m) float64, and which are there (n, m) bool.

    Args:
        lists: without nulls, of each row the early norms, then as many late ones; m is the most.
    """
    counts = _lengths(lists) // len(SNAPSHOTS)
    width = int(counts.max(initial=0))
    there = np.arange(width)[None, :] < counts[:, None]
    starts = np.cumsum(2 * counts) - 2 * counts
    places = starts[:, None] + np.where(there, np.arange(width)[None, :], 0)
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    early, late = (values[places + shift] for shift in (0, counts[:, None]))
    return np.where(there, early, 0.0), np.where(there, late, 0.0), there


def reliability(table: pa.Table, noise: str, prior: Prior | None) -> dict[str, float]:
    """Return how far scores of rows can be trusted, from the stored norms.

    The members that judge a row are parted in two, every other one. A half of one member has no
    variance, so that `normalised` and `raw` need four judges a row.

    Args:
        table: with `gradfiltering_norms`.
        noise, prior: of the score, as in `snr`.

    Returns:
        `negative_drops`, the share of rows whose gradient rose; `halves_agree`, Spearman's rank
        correlation of the scores by the two halves over the rows; `halves_agree_on_drops`, that of
        the drops. NaN where there is none. By both halves together the reliability is 2 r / (1 + r)
        (Spearman and Brown).
    """
    present = table[NORMS].drop_null().combine_chunks()
    if not len(present):
        return dict.fromkeys(
            ("negative_drops", "halves_agree", "halves_agree_on_drops"), float("nan")
        )
    early, late, there = norms_of(present)
    odd = (np.cumsum(there, axis=1) % 2).astype(bool)
    halves = (there & odd, there & ~odd)
    by_half = [drops(early, late, half) for half in halves]
    least = 1 if noise == "shrunk" else 2
    enough = np.min([half.sum(1) for half in halves], axis=0) >= least
    scores = [snr(early, late, half, noise, prior)[enough] for half in halves]
    return {
        "negative_drops": float((drops(early, late, there) < 0).mean()),
        "halves_agree": spearman(*scores),
        "halves_agree_on_drops": spearman(*by_half),
    }


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Return the rank correlation of two scores of the same rows, ties at their mean rank.

    Rows that lack one are left out; NaN where fewer than two are left, or all tie.
    """
    both = np.isfinite(one) & np.isfinite(other)
    ranks = [_ranks(each[both]) for each in (one, other)]
    if both.sum() < 2 or any(rank.std() == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def seen_gap(table: pa.Table) -> dict[str, float]:
    """Return how rows the ensemble was trained on differ from others, from the stored columns.

    Args:
        table: with `gradfiltering_norms` and `gradfiltering_seen`.

    Returns:
        `rows_in_fit` and `rows_outside` (with norms); `seen_over_unseen`: the late gradient norm
        of a row at members trained on it over that at the others, geometric mean over rows, 1
        where nothing was memorised; `outside_over_unseen`: late norms of rows outside over those
        of rows in the fit at members that did not see them, 1 where the ensemble suits both.
        NaN where there are no such rows.
    """
    present = table.filter(table[NORMS].is_valid())
    by_judges = _mean_logs(present[NORMS], late=True)
    inside = _lengths(present[SEEN]) > 0
    by_its_own = _mean_logs(present[SEEN].filter(inside), late=False)

    def ratio(above: np.ndarray, below: np.ndarray) -> float:
        if not len(above) or not len(below):
            return float("nan")
        return float(np.exp(above.mean() - below.mean()))

    return {
        "rows_in_fit": int(inside.sum()),
        "rows_outside": int((~inside).sum()),
        "seen_over_unseen": ratio(by_its_own, by_judges[inside]),
        "outside_over_unseen": ratio(by_judges[~inside], by_judges[inside]),
    }


def _mean_logs(lists: pa.ChunkedArray, late: bool) -> np.ndarray:
    """Return (n,) mean logarithm of each list, or of its second half."""
    means = [np.empty(0)]
    for chunk in lists.chunks:
        lengths = _lengths(chunk)
        row = np.repeat(np.arange(len(chunk)), lengths)
        place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        used = place >= lengths[row] / len(SNAPSHOTS) * late
        with np.errstate(divide="ignore"):
            logs = np.log(chunk.flatten().to_numpy().astype(np.float64))
        counts = np.bincount(row[used], minlength=len(chunk))
        means.append(np.bincount(row[used], logs[used], len(chunk)) / counts)
    return np.concatenate(means)


def _lengths(lists: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return pc.list_value_length(lists).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]

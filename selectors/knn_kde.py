"""KNN-KDE: queries spread their mass over near rows, less to rows in a crowd.

Algorithm 2 of TSDS (Liu et al. 2024). Every query brings its min(Lmax, N / 10) nearest rows. The
density of a row is the sum, over its min(kde_k, N / 10) nearest rows of the union, itself included,
of max(0, 1 - 2 (1 - cos) / sigma^2). A common size s grows; a query fills its rows in the order of
their distance, each with 1 / (M s density), until (alpha / C) * cost >= (1 - alpha) M; what is left
of its 1 / M goes to the next row. Order: mass, then id; rows without mass follow by mean similarity
[ours]. Nothing of this depends on the budget, so prefixes nest.

A query whose rows are all full has mass left when nothing stops the growth, which at the published
settings is usual. As published its last row gets that, and so ranks high though it is the farthest
one. `rest=spread` [ours] is for all who do not want those rows first: each row gets its share.

`sigma=0.75` is the published width, for near-duplicates among gradients. `sigma=auto` [ours] fits
it to the representation: of the pairs of `SAMPLE` rows of the pool, drawn by their ids, a share of
`NEAR_PAIRS` lies within its reach, 1 - cos < sigma^2 / 2. Neither finds more in all pools.
Where the median density is high, rows are held back for being typical, and a note says so.

`ties=mean` [ours]: rows of equal mass go by mean similarity before the id; the density of a row
without near-duplicates is then 1 exactly, whatever its float16 length.

The densities cost union^2 products of vectors. The union is held to `union` rows by bringing fewer
rows of every query; the ranking says so.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..schemas.ids import codes_of
from .neighbours import OPTIONS, by_mass, distances, draws_memory, growth_note
from .reductions import Lists, Reduction, SampledVectors, TopPerQuery, TopRows, Vectors
from .selector import Option, Passes, Ranking, Selector, Task

_ROWS_AT_ONCE = 512
_COLUMNS_AT_ONCE = 1024  # a part of the kernels stays in the caches while it is made and summed
NEAR_PAIRS = 0.001
SAMPLE = 1000
SIGMA_BOUNDS = (0.05, 0.75)
"""Of a fitted sigma: float16 vectors tell no smaller distances apart; the published one."""
CROWDED = 5.0
"""The median density above which rows are held back for being typical."""

_ROUNDING = 1e-9  # of a query's mass: so little is left over by sums that should be whole


def densities(vectors: np.ndarray, sigma: float, count: int) -> np.ndarray:
    """The density of every row among all of them.

    Args:
        vectors: (n, d) float16 unit vectors.
        sigma: width of the kernel; 0 makes every density 1.
        count: nearest rows that are summed, the row itself among them.

    Returns:
        (n,) float64. Rows of equal vectors have equal densities to the last bit.
    """
    import torch

    if not sigma or not len(vectors):
        return np.ones(len(vectors))
    bits = np.ascontiguousarray(vectors).view(np.dtype((np.void, 2 * vectors.shape[1])))[:, 0]
    first, same = np.unique(bits, return_index=True, return_inverse=True)[1:]
    whole = torch.from_numpy(vectors).float()
    density = np.empty(len(first))
    for start in range(0, len(first), _ROWS_AT_ONCE):
        rows = whole[torch.from_numpy(first[start : start + _ROWS_AT_ONCE])]
        near = torch.zeros(len(rows), dtype=torch.float64)
        reached = torch.zeros(len(rows), dtype=torch.int64)
        kernels = []
        for part in whole.split(_COLUMNS_AT_ONCE):
            kernel = rows @ part.T
            kernel.clamp_(max=1).sub_(1).mul_(2 / sigma**2).add_(1).clamp_(min=0)
            near += kernel.double().sum(dim=1)
            reached += kernel.count_nonzero(dim=1)
            kernels.append(kernel)
        crowded = reached > count
        if crowded.any():
            largest = torch.cat([kernel[crowded] for kernel in kernels], dim=1)
            near[crowded] = largest.topk(count, sorted=False).values.double().sum(dim=1)
            del largest  # before the next ones are made
        density[start : start + len(rows)] = near.numpy()
    return density[same]


def fitted_sigma(vectors: np.ndarray) -> float:
    """The sigma whose reach holds a share of `NEAR_PAIRS` of all pairs, within `SIGMA_BOUNDS`.

    Args:
        vectors: (n, d) float16 of sampled rows; of equal ones one counts, so that copies do not
            make it 0.

    Returns:
        Three decimals, so that no last bit of a product decides.
    """
    import torch

    bits = np.ascontiguousarray(vectors).view(np.dtype((np.void, 2 * vectors.shape[1])))[:, 0]
    first = np.unique(bits, return_index=True)[1]
    if len(first) < 2:
        return SIGMA_BOUNDS[1]
    unit = torch.nn.functional.normalize(torch.from_numpy(vectors[first]).float(), dim=1)
    gaps = 1 - (unit @ unit.T).numpy()[np.triu_indices(len(first), 1)].astype(np.float64)
    near = max(float(np.quantile(gaps, NEAR_PAIRS)), 0.0)
    return round(min(max((2 * near) ** 0.5, SIGMA_BOUNDS[0]), SIGMA_BOUNDS[1]), 3)


def shares(
    distance: np.ndarray, density: np.ndarray, alpha: float, c: float, rest: str
) -> tuple[np.ndarray, bool]:
    """What every query gives to each of its rows, and whether the condition stopped the growth.

    Args:
        distance: (M, n) float64, ascending.
        density: (M, n) float64, of the same rows.
        alpha, c: of the condition.
        rest: what becomes of the mass of a query whose rows are all full: "last", the last row gets
            it; "spread", its rows get it in proportion to what they have.

    Returns:
        (M, n) float64, every query 1 / M in all.
    """
    queries, rows = distance.shape
    if rows < 2:
        return np.full((queries, rows), 1 / queries), False
    weight = 1 / density
    # Neighbour k of a query is full at the size `grown`, and k + 1 begins to be filled. The heap of
    # TSDS takes these events in this order; the cost of a query changes with its own events only.
    grown = np.cumsum(weight, axis=1)[:, :-1]
    cost = distance[:, 1:] * grown - np.cumsum(distance * weight, axis=1)[:, :-1]
    query, place = (index.ravel() for index in np.indices(grown.shape))
    order = np.lexsort((query, place, grown.ravel()))
    total = np.cumsum(np.diff(cost, axis=1, prepend=0).ravel()[order])
    met = np.flatnonzero(alpha * total >= c * (1 - alpha) * queries)
    last = int(met[0]) if met.size else len(order)
    size = grown.ravel()[order[min(last, len(order) - 1)]]
    # A query whose nearest row is not full yet gives it all; the code of TSDS fills it in any case,
    # and with that gives more than 1 / M.
    full = np.bincount(query[order[:last]], minlength=queries)
    mass = np.where(np.arange(rows) < full[:, None], weight / (queries * size), 0)
    left = 1 / queries - mass.sum(axis=1)
    mass[np.arange(queries), full] += np.where(left > _ROUNDING / queries, left, 0)
    if rest == "spread":
        ran_out = mass[:, -1] > weight[:, -1] / (queries * size)
        even = weight / (queries * weight.sum(axis=1, keepdims=True))
        mass = np.where(ran_out[:, None], even, mass)
    return mass, bool(met.size)


def cut_to(nearest: Lists, most: int) -> Lists:
    """As many of every query's nearest rows, but at least two, as have a union of `most` rows."""
    codes, _ = codes_of(nearest.keys)
    queries, nearby = codes.shape
    # Column by column, a row first appears where it stands best with any query.
    _, first = np.unique(codes.T, return_index=True)
    sizes = np.cumsum(np.bincount(first // queries, minlength=nearby))
    reach = max(int(np.searchsorted(sizes, most, "right")), 2)
    assert nearest.scores is not None
    means = None if nearest.means is None else nearest.means[:, :reach]
    return Lists(nearest.keys[:, :reach], nearest.scores[:, :reach], means=means)


def _neighbours(task: Task) -> int:
    """Rows that every query brings; of a small pool two."""
    return min(task.options["Lmax"], max(task.rows // 10, 2), task.rows)


def _passes(task: Task) -> Passes:
    options = task.options
    alpha, c = options["alpha"], options["C"]
    by_mean = options["ties"] == "mean"
    brought, others = yield TopPerQuery(_neighbours(task), by_mean), TopRows(task.k, "mean")
    nearest = cut_to(brought, options["union"])
    assert nearest.scores is not None
    codes, distinct = codes_of(nearest.keys)
    keys = np.empty((distinct, 2), np.int64)
    keys[codes.ravel()] = nearest.keys.reshape(-1, 2)
    rows, *sampled = yield (Vectors(keys), *_sample(task))
    sigma = fitted_sigma(sampled[0].vectors) if sampled else options["sigma"]
    density = densities(rows.vectors, sigma, min(options["kde_k"], task.rows // 10 or 1))
    if by_mean:
        np.maximum(density, 1.0, out=density)
    distance = distances(nearest.scores, options["distance"])
    mass, stopped = shares(distance, density[codes], alpha, c, options["rest"])
    ranking: Ranking = by_mass(nearest, mass, others, task)
    reach = codes.shape[1]
    notes = [f"knn_kde estimated densities among {distinct:,} rows"]
    if reach < brought.keys.shape[1]:
        notes[0] += (
            f": {reach:,} of the {brought.keys.shape[1]:,} nearest rows of every example, so that "
            f"their union stays within union={options['union']:,}"
        )
    if not stopped:
        notes.append(growth_note("knn_kde", alpha, c, reach))
    if sampled:
        notes.append(f"knn_kde: sigma={sigma:g}, fitted to {len(sampled[0]):,} rows of the pool")
    if sigma and len(density) and (median := float(np.median(density))) > CROWDED:
        notes.append(_crowd_note(sigma, median))
    fitted = {"sigma": sigma} if sampled else {}
    return replace(ranking, notes=(*notes, *ranking.notes), fitted=fitted)


def _sample(task: Task) -> tuple[Reduction, ...]:
    return (SampledVectors(SAMPLE),) if task.options["sigma"] == "auto" else ()


def _crowd_note(sigma: float, median: float) -> str:
    return (
        f"knn_kde: half of the rows it weighed have a density above {median:.1f} within "
        f"sigma={sigma:g} (a row without near-duplicates has 1), so typical rows are held back for "
        "rare ones. round_robin and top do not hold any back"
    )


def _own_memory(task: Task) -> int:
    brought, union = task.queries * _neighbours(task), _union(task)
    # The lists of the first pass; events, masses and orders of 8 bytes each; the vectors as
    # float32, and once more while equal ones are found; a block of kernels, twice more where only
    # the nearest count.
    lists = 28 * (brought + task.k)
    kernels = 12 * _ROWS_AT_ONCE * union + 8 * _ROWS_AT_ONCE * _COLUMNS_AT_ONCE
    means = 16 * brought if task.options["ties"] == "mean" else 0
    fit = SAMPLE * (8 * task.width + 24 * SAMPLE) if _sample(task) else 0
    drawn = draws_memory(task)
    return lists + means + 240 * brought + 6 * union * task.width + kernels + fit + drawn


def _later(task: Task) -> tuple[Reduction, ...]:
    return (Vectors(np.empty((_union(task), 2), np.int64)), *_sample(task))


def _union(task: Task) -> int:
    """Most rows whose vectors are fetched."""
    return min(max(task.options["union"], 2 * task.queries), task.queries * _neighbours(task))


SELECTOR = Selector(
    "knn_kde",
    1,
    ("query_similarity", "vectors"),
    _passes,
    _own_memory,
    {
        **OPTIONS,
        "sigma": Option(0.75, least=0.0, words=("auto",)),
        "kde_k": Option(1000, least=1),
        "union": Option(20_000, least=1),
        "rest": Option("last", ("last", "spread")),
        "ties": Option("id", ("id", "mean")),
    },
    later=_later,
    paper="Liu et al. 2024 (TSDS)",
    meaning="rows among the nearest of many examples, few of a crowd",
)

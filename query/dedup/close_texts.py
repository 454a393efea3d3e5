"""Pairs of rows that share most of their runs of words: candidates by MinHash, verified exactly.

The sets of hashed runs lie in a temporary file; memory holds a signature's bands a row. Rows with
equal sets are one from the start. Two rows are candidates if they agree in one of the bands; then
their sets are compared. The shape of the bands follows from the threshold: of pairs that just reach
it about one in a thousand is no candidate, of closer ones fewer (Broder 1997; Leskovec et al.,
Mining of Massive Datasets, 3.4).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import xxhash

from ...schemas.errors import OutputError
from ...schemas.progress import Progress
from ..rules.examples import ngrams
from .linkage import Linkage

PERMUTATIONS = 128
SEED = 1
MOST_MISSED = 1e-3
"""Of the pairs that just reach the threshold, how many no band may show."""

SHINGLES_AT_ONCE = 1 << 22
"""Runs of words (8 bytes each) that are read for one comparison."""

_ROWS_SAID = 2000
_ROUNDING = 1e-9


def shape_of_bands(threshold: float) -> tuple[int, int]:
    """How many bands a signature has, and of how many values: as many as `MOST_MISSED` allows."""
    for width in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // width
        if (1 - threshold**width) ** bands <= MOST_MISSED:
            return bands, width
    return PERMUTATIONS, 1


def shingles_of(words: Sequence[str], length: int) -> np.ndarray:
    """The distinct runs of `length` words as sorted hashes, (n,) uint64; a shorter text is one."""
    runs = ngrams(words, min(length, len(words))) if words else []
    hashes = (xxhash.xxh3_64_intdigest(run.encode()) for run in runs)
    return np.unique(np.fromiter(hashes, np.uint64, len(runs)))


class ShingledRows:
    """The sets of all rows, in a temporary file, and the bands of their signatures.

    Args:
        threshold: of the Jaccard similarity, which the bands are made for.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._bands, self._width = shape_of_bands(threshold)
        self._file = tempfile.TemporaryFile(prefix="coresetdb-dedup-")
        self._sizes: list[np.ndarray] = []
        self._digests: list[np.ndarray] = []
        self._hashes: list[np.ndarray] = []

    def __enter__(self) -> ShingledRows:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, sets: Sequence[np.ndarray]) -> None:
        """Take in the sets of the next rows."""
        if not len(sets):
            return
        sizes = np.array([len(each) for each in sets], np.int64)
        flat = np.concatenate(sets)
        try:
            self._file.write(flat.tobytes())
        except OSError as error:
            raise OutputError(tempfile.gettempdir(), error.strerror or str(error)) from error
        self._sizes.append(sizes)
        digests = [xxhash.xxh3_128_digest(each.tobytes()) for each in sets]
        self._digests.append(np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2))
        self._hashes.append(self._banded(flat, sizes))

    def _banded(self, flat: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """A hash for each band of each row, (rows, bands) uint64; two may share one by chance."""
        from rensa import RMinHash  # pyright: ignore[reportMissingTypeStubs, reportAttributeAccessIssue]

        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, PERMUTATIONS, SEED)
        signatures = np.array(matrix.to_rows(), np.uint32)[:, : self._bands * self._width]
        parts = signatures.reshape(len(sizes), self._bands, self._width)
        factors = np.random.default_rng(SEED).integers(1 << 63, size=self._width, dtype=np.uint64)
        return (parts * (2 * factors + 1)).sum(axis=2, dtype=np.uint64)

    def cluster(self, order: np.ndarray, linkage: Linkage, progress: Progress) -> np.ndarray:
        """The kept row of each row, (n,) int64, both by places in `order`.

        Args:
            order: the rows that were added, in the order in which they are preferred, (n,) int64.
            linkage: of as many rows; takes in the candidates that are close.
            progress: is told how far it is.
        """
        if not len(order):
            return order
        threshold = self._threshold
        ends = np.cumsum(np.concatenate(self._sizes))
        sizes = np.concatenate(self._sizes)[order]
        starts = ends[order] - sizes
        self._file.flush()
        stored = np.memmap(self._file, np.uint64, "r") if ends[-1] else np.empty(0, np.uint64)
        sets = partial(_set_at, stored, starts, sizes)
        first = _first_equal(np.concatenate(self._digests)[order])
        buckets = _Buckets(np.concatenate(self._hashes)[order], np.unique(first))
        self._hashes.clear()
        for number, row in enumerate(buckets.rows.tolist()):
            if number % _ROWS_SAID == 0:
                said = f"{number:,} of {len(buckets.rows):,} rows with candidates"
                progress.learn(name="texts", share=number / len(buckets.rows), said=said)
            others = buckets.candidates(row, linkage)
            # The smaller of two sets has at least this share of the larger.
            low, high = np.minimum(sizes[row], sizes[others]), np.maximum(sizes[row], sizes[others])
            others = others[low >= threshold * high - _ROUNDING]
            for part in _parts(others, sizes):
                close = part[_jaccard(sets(row), [sets(other) for other in part]) >= threshold]
                linkage.join(np.full(len(close), row), close)
        return linkage.kept()[first]


def _set_at(stored: np.ndarray, starts: np.ndarray, sizes: np.ndarray, row: int) -> np.ndarray:
    return stored[starts[row] : starts[row] + sizes[row]]


def _parts(rows: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Rows in parts that have about `SHINGLES_AT_ONCE` shingles together."""
    if len(rows):
        numbers = np.cumsum(sizes[rows]) // SHINGLES_AT_ONCE
        yield from np.split(rows, np.flatnonzero(np.diff(numbers)) + 1)


def _jaccard(row_set: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Jaccard similarity of a sorted set to others, (n,) float64, raised by `_ROUNDING`."""
    flat = np.concatenate(others)
    places = np.minimum(np.searchsorted(row_set, flat), len(row_set) - 1)
    shared = np.concatenate([[0], np.cumsum(row_set[places] == flat)])
    sizes = np.array([len(other) for other in others])
    ends = np.cumsum(sizes)
    both = shared[ends] - shared[ends - sizes]
    return both / (len(row_set) + sizes - both) + _ROUNDING


def _first_equal(digests: np.ndarray) -> np.ndarray:
    """The first row whose set equals that of each row, (n,) int64."""
    _, first, group = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    return first[group.reshape(-1)]


class _Buckets:
    """Which of some rows agree in a band; rows of their own in every band are dropped.

    Args:
        hashes: of all rows in the order of preference, (n, bands) uint64.
        among: the rows that are compared, ascending.
    """

    def __init__(self, hashes: np.ndarray, among: np.ndarray) -> None:
        self._members: list[np.ndarray] = []  # rows of shared buckets, bucket by bucket, ascending
        self._ends: list[np.ndarray] = []  # where the bucket of each member ends
        self._places: list[np.ndarray] = []  # of each row among the members, -1 where it is alone
        self._settled: list[np.ndarray] = []  # by the end of a bucket: nothing in it is open
        busy = np.zeros(len(hashes), bool)
        for band in hashes.T:
            own = band[among]
            order = np.argsort(own, kind="stable")
            sorted_ = own[order]
            starts = np.flatnonzero(np.concatenate([[True], sorted_[1:] != sorted_[:-1]]))
            counts = np.diff(np.append(starts, len(order)))
            shared = np.repeat(counts > 1, counts)
            members = among[order[shared]].astype(np.int32)
            places = np.full(len(hashes), -1, np.int32)
            places[members] = np.arange(len(members))
            several = counts[counts > 1]
            self._members.append(members)
            self._ends.append(np.repeat(np.cumsum(several), several).astype(np.int32))
            self._places.append(places)
            self._settled.append(np.zeros(len(members) + 1, bool))
            busy[members] = True
        self.rows = np.flatnonzero(busy)

    def candidates(self, row: int, linkage: Linkage) -> np.ndarray:
        """The later rows that share a bucket with a row and matter to the clusters, (n,) int64."""
        found = [np.empty(0, np.int64)]
        if not linkage.leads(row):
            return found[0]
        for members, ends, places, settled in zip(
            self._members, self._ends, self._places, self._settled, strict=True
        ):
            place = places[row]
            if place < 0 or settled[ends[place]]:
                continue
            later = members[place + 1 : ends[place]].astype(np.int64)
            matters = linkage.matters(np.full(len(later), row), later)
            settled[ends[place]] = not matters.any()
            found.append(later[matters])
        return np.unique(np.concatenate(found))

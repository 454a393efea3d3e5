"""A map of the pool: each row's place in the plane, by the vectors of a feature.

A map is made once for each feature and kept in the store as an annotation: rows that came since
are placed among those that are on it. A large pool is drawn by a sample of its rows; each of the
others is put between the nearest of these.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..schemas.errors import MissingFeatureError, ReadOnlyStoreError, UsageError
from ..schemas.plain_text import count_of
from ..schemas.stored_vectors import vectors_of
from .features import Feature
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..store.store import Store

SAMPLE = 20_000
"""Rows that a map is drawn by; the others are placed between these."""

COMPONENTS = 50
"""Principal components that t-SNE sees."""

PLACED_BY = 5

_BLOCK = 2048
_FEW = 8
"""Rows of a block that are merged one by one, for each neighbour that is kept."""

_SEED = 0

Say = Callable[[str], None]


def map_feature(snapshot: Snapshot, name: str | None) -> Feature:
    """The feature of that name; `rds`, or the first one with vectors, for None."""
    if name is not None:
        feature = snapshot.feature(name)
        if feature.column is None:
            raise MissingFeatureError(f"{name} has no vectors that a map could be drawn by")
        return feature
    with_vectors = [each for each in snapshot.features.values() if each.column]
    if not with_vectors:
        raise MissingFeatureError(
            f"{snapshot.store.uri} has no feature with vectors. Add one: coresetdb featurize "
            f"{snapshot.store.typed} rds"
        )
    return next((each for each in with_vectors if each.name == "rds"), with_vectors[0])


class FeatureVectors:
    """The rows that have a feature, in the order of the pool, and their vectors.

    Attributes:
        ids: of the rows.
        matrix: (N, d) float16.
    """

    def __init__(self, snapshot: Snapshot, feature: Feature) -> None:
        assert feature.column is not None
        ids: list[str] = []
        parts = [np.empty((0, feature.width), np.float16)]
        columns = ["id", feature.column]
        for batch in snapshot.pool.scanner(columns=columns, batch_size=_BLOCK).to_batches():
            column = batch.column(feature.column)
            present = column.is_valid()
            ids += batch.column("id").filter(present).to_pylist()
            parts.append(vectors_of(column).astype(np.float16))
        self.ids, self.matrix = ids, np.concatenate(parts)

    def nearest(self, start: int, stop: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows nearest to those from start to stop: places and 1 - cosine, (n, count) each."""
        rows = _unit(self.matrix[start:stop])
        step = 4 * _BLOCK
        # Neighbours often lie close by in the pool. Behind the rows' own block few are nearer.
        own = start // step * step
        blocks = [own, *(at for at in range(0, len(self.matrix), step) if at != own)]
        best = np.empty((len(rows), 0), np.float32)
        where = np.empty((len(rows), 0), np.int64)
        for at in blocks:
            cosines = rows @ _unit(self.matrix[at : at + step]).T
            if best.shape[1] == count:
                nearer = cosines > best[:, -1:]
                if np.count_nonzero(nearer) <= _FEW * best.size:
                    of, column = np.nonzero(nearer)
                    best, where = _merged(best, where, of, at + column, cosines[of, column])
                    continue
            near, columns = _highest(cosines, count)
            best, where = np.hstack([best, near]), np.hstack([where, at + columns])
            best, columns = _highest(best, count)
            where = np.take_along_axis(where, columns, 1)
        return where, np.maximum(0.0, 1.0 - best)


def _highest(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` highest of each row (n, m), highest first, and their columns, (n, count) each."""
    most = min(count, values.shape[1])
    columns = np.argpartition(-values, most - 1, axis=1)[:, :most]
    found = np.take_along_axis(values, columns, 1)
    order = np.lexsort((columns, -found), axis=1)
    return np.take_along_axis(found, order, 1), np.take_along_axis(columns, order, 1)


def _merged(
    best: np.ndarray, where: np.ndarray, of: np.ndarray, places: np.ndarray, cosines: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest (n, count) of each row among those known and further ones.

    Args:
        best, where: cosines and places of those known, (n, count), nearest first.
        of, places, cosines: of the further ones (k,): of which row, where, how near.
    """
    rows, count = best.shape
    every_row = np.concatenate([np.arange(rows).repeat(count), of])
    every_cosine = np.concatenate([best.ravel(), cosines])
    every_place = np.concatenate([where.ravel(), places])
    order = np.lexsort((every_place, -every_cosine, every_row))
    starts = np.searchsorted(every_row[order], np.arange(rows))
    kept = order[starts[:, None] + np.arange(count)]
    return every_cosine[kept], every_place[kept]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, d) as float32 of length 1, which float16 misses a little."""
    wide = vectors.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


@dataclass(frozen=True)
class PoolMap:
    """Places of the rows that have a feature.

    Attributes:
        feature: its name.
        ids: of the rows.
        places: (N, 2) float32.
        kept: whether the store has them in the columns `map_columns(feature)`.
    """

    feature: str
    ids: Sequence[str]
    places: np.ndarray
    kept: bool


def open_map(store: Store, feature: str | None = None, say: Say = lambda sentence: None) -> PoolMap:
    """Return the map of a feature; it is made, or completed, where rows have no place yet.

    Args:
        store: an open store.
        feature: by whose vectors the map is drawn; `rds` or the first with vectors by default.
        say: receives a sentence on each step.

    Raises:
        UsageError: a map has to be made and scikit-learn is not installed.
        MissingFeatureError: the pool has no such feature, or no row has it.
        StoreBusyError: another process is filling columns, or maintains the store.
    """
    snapshot = Snapshot(store)
    chosen = map_feature(snapshot, feature)
    columns = map_columns(chosen.name)
    if set(columns) <= set(snapshot.pool.schema.names):
        x = columns[0]
        unplaced = snapshot.pool.count_rows(f"{x} IS NULL AND {chosen.column} IS NOT NULL")
        if not unplaced:  # the vectors need not be read
            known = snapshot.pool.to_table(columns=["id", *columns], filter=f"{x} IS NOT NULL")
            stored = [known[name].to_numpy().astype(np.float32) for name in columns]
            return PoolMap(chosen.name, known["id"].to_pylist(), np.stack(stored, axis=1), True)
    vectors = FeatureVectors(snapshot, chosen)
    if not len(vectors.ids):
        raise MissingFeatureError(f"no row of {store.uri} has {chosen.name}")
    places, kept = map_places(store, snapshot, chosen, vectors, say)
    return PoolMap(chosen.name, vectors.ids, places, kept)


def map_columns(feature: str) -> tuple[str, str]:
    """The columns of the pool that hold a row's place on the map of a feature."""
    return f"map_{feature}_x", f"map_{feature}_y"


def place_columns(names: Collection[str]) -> set[str]:
    """Those of a pool's columns that hold places on maps, of any feature."""
    return {
        name
        for name in names
        if name.startswith("map_") and name[-2:] in ("_x", "_y") and f"{name[:-2]}_missing" in names
    }


def map_places(
    store: Store, snapshot: Snapshot, feature: Feature, vectors: FeatureVectors, say: Say
) -> tuple[np.ndarray, bool]:
    """Each row's place, (N, 2) float32, and whether the store keeps it."""
    columns = map_columns(feature.name)
    places = np.full((len(vectors.ids), 2), np.nan, np.float32)
    if set(columns) <= set(snapshot.pool.schema.names):
        known = snapshot.pool.to_table(columns=["id", *columns])
        by_id = dict(zip(known["id"].to_pylist(), range(known.num_rows), strict=True))
        rows = np.array([by_id[row_id] for row_id in vectors.ids])
        stored = [known[name].to_numpy(zero_copy_only=False) for name in columns]
        places = np.stack([values[rows].astype(np.float32) for values in stored], axis=1)
    missing = np.flatnonzero(np.isnan(places[:, 0]))
    if not len(missing):
        return places, True
    if len(missing) == len(places):
        say(f"a map of {count_of(len(places), 'row')} by {feature.name}")
        places = project(vectors.matrix)
    else:
        say(f"a place on the map for {count_of(len(missing), 'row')}")
        there = np.flatnonzero(~np.isnan(places[:, 0]))
        reduced = _components(vectors.matrix, there)
        places[missing] = _between(reduced[there], places[there], reduced[missing])
    return places, _keep(store, feature, vectors.ids, places, missing)


def project(vectors: np.ndarray) -> np.ndarray:
    """Return a place in the plane for each unit vector: (N, d) -> (N, 2) float32.

    t-SNE (Barnes-Hut, perplexity 30) of the first 50 principal components. Above SAMPLE rows it is
    of a seeded sample, and the others are placed at the mean of their PLACED_BY nearest ones, the
    nearer the heavier. The same vectors have the same places.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UsageError(
            "a map needs the package scikit-learn: pip install 'coresetdb[atlas]'"
        ) from error
    rows = len(vectors)
    if rows < 5:  # too few to have neighbourhoods
        angles = 2 * np.pi * np.arange(rows) / max(rows, 1)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    sample = np.arange(rows)
    if rows > SAMPLE:
        sample = np.sort(np.random.default_rng(_SEED).choice(rows, SAMPLE, replace=False))
    reduced = _components(vectors, sample)
    perplexity = min(30.0, (len(sample) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=_SEED)
    drawn = tsne.fit_transform(reduced[sample]).astype(np.float32)
    if len(sample) == rows:
        return drawn
    places = np.empty((rows, 2), np.float32)
    places[sample] = drawn
    others = np.setdiff1d(np.arange(rows), sample)
    places[others] = _between(reduced[sample], drawn, reduced[others])
    return places


def _components(vectors: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """All vectors in the first principal components of some of them, (N, c) float32."""
    from sklearn.decomposition import PCA

    some = vectors[sample[:: max(1, len(sample) // SAMPLE)]].astype(np.float32)
    pca = PCA(min(COMPONENTS, *some.shape), random_state=_SEED).fit(some)
    blocks = range(0, len(vectors), 4 * _BLOCK)
    parts = [pca.transform(vectors[at : at + 4 * _BLOCK].astype(np.float32)) for at in blocks]
    return np.concatenate(parts).astype(np.float32)


def _between(known: np.ndarray, places: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Places of rows between those of the nearest known ones."""
    from sklearn.neighbors import KNeighborsRegressor

    placer = KNeighborsRegressor(min(PLACED_BY, len(known)), weights="distance", algorithm="brute")
    return placer.fit(known, places).predict(rows).astype(np.float32)


def _keep(
    store: Store, feature: Feature, ids: Sequence[str], places: np.ndarray, new: np.ndarray
) -> bool:
    """Keep new places as an annotation of the pool; False where the store cannot be written to."""
    from ..ingest.attachments.annotate import annotate
    from ..ingest.readers.options import ReadOptions

    x, y = map_columns(feature.name)
    rows = pa.table(
        {
            "id": pa.array([ids[at] for at in new], pa.string()),
            x: pa.array(places[new, 0].astype(np.float64)),
            y: pa.array(places[new, 1].astype(np.float64)),
        }
    )
    try:
        annotate(store, rows, ReadOptions(), name=f"map_{feature.name}")
    except ReadOnlyStoreError:
        return False
    return True

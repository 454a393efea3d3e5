"""The pool as embedding-atlas reads it: rows with a place on a map, neighbours and scores.

The map is made once for each feature and kept in the store as an annotation: rows that came since
are placed among those that are on it. A large pool is drawn by a sample of its rows; each of the
others is put between the nearest of these.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.conversations import conversation_columns, conversations_in
from ..schemas.errors import MissingFeatureError, ReadOnlyStoreError, UsageError
from ..schemas.plain_text import LinesResult, count_of
from ..schemas.stored_vectors import vectors_of
from .coresets import coreset_names
from .distributions import numeric_columns
from .export import check_folder, replacing
from .features import Feature
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..store.store import Store

SAMPLE = 20_000
"""Rows that a map is drawn by; the others are placed between these."""

COMPONENTS = 50
"""Principal components that t-SNE sees."""

PLACED_BY = 5
NEIGHBOURS = 15
MOST_COMPARED = 100_000
"""Rows of a pool whose neighbours are found without being asked for: every pair is compared."""

_MARK = {b"coresetdb": b"atlas"}
"""Metadata by which a file is known to be such an export."""

_BLOCK = 2048
_SEED = 0

Say = Callable[[str], None]


@dataclass(frozen=True, repr=False)
class AtlasExport(LinesResult):
    """A file for embedding-atlas.

    Attributes:
        out: its name.
        rows: of the pool, all of them.
        feature: by whose vectors the map was drawn.
        placed: rows that have a place; the others lack the feature.
        neighbours: of each row; 0 for none.
        scores: columns of scores.
        notes: sentences for the user.
    """

    out: str
    rows: int
    feature: str
    placed: int
    neighbours: int
    scores: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The account, and the command that opens it."""
        near = " --neighbors neighbors" if self.neighbours else ""
        lines = [f"{self.out}: {count_of(self.rows, 'row')}, placed by {self.feature}"]
        if lacking := self.rows - self.placed:
            lines.append(f"  left out: {count_of(lacking, 'row')} without {self.feature}")
        return [
            *lines,
            *(f"  {note}" for note in self.notes),
            f"embedding-atlas {self.out} --text text --x projection_x --y projection_y{near}",
        ]


def export_atlas(
    store: Store,
    out: str,
    *,
    feature: str | None = None,
    neighbours: int | None = None,
    overwrite: bool = False,
    say: Say = lambda sentence: None,
) -> AtlasExport:
    """Write the rows of the pool that have a feature as a Parquet file for embedding-atlas.

    Columns: id, corpus, text, projection_x, projection_y, neighbors (`ids`, numbers of rows in this
    file, nearest first and the row itself among them; `distances`, 1 - cosine), coresets (names),
    the numbers of the pool, and the newest scores of each target and method.

    Args:
        store: an open store.
        out: a file named .parquet.
        feature: by whose vectors the map is drawn; `rds` or the first with vectors by default.
        neighbours: of each row; by default NEIGHBOURS, and none above MOST_COMPARED rows.
        overwrite: replace a file even if coresetdb did not write it.
        say: receives a sentence on each step.

    Raises:
        UsageError: another suffix, a file that is there, or scikit-learn is not installed.
        MissingFeatureError: the pool has no such feature, or no vectors at all.
        OutputError: the file cannot be written.
    """
    check_atlas(out, overwrite)
    if neighbours is not None and not 0 <= neighbours <= 1000:
        raise UsageError(f"neighbours {neighbours}: choose 0 to 1000")
    snapshot = Snapshot(store)
    chosen = _feature(snapshot, feature)
    vectors = _Vectors(snapshot, chosen)
    if not len(vectors.ids):
        raise MissingFeatureError(f"no row of {store.uri} has {chosen.name}")
    notes = []
    places, kept = _places(store, snapshot, chosen, vectors, say)
    if not kept:
        notes.append(f"the map is not kept, because {store.uri} cannot be written to")
    count = neighbours
    if count is None:
        count = NEIGHBOURS if len(vectors.ids) <= MOST_COMPARED else 0
        if not count:
            notes.append(
                f"without neighbours: finding them compares every pair of {len(vectors.ids):,} "
                f"rows; --neighbours {NEIGHBOURS} does it"
            )
    count = min(count, len(vectors.ids))
    if count:
        say(f"the {count} nearest of {count_of(len(vectors.ids), 'row')}")
    scores = _scores(store, vectors.ids)
    with replacing(out) as part:
        _write(part, snapshot, vectors, places, count, scores)
    return AtlasExport(
        out,
        snapshot.pool.count_rows(),
        chosen.name,
        len(vectors.ids),
        count,
        tuple(scores),
        tuple(notes),
    )


def check_atlas(out: str, overwrite: bool) -> None:
    """Refuse a file that must not be written, before anything is computed.

    Raises:
        UsageError: another suffix, it cannot be written there, or there is a file of that name
            that no such export wrote.
    """
    if not out.endswith(".parquet"):
        raise UsageError(f"{out}: embedding-atlas reads Parquet; name the file .parquet")
    check_folder(out)
    if os.path.exists(out) and not overwrite and not _is_ours(out):
        raise UsageError(
            f"{out}: this file exists and coresetdb did not write it. Choose another name, or "
            "replace it with --overwrite (in Python overwrite=True)"
        )


def _is_ours(out: str) -> bool:
    import pyarrow.parquet as pq

    try:
        return _MARK.items() <= (pq.read_schema(out).metadata or {}).items()
    except (OSError, pa.ArrowException):  # no Parquet file
        return False


def _feature(snapshot: Snapshot, name: str | None) -> Feature:
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


class _Vectors:
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
        best = np.full((stop - start, 0), 0.0, np.float32)
        where = np.zeros((stop - start, 0), np.int64)
        for at in range(0, len(self.matrix), 4 * _BLOCK):
            others = _unit(self.matrix[at : at + 4 * _BLOCK])
            cosines = np.concatenate([best, rows @ others.T], axis=1)
            numbers = np.arange(at, at + len(others))
            known = np.concatenate([where, np.broadcast_to(numbers, (len(rows), len(numbers)))], 1)
            most = min(count, cosines.shape[1])
            top = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
            best, where = np.take_along_axis(cosines, top, 1), np.take_along_axis(known, top, 1)
        order = np.lexsort((where, -best), axis=1)
        best, where = np.take_along_axis(best, order, 1), np.take_along_axis(where, order, 1)
        return where, np.maximum(0.0, 1.0 - best)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, d) as float32 of length 1, which float16 misses a little."""
    wide = vectors.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def map_columns(feature: str) -> tuple[str, str]:
    """The columns of the pool that hold a row's place on the map of a feature."""
    return f"map_{feature}_x", f"map_{feature}_y"


def _places(
    store: Store, snapshot: Snapshot, feature: Feature, vectors: _Vectors, say: Say
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


def _scores(store: Store, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """The newest scores of each target and method, (N,) float32 with NaN for none."""
    table = store.dataset("scores").to_table(
        columns=["target", "method", "pool_version", "id", "score"]
    )
    if not table.num_rows:
        return {}
    newest: dict[tuple[str, str], int] = {}
    sets = table.group_by(["target", "method", "pool_version"]).aggregate([]).to_pylist()
    for row in sets:
        key = row["target"], row["method"]
        newest[key] = max(newest.get(key, 0), row["pool_version"])
    place = {row_id: at for at, row_id in enumerate(ids)}
    columns = {}
    for (target, method), version in sorted(newest.items()):
        values = np.full(len(ids), np.nan, np.float32)
        own = table.filter(
            (pc.field("target") == target)
            & (pc.field("method") == method)
            & (pc.field("pool_version") == version)
        )
        for row_id, score in zip(own["id"].to_pylist(), own["score"].to_pylist(), strict=True):
            if row_id in place:
                values[place[row_id]] = score
        columns[f"score {method} {target}"] = values
    return columns


def _write(
    part: str,
    snapshot: Snapshot,
    vectors: _Vectors,
    places: np.ndarray,
    count: int,
    scores: dict[str, np.ndarray],
) -> None:
    import pyarrow.parquet as pq

    writer = None
    try:
        for table in _tables(snapshot, vectors, places, count, scores):
            writer = writer or pq.ParquetWriter(part, table.schema)
            writer.write_table(table)
    finally:
        if writer:
            writer.close()


def _tables(
    snapshot: Snapshot,
    vectors: _Vectors,
    places: np.ndarray,
    count: int,
    scores: dict[str, np.ndarray],
) -> Iterator[pa.Table]:
    """The rows in parts, in the order of the pool."""
    schema = snapshot.pool.schema
    places_of = {column for name in snapshot.features for column in map_columns(name)}
    numbers = [name for name in numeric_columns(schema) if name not in places_of]
    plain = [*(["lang"] if "lang" in schema.names else []), *numbers]
    columns = list(dict.fromkeys(["id", "corpus", *conversation_columns(schema), *plain]))
    members = _memberships(snapshot.store)
    start = 0
    for rows in snapshot.stream(vectors.ids, columns, _BLOCK):
        stop = start + rows.num_rows
        texts = [
            "\n\n".join(turn.content for turn in each.messages if turn.content)
            for each in conversations_in(rows)
        ]
        ids = rows["id"].to_pylist()
        shown: dict[str, Any] = {
            "id": rows["id"],
            "corpus": rows["corpus"],
            "text": pa.array(texts, pa.string()),
            "projection_x": pa.array(places[start:stop, 0], pa.float32()),
            "projection_y": pa.array(places[start:stop, 1], pa.float32()),
        }
        if count:
            shown["neighbors"] = _neighbours(vectors, start, stop, count)
        shown["coresets"] = pa.array(
            [", ".join(members.get(row_id, ())) for row_id in ids], pa.string()
        )
        shown |= {name: rows[name] for name in plain if name not in shown}
        shown |= {
            name: pa.array(values[start:stop], pa.float32(), from_pandas=True)
            for name, values in scores.items()
        }
        yield pa.table(shown).replace_schema_metadata(_MARK)
        start = stop


def _neighbours(vectors: _Vectors, start: int, stop: int, count: int) -> pa.StructArray:
    where, distances = vectors.nearest(start, stop, count)
    offsets = pa.array(np.arange(0, where.size + 1, count, dtype=np.int32))
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(where.ravel(), pa.int64())),
        pa.ListArray.from_arrays(offsets, pa.array(distances.ravel(), pa.float32())),
    ]
    return pa.StructArray.from_arrays(lists, ["ids", "distances"])


def _memberships(store: Store) -> dict[str, list[str]]:
    """Row id -> names of the coresets that have it."""
    known = set(coreset_names(store))
    found: dict[str, list[str]] = {}
    rows = store.dataset("coreset_rows").to_table(columns=["coreset", "id"]).sort_by("coreset")
    for name, row_id in zip(rows["coreset"].to_pylist(), rows["id"].to_pylist(), strict=True):
        if name in known:
            found.setdefault(row_id, []).append(name)
    return found

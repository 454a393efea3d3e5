"""The pool as embedding-atlas reads it: rows with a place on a map, neighbours and scores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.conversations import conversation_columns, conversations_in
from ..schemas.errors import MissingFeatureError, UsageError
from ..schemas.plain_text import LinesResult, count_of
from .coresets import coreset_names
from .distributions import numeric_columns
from .export import check_folder, replacing
from .maps import FeatureVectors, Say, map_feature, map_places, place_columns
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..store.store import Store

NEIGHBOURS = 15
MOST_COMPARED = 100_000
"""Rows of a pool whose neighbours are found without being asked for: every pair is compared."""

_MARK = {b"coresetdb": b"atlas"}
"""Metadata by which a file is known to be such an export."""

_BLOCK = 2048


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
    chosen = map_feature(snapshot, feature)
    vectors = FeatureVectors(snapshot, chosen)
    if not len(vectors.ids):
        raise MissingFeatureError(f"no row of {store.uri} has {chosen.name}")
    notes = []
    places, kept = map_places(store, snapshot, chosen, vectors, say)
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
    vectors: FeatureVectors,
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
    vectors: FeatureVectors,
    places: np.ndarray,
    count: int,
    scores: dict[str, np.ndarray],
) -> Iterator[pa.Table]:
    """The rows in parts, in the order of the pool."""
    schema = snapshot.pool.schema
    of_maps = place_columns(schema.names)
    numbers = [name for name in numeric_columns(schema) if name not in of_maps]
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


def _neighbours(vectors: FeatureVectors, start: int, stop: int, count: int) -> pa.StructArray:
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

"""Index a feature for `select --approximate`, or take new rows into its index.

The centres of an index's partitions are found by spherical k-means on a seeded sample of the
vectors: Lance, and LanceDB with it, would find them itself, but slowly on float16 (measured: 236 s
instead of 14 s).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from ..schemas.errors import CoresetDBError, MissingFeatureError, StoreBusyError, UsageError
from ..store import indices, removal
from ..store.features import completion
from ..store.indices import VectorIndex, indices_of
from .features import Feature
from .snapshot import Snapshot

if TYPE_CHECKING:
    import lance
    import torch

    from ..store.store import Store

log = logging.getLogger(__name__)

MOST_PARTITIONS = 4096
ROWS_PER_PARTITION = 64
"""Of the sample, as far as..."""
_SAMPLE_BYTES = 128 << 20
"""... its float16 vectors fit in this; beside them stand as many float32."""

_ITERATIONS = 10
_BLOCK = 4096
_SEED = 0


def partitions_for(rows: int) -> int:
    """About the square root of the rows, as a power of two."""
    return min(MOST_PARTITIONS, 1 << round(np.log2(max(rows, 1)) / 2))


def centroids_of(
    dataset: lance.LanceDataset, column: str, width: int, partitions: int
) -> np.ndarray:
    """Centres of at most that many partitions, (p, d) float16 unit vectors; none without vectors.

    Args:
        dataset: the pool.
        column: fixed-size lists of float16 unit vectors.
        width: d.
        partitions: how many are wanted; fewer are found where there are fewer vectors.
    """
    import torch

    rows = dataset.count_rows()
    generator = np.random.default_rng(_SEED)
    count = min(
        rows, partitions * ROWS_PER_PARTITION, max(partitions, _SAMPLE_BYTES // (2 * width))
    )
    places = np.sort(generator.choice(rows, count, replace=False)) if count else np.empty(0, int)
    taken = dataset.take(places.tolist(), columns=[column])[column].combine_chunks()
    vectors = np.array(taken.flatten()).reshape(-1, width)
    partitions = min(partitions, len(vectors))
    if not partitions:
        return np.empty((0, width), np.float16)
    sample = torch.from_numpy(vectors.astype(np.float32))
    first = np.sort(generator.choice(len(sample), partitions, replace=False))
    centres = sample[torch.from_numpy(first)].clone()
    for _ in range(_ITERATIONS):
        nearest = torch.cat([(block @ centres.T).argmax(1) for block in sample.split(_BLOCK)])
        centres = _moved(sample, nearest, centres)
    return centres.numpy().astype(np.float16)


def _moved(sample: torch.Tensor, nearest: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """The mean direction of each centre's vectors; a centre of none stays where it is."""
    import torch

    sums = torch.zeros_like(centres).index_add_(0, nearest, sample)
    lengths = sums.norm(dim=1, keepdim=True)
    return torch.where(lengths > 1e-6, sums / lengths.clamp(min=1e-6), centres)


_OUTGROWN = 2
"""An index is built anew once a pool of its size would get this many times its partitions..."""
_MOST_PARTS = 8
"""... or once it would have more parts than these."""


@dataclass(frozen=True)
class Indexed:
    """An index and what became of it just now."""

    index: VectorIndex
    done: Literal["built", "extended", "unchanged"]


def index_feature(store: Store, name: str) -> Indexed:
    """Index the vectors of a feature, or take in the rows that came since.

    A pool that has grown to four times its size gets a new index, and so does one whose index took
    rows in seven times.

    Args:
        store: an open store.
        name: of a feature that rows are compared by cosine with.

    Raises:
        UsageError: the feature has no vectors.
        MissingFeatureError: there is no such feature, or no row has it yet.
        StoreError: other writers were quicker every time, or the disk is full.
    """
    feature = Snapshot(store).feature(name)
    column = _column(store, feature)
    dataset = store.dataset("pool")
    wanted = partitions_for(dataset.count_rows())
    there = indices_of(dataset).get(column)
    if there and wanted < _OUTGROWN * there.partitions and len(there.parts) < _MOST_PARTS:
        indices.drop_others(store, there)
        if not there.outside:
            return Indexed(there, "unchanged")
        indices.extend(store, there)
        return _now(store, column, "extended")
    centres = centroids_of(dataset, column, feature.width, wanted)
    if not len(centres):
        raise MissingFeatureError(
            f"no row of {store.uri} has {feature.name}, there is nothing to index: "
            f"{completion(store, feature.recipe)}"
        )
    kind = "IVF_RQ" if feature.width % 8 == 0 else "IVF_SQ"
    flat = pa.array(centres.ravel())
    indices.build(store, column, kind, pa.FixedSizeListArray.from_arrays(flat, feature.width))
    return _now(store, column, "built")


def drop_index(store: Store, name: str) -> VectorIndex:
    """Remove the index of a feature.

    Raises:
        UsageError: it has none.
        MissingFeatureError: there is no such feature.
    """
    column = _column(store, Snapshot(store).feature(name))
    there = indices_of(store.dataset("pool"))
    if column not in there:
        raise UsageError(
            f"{name} of {store.uri} has no index; indices: {', '.join(there) or 'none'}"
        )
    indices.drop(store, there[column])
    store.sync()
    return there[column]


_LOCK = "index"


@dataclass(frozen=True)
class Remade:
    """What became of indices that were dropped to be made again.

    Attributes:
        columns: whose index is there again.
        gone: columns, or names of others' indices, that get none, and why.
    """

    columns: tuple[str, ...] = ()
    gone: dict[str, str] = field(default_factory=dict)


def remake_indices(store: Store, wait: float = 600.0) -> Remade:
    """Make the indices again that a purge or a repair dropped, whether it was killed or not.

    While rows are on their way out nothing is done: the purge that is at them does it in the end.

    Args:
        store: an open store.
        wait: seconds for another process that is at the same.

    Raises:
        StoreBusyError: another process is at it.
        StoreError: as `index_feature`.
    """
    if not indices.owed(store.dataset("pool")) or removal.unsettled(store):
        return Remade()
    with store.named_lock(_LOCK, wait):
        return _remake(store)


def remake_indices_if_killed(store: Store) -> None:
    """Make the indices again that a purge or a repair dropped, where nobody is at it."""
    try:
        # Whoever holds the store alone makes them in the end.
        with store.lock(shared=True, wait=0.0), store.named_lock(_LOCK, wait=0.0):
            pool = store.dataset("pool")
            ours = sorted(set(indices.owed(pool)) - set(indices.owed_by_others(pool)))
            if removal.unsettled(store):
                return
            if ours:
                log.warning(
                    "%s: a purge or a repair dropped the index of %s; making it again, which may "
                    "take minutes",
                    store.uri,
                    ", ".join(ours),
                )
            for sentence in _sentences(_remake(store)):
                log.warning("%s: %s", store.uri, sentence)
    except StoreBusyError:
        log.info("%s: another process maintains it, or is making its indices", store.uri)
    except CoresetDBError as error:
        log.warning("%s: indices that were dropped cannot be made again: %s", store.uri, error)


def indices_made_again(store: Store, wait: float = 600.0) -> list[str]:
    """Do `remake_indices`, and say of each index what became of it, without a full stop."""
    return _sentences(remake_indices(store, wait))


def _remake(store: Store) -> Remade:
    """The work of `remake_indices`, whose lock the caller holds."""
    features = Snapshot(store).features.items()
    names = {feature.column: name for name, feature in features if feature.column}
    others = indices.owed_by_others(store.dataset("pool"))
    columns, gone = [], {}
    for column in indices.owed(store.dataset("pool")):
        if column in others:
            gone[column] = "another tool made it; make it again there"
        elif column not in names:
            gone[column] = "the feature is gone"
        else:
            try:
                index_feature(store, names[column])
            except MissingFeatureError:
                gone[column] = "no row has the feature any more"
            else:
                columns.append(column)
        indices.strike_off(store, [column])
    return Remade(tuple(columns), gone)


def _sentences(remade: Remade) -> list[str]:
    made = [f"made the index of {column} again" for column in remade.columns]
    return made + [f"the index {name} stays dropped: {why}" for name, why in remade.gone.items()]


def _now(store: Store, column: str, done: Literal["built", "extended"]) -> Indexed:
    store.sync()
    return Indexed(indices_of(store.dataset("pool"))[column], done)


def _column(store: Store, feature: Feature) -> str:
    if feature.is_coded:
        raise UsageError(
            f"{feature.name} is stored as {feature.recipe.stored_dtype}, which Lance has no index "
            "for: selections compare every row. To have one, make it in float16: coresetdb "
            "featurize "
            f"{store.typed} {feature.representation.name}:stored=float16"
        )
    if feature.column is None:
        fitting = [name for name, each in Snapshot(store).features.items() if each.column]
        raise UsageError(
            f"{feature.name} is not compared by cosine and needs no index; "
            f"features with vectors: {', '.join(fitting) or 'none'}"
        )
    return feature.column

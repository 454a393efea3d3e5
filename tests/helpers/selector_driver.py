"""Drive a selector over a pool in memory, block by block, through the same `rank` as a store's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from coresetdb.query.comparison import Comparison, QueryGroup
from coresetdb.query.methods import Method
from coresetdb.query.ranking import Picks, merged_picks
from coresetdb.query.scanning.fetch import SAMPLE_SEED
from coresetdb.query.scanning.reducers import Block
from coresetdb.query.scanning.rows import Scanned
from coresetdb.schemas.ids import IdSet, keys_of
from coresetdb.selectors.random_order import shuffled
from coresetdb.selectors.reductions import (
    Columns,
    RowColumns,
    RowVectors,
    RowWords,
    SampledVectors,
)
from coresetdb.selectors.registry import selectors


@dataclass(frozen=True)
class Pool:
    """Rows with everything that a selector may look at, and one target.

    Attributes:
        ids: (N,) of the rows.
        similarity: (M, N) float32 to the target's examples.
        vectors: (N, d) float16 unit vectors.
        sets: units of every row.
        columns: of the pool, (N,) each.
        words: of every row, at least one.
        units: that the target's examples hold.
        lengths: response tokens of the target's examples.
        query_words: of each of the target's examples.
    """

    ids: list[str]
    similarity: np.ndarray
    vectors: np.ndarray | None = None
    sets: list[list[int]] | None = None
    words: list[list[int]] | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    units: np.ndarray | None = None
    lengths: np.ndarray | None = None
    query_words: tuple[np.ndarray, ...] = ()

    @property
    def keys(self) -> np.ndarray:
        return keys_of(pa.array(self.ids, pa.string()))

    def taken(self, order: Sequence[int]) -> Pool:
        """The same pool with its rows in another order, or some of them."""
        at = np.asarray(order, int)
        return replace(
            self,
            ids=[self.ids[j] for j in at],
            similarity=self.similarity[:, at],
            vectors=None if self.vectors is None else self.vectors[at],
            sets=None if self.sets is None else [self.sets[j] for j in at],
            words=None if self.words is None else [self.words[j] for j in at],
            columns={name: each[at] for name, each in self.columns.items()},
        )


def drive(
    name: str,
    pool: Pool,
    k: int,
    *,
    seed: int = 0,
    blocks: Sequence[int] = (7,),
    options: Mapping[str, Any] | None = None,
) -> Picks:
    """Return what the selector picks when the pool is cut into blocks of these sizes in turn.

    The examples are called "0", "1" and so on.
    """
    selector = selectors()[name]
    chosen = {key: option.default for key, option in selector.options.items()} | dict(options or {})
    queries = len(pool.similarity)
    examples = tuple(str(number) for number in range(queries))
    keys = pool.keys

    def scan(reducers, eligible) -> Scanned:
        at, turn = 0, 0
        while at < len(keys):
            end = min(at + blocks[turn % len(blocks)], len(keys))
            sets = None if pool.sets is None else pa.array(pool.sets[at:end], pa.list_(pa.int32()))
            similarity = torch.from_numpy(np.ascontiguousarray(pool.similarity[:, at:end]))
            words = None if pool.words is None else row_words(keys[at:end], pool.words[at:end])
            for reducer in reducers:
                reducer.feed(Block(keys[at:end], similarity, sets, words))
            at, turn = end, turn + 1
        return Scanned(len(keys), 0, 0, len(keys))

    def fetch(need, eligible: IdSet | None) -> RowVectors | RowColumns:
        by_id = np.lexsort((keys[:, 1], keys[:, 0]))
        if isinstance(need, Columns):
            return RowColumns(keys[by_id], {name: pool.columns[name][by_id] for name in need.names})
        assert pool.vectors is not None
        if isinstance(need, SampledVectors):
            drawn = shuffled(keys, SAMPLE_SEED)[: need.rows]
            return RowVectors(keys[drawn], pool.vectors[drawn])
        if need.keys is None:
            return RowVectors(keys[by_id], pool.vectors[by_id])
        place = {tuple(key): j for j, key in enumerate(keys.tolist())}
        rows = [place[tuple(key)] for key in need.keys.tolist()]
        return RowVectors(need.keys, pool.vectors[rows])

    group = QueryGroup("t", queries, examples, pool.units, pool.lengths, pool.query_words)
    width = 0 if pool.vectors is None else pool.vectors.shape[1]
    picks, _ = merged_picks(
        Method(None, None, selector, chosen, {}),
        Comparison((group,), scan, fetch, 4, width),
        k=min(k, len(keys)),
        rows=len(keys),
        seed=seed,
        eligible=None,
    )
    return picks


def row_words(keys: np.ndarray, words: Sequence[Sequence[int]]) -> RowWords:
    """The words of some rows as a scan brings them."""
    starts = np.cumsum([0, *map(len, words)])
    return RowWords(keys, starts, np.array([each for row in words for each in row], np.int32))


def random_ids(generator: np.random.Generator, count: int) -> list[str]:
    """Ids as content hashes are: any 32 hexadecimal digits."""
    return [generator.bytes(16).hex() for _ in range(count)]


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """(n, d) -> float16 of length one."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def cosine_pool(
    generator: np.random.Generator, queries: int, rows: int, width: int = 8, kind: str = "random"
) -> Pool:
    """A pool compared by cosine.

    Args:
        kind: "random"; "tied": few distinct vectors, many rows of each; "equal": one vector.
    """
    examples = unit_rows(generator.standard_normal((queries, width))).astype(np.float32)
    distinct = {"random": rows, "tied": max(1, rows // 6), "equal": 1}[kind]
    base = unit_rows(generator.standard_normal((distinct, width)) + 0.8)
    vectors = base if kind == "random" else base[generator.integers(0, distinct, rows)]
    # One product for every distinct vector, so that equal rows compare equally to the last bit.
    products = examples @ base.astype(np.float32).T
    places = {each.tobytes(): j for j, each in enumerate(base)}
    similarity = products[:, [places[vector.tobytes()] for vector in vectors]]
    return Pool(random_ids(generator, rows), similarity, vectors)

"""What an index buys: selections by every row beside those by an index, and two ways to ask it.

    python benchmarks/approximate.py                     100,000 x 256, two minutes
    python benchmarks/approximate.py --rows 1000000 --width 1024 --folder /big/disk

The store is that of `selection.py`: synthetic unit vectors with a power-law spectrum, which an
index finds harder than real rows, since nothing lies close together. Warm, best of `--repeat`.

The second table asks the same index for the same rows through pylance (`to_table(nearest=...)`)
and through LanceDB's query API: how long a search takes, and which share of the nearest rows it
finds after the named ones are compared exactly. With a filter (a fifth of the rows) `select
--approximate` asks for more rows and drops those that are not eligible ("dropped"); both APIs can
also filter first ("where"). LanceDB can compare the named rows by itself (`refine_factor`). The
last row is exact: LanceDB without the index, and SQL's `nearest`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from report import best, write_report
from selection import make_store

if TYPE_CHECKING:
    import pyarrow as pa

WHERE = "corpus = 'corpus-1'"  # a fifth of the rows of the synthetic store


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, nargs="*", default=[1, 32])
    parser.add_argument("--budgets", type=int, nargs="*", default=[10, 100])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", help="where stores stay (default: a temporary folder)")
    parser.add_argument("--json", default="approximate.json", help="where to write the results")
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("pylance", "lancedb"))
    print(f"{options.rows:,} rows x {options.width}; {versions}")
    selections, searches = [], []
    with tempfile.TemporaryDirectory() as folder:
        for queries in options.queries:
            name = f"store-{options.rows}x{options.width}x{queries}"
            place = os.path.join(options.folder or folder, name)
            if not os.path.exists(place):
                make_store(place, options.rows, options.width, queries)
            selections += measured(place, queries, options)
            searches += searched(place, options)
    facts = {"rows": options.rows, "width": options.width}
    facts |= {"selections": selections, "searches": searches}
    write_report(options.json, "approximate", facts)


def measured(place: str, queries: int, options: argparse.Namespace) -> list[dict]:
    """Building the index, then every budget by every row and by the index."""
    from coresetdb.query.indexing import index_feature
    from coresetdb.query.rules.rules import Rules
    from coresetdb.query.selection import select
    from coresetdb.store.store import Store

    store = Store.open(place)
    start = time.perf_counter()
    index = index_feature(store, "rds").index
    built = time.perf_counter() - start
    sizes = store.place.sizes("pool.lance/_indices")
    size = sum(sizes[path] for path in sizes if any(part in path for part in index.parts))
    print(f"  {index.name}: {built:.1f} s, {size / 1e6:.1f} MB")
    results = []
    for budget in options.budgets:
        found: dict = {}

        def run(approximate: bool, budget: int = budget, found: dict = found) -> None:
            found["coreset"] = select(
                store,
                ["t"],
                budget=str(budget),
                rules=Rules(leakage="off"),
                approximate=approximate,
            )

        exact = best(options.repeat, lambda run=run: run(False))
        seconds = best(options.repeat, lambda run=run: run(True))
        facts = found["coreset"].parameters["approximate"]
        results.append({"queries": queries, "budget": budget, "exact": exact, "index": seconds})
        results[-1] |= {"facts": facts, "build_seconds": built, "bytes": size}
        print(
            f"  {queries:3} examples, budget {budget:6,}: every row {exact:7.3f} s, index "
            f"{seconds:7.3f} s, {facts['probes']:4} of {index.partitions} partitions, recall "
            f"{facts['recall']:.3f}",
            flush=True,
        )
    return results


def searched(place: str, options: argparse.Namespace) -> list[dict]:
    """The same searches through pylance and through LanceDB, timed in turn."""
    import lancedb

    from coresetdb.query.approximate import LEAST_ASKED, OVER_ASK
    from coresetdb.store.indices import indices_of
    from coresetdb.store.sql.session import SqlSession
    from coresetdb.store.store import Store

    store, session = Store.open(place), SqlSession(place)
    dataset = store.dataset("pool")
    table = lancedb.connect(place).open_table("pool")
    table.checkout(dataset.version)
    everything = dataset.to_table(columns=["id", "corpus", "rds"])
    ids, vectors = everything["id"].to_numpy(), matrix(everything["rds"])
    inside = everything["corpus"].to_numpy(zero_copy_only=False) == "corpus-1"
    queries = matrix(store.dataset("targets").to_table(columns=["rds"])["rds"])
    similarity = queries.astype(np.float32) @ vectors.astype(np.float32).T
    place_of = {key: number for number, key in enumerate(ids)}
    probes = max(1, indices_of(dataset)["rds"].partitions // 4)

    def pylance(k: int, where: str | None) -> pa.Table:
        nearest = {"column": "rds", "q": queries, "k": k, "nprobes": probes}
        return dataset.to_table(
            columns=["id", "_distance"], nearest=nearest, filter=where, prefilter=bool(where)
        )

    def by_lancedb(k: int, where: str | None, refine: int = 0, exact: bool = False) -> pa.Table:
        asked = queries[0] if len(queries) == 1 else list(queries)
        search = table.search(asked, vector_column_name="rds").distance_type("cosine")
        search = search.bypass_vector_index() if exact else search.nprobes(probes)
        search = search.refine_factor(refine) if refine else search
        search = search.where(where) if where else search
        return search.limit(k).select(["id", "_distance"]).to_arrow()

    def recall(named: pa.Table, k: int, allowed: np.ndarray) -> float:
        """The share of each query's k nearest eligible rows among the best k of the named ones."""
        rows = np.array([place_of[key] for key in named["id"].to_pylist()])
        query = np.zeros(len(rows), int)
        if "query_index" in named.column_names:
            query = named["query_index"].to_numpy()
        hits = 0
        for number in range(len(queries)):
            own = rows[query == number]
            own = own[allowed[own]]
            own = own[np.argsort(-similarity[number, own])][:k]
            last = np.partition(np.where(allowed, similarity[number], -2), -k)[-k]
            hits += int((similarity[number, own] >= last - 1e-6).sum())
        return hits / (k * len(queries))

    results = []
    print(f"  {len(queries)} examples, {probes} partitions; ms (recall)")
    for k in options.budgets:
        for where in (None, WHERE):
            allowed = inside if where else np.ones(len(ids), bool)
            ask = max(OVER_ASK * k, LEAST_ASKED)
            wider = ask * (5 if where else 1)
            ways: dict[str, Callable[[], pa.Table]] = {
                "pylance, dropped": lambda wider=wider: pylance(wider, None),
                "lancedb, dropped": lambda wider=wider: by_lancedb(wider, None),
                "pylance, where": lambda ask=ask, where=where: pylance(ask, where),
                "lancedb, where": lambda ask=ask, where=where: by_lancedb(ask, where),
                "lancedb, refined": lambda k=k, where=where, ask=ask: by_lancedb(
                    k, where, refine=-(-ask // k)
                ),
                "lancedb, exact": lambda k=k, where=where: by_lancedb(k, where, exact=True),
            }
            if not where:
                del ways["pylance, where"], ways["lancedb, where"]
                question = f"SELECT id FROM nearest('t', 'rds', {k})"
                ways["sql nearest"] = lambda text=question: session.run(text).read_all()
            for name, search in ways.items():
                seconds, found = best(options.repeat, search), search()
                share = recall(found, k, allowed) if name != "sql nearest" else 1.0
                results.append({"queries": len(queries), "k": k, "where": where, "way": name})
                results[-1] |= {"seconds": seconds, "recall": share}
                print(
                    f"    k {k:4}, {'a fifth' if where else 'all':8} {name:17} "
                    f"{1000 * seconds:8.1f} ({share:.3f})",
                    flush=True,
                )
    session.close()
    return results


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A vector column as (n, d) float16."""
    flat = column.combine_chunks()
    return np.array(flat.flatten()).reshape(len(flat), -1)


if __name__ == "__main__":
    main()

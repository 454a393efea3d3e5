"""How long a pool takes to let go of rows, and whether a purge leaves anything of them.

    python benchmarks/removal.py                    20,000 of 200,000 rows x 256

Makes a store of synthetic rows with random vectors and a tag, as a coreset leaves one. A tenth of
the rows is removed, restored, removed again and purged; then every file of the store is searched
for their texts and vectors, as it stands and as Lance decodes it.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from report import write_report

from coresetdb.schemas.canonical import digest
from coresetdb.schemas.tables import POOL
from coresetdb.store import purge, removal
from coresetdb.store.integrity.verify import verify
from coresetdb.store.store import Store

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from helpers.bytes_of_store import decoded_bytes, files_holding

COMMIT_ROWS = 10_000
SEARCHED = 500


def make_store(uri: str, rows: int, width: int) -> tuple[Store, dict[str, str], list[bytes]]:
    """A store, the tenth of its ids that goes (with their corpus), and bytes of some of them."""
    field = pa.field("rds", pa.list_(pa.float16(), width))
    store = Store.create(uri, {"backbone": {"name": "synthetic"}}, [field], [field])
    generator = np.random.default_rng(0)
    leaving: dict[str, str] = {}
    needles: list[bytes] = []
    for start in range(0, rows, COMMIT_ROWS):
        numbers = range(start, min(start + COMMIT_ROWS, rows))
        ids = [digest(str(number)) for number in numbers]
        vectors = generator.standard_normal((len(ids), width)).astype(np.float16)
        messages = [
            [
                {"role": "user", "content": f"question {number:09} " + "lorem ipsum " * 20},
                {"role": "assistant", "content": f"answer {number:09} " + "sit amet " * 30},
            ]
            for number in numbers
        ]
        table = {
            "id": ids,
            "corpus": [f"corpus-{number % 10}" for number in numbers],
            "messages": pa.array(messages, POOL.field("messages").type),
            "rds": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width),
        }
        store.insert("pool", pa.table(table))
        for row_id, number, vector in zip(ids, numbers, vectors, strict=True):
            if number % 10 == 3:
                leaving[row_id] = "corpus-3"
                if len(needles) < SEARCHED:
                    needles += [f"question {number:09}".encode(), vector.tobytes()]
    store.tag("coreset-early-pool", store.version())
    store.sync()
    return store, leaving, needles


def megabytes(uri: str) -> float:
    """The size of all files below a folder."""
    sizes = (
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(uri)
        for name in names
    )
    return sum(sizes) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--out", default="removal.json")
    options = parser.parse_args()
    steps: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        uri = os.path.join(folder, "store")
        store, leaving, needles = make_store(uri, options.rows, options.width)

        def measure(step: str, action: Callable[[], object]) -> None:
            start = time.perf_counter()
            with removal.alone(store):
                action()
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            steps.append(
                {
                    "step": step,
                    "rows": len(leaving),
                    "seconds": round(seconds, 2),
                    "MB": round(megabytes(uri), 1),
                    "peak MB": round(peak),
                }
            )
            print(*steps[-1].values(), sep="\t", flush=True)

        measure("start", lambda: None)
        measure("remove", lambda: removal.remove(store, leaving))
        measure("restore", lambda: removal.restore(store, list(leaving)))
        measure("remove again", lambda: removal.remove(store, leaving))
        measure("purge", lambda: purge.purge(store, list(leaving)))
        in_files, decoded = files_holding(uri, needles), decoded_bytes(uri)
        found = sum(len(held) for held in in_files.values())
        found += sum(needle in decoded for needle in needles)
        sound = verify(uri, full=True).ok
    print(f"{len(needles):,} texts and vectors searched, {found:,} found; sound: {sound}")
    facts = {"options": vars(options), "steps": steps, "searched": len(needles), "found": found}
    write_report(options.out, "removal", facts | {"sound": sound})


if __name__ == "__main__":
    main()

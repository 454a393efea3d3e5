"""Share of relevant rows among the first picks of every method, where relevance is known.

    python benchmarks/relevance.py POOL gsm8k --relevant "corpus IN ('gsm8k_train', 'aqua_train')"
    python benchmarks/relevance.py POOL quarel --relevant "dataset = 'quarel'" --methods rds,less

POOL is a store that holds the target with its features. Every method chooses `--budget` rows under
the leakage guard; methods that draw at random do so with three seeds, whose mean is given. Beside
them stand the share in the pool and the best possible one. Prints a table, writes JSON.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass

from report import write_report

import coresetdb
from coresetdb import Database
from coresetdb.schemas.errors import CoresetDBError

METHODS = (
    "random",
    "source_balanced",
    "length_matched",
    "bm25",
    "dsir",
    "rds",
    "rds:top",
    "rds:top(by=max)",
    "rds:knn_uniform",
    "rds:knn_kde",
    "rds:knn_kde(sigma=0.75)",
    "rds:knn_kde(rest=spread)",
    "rds:uot",
    "less",
    "less:top",
    "less:top(by=max)",
    "less:knn_uniform",
    "less:knn_kde",
    "less:knn_kde(rest=spread)",
    "less:uot",
    "embed",
    "embed:top",
    "trim",
    "nait",
    "nait(direction=pca,score=dot)",
    "nait(activation=drift,direction=mean,score=cosine)",
    "mads",
    "mads(weights=target)",
    "gradfiltering",
    "losses:top(score=nll)",
    "rds:facility_location",
    "rds:k_center",
    "rds:deita_filter(score=nll)",
)
DRAWN = ("random", "source_balanced", "length_matched", "dsir")
SEEDS = (0, 1, 2)
FIRST = (100, 500, 1000)


@dataclass(frozen=True)
class Found:
    """What one method found: shares of relevant rows by how many picks, and the circumstances."""

    method: str
    shares: dict[int, float]
    rows: int
    left_out: int
    seconds: float
    refused: str | None = None


def measure(db: Database, target: str, method: str, relevant: set[str], budget: int) -> Found:
    """Select by one method, once or with every seed, and count what is relevant."""
    seeds = SEEDS if method.split("(")[0] in DRAWN else SEEDS[:1]
    shares = dict.fromkeys((n for n in FIRST if n <= budget), 0.0)
    rows, left_out, seconds = 0, 0, 0.0
    for seed in seeds:
        start = time.perf_counter()
        try:
            coreset = db.select(target, method=method, budget=budget, seed=seed)
        except CoresetDBError as error:
            return Found(method, {}, 0, 0, 0.0, str(error))
        seconds += (time.perf_counter() - start) / len(seeds)
        hits = [each in relevant for each in coreset.ids]
        for count in shares:
            shares[count] += sum(hits[:count]) / min(count, len(hits)) / len(seeds)
        rows = len(hits)
        left_out = max(left_out, coreset.parameters["rules"]["leakage"]["left_out"])
        db.remove_coreset(coreset.name)
    return Found(method, shares, rows, left_out, seconds)


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("target")
    parser.add_argument("--relevant", required=True, help="SQL expression over the pool")
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    parser.add_argument("--budget", type=int, default=FIRST[-1])
    parser.add_argument("--json", default="relevance.json", help="where to write the results")
    options = parser.parse_args()
    db = coresetdb.connect(options.store)
    ids = db.sql(f"SELECT id FROM pool WHERE {options.relevant}").read_all()["id"]
    relevant = set(ids.to_pylist())
    [rows] = db.sql("SELECT count(*) AS n FROM pool").read_all()["n"].to_pylist()
    print(f"{options.target}: {len(relevant):,} of {rows:,} rows are relevant\n")
    print("| method | " + " | ".join(f"first {n:,}" for n in FIRST) + " | left out | seconds |")
    print("|---|" + "---|" * (len(FIRST) + 2))
    best = [f"{min(len(relevant), n) / n:.1%}" for n in FIRST]
    print(f"| the pool | {' | '.join([f'{len(relevant) / rows:.1%}'] * len(FIRST))} | | |")
    print(f"| best possible | {' | '.join(best)} | | |")
    found = []
    for method in options.methods.split(";"):
        each = measure(db, options.target, method, relevant, options.budget)
        found.append(each)
        if each.refused:
            print(f"| `{method}` | {each.refused} |", flush=True)
            continue
        shares = " | ".join(f"{share:.1%}" for share in each.shares.values())
        print(f"| `{method}` | {shares} | {each.left_out} | {each.seconds:.1f} |", flush=True)
    facts = {
        "target": options.target,
        "relevant": options.relevant,
        "relevant_rows": len(relevant),
        "rows": rows,
        "methods": [asdict(each) for each in found],
    }
    write_report(options.json, "relevance", facts)


if __name__ == "__main__":
    main()

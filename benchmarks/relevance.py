"""Share of relevant rows among the first picks of every method, where relevance is known.

    python benchmarks/relevance.py POOL gsm8k --relevant "corpus IN ('gsm8k_train', 'aqua_train')"
    python benchmarks/relevance.py POOL quarel --relevant "dataset = 'quarel'" --methods "rds;less"
    python benchmarks/relevance.py POOL --pairs pairs.json --first 100,300

POOL is a store that holds the targets with their features; `small_pools.py` writes pairs of target,
pool and what is relevant. Every method chooses rows under the leakage guard; methods that draw at
random do so with three seeds, whose mean is given. Beside them stand the share in the pool and the
best possible one. With several targets methods are ranked on each by the mean of their shares, and
the mean rank is given for the targets that defaults were chosen by and for the others. Prints a
table, writes JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean

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
    "mads:top",
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
class Pair:
    """A target and a pool with known relevance.

    Attributes:
        target: its name in the store.
        relevant: SQL expression over the pool: the rows that should be found.
        where: SQL expression: the part of the store that is the pool; None for all of it.
        looked_at: whether defaults were chosen looking at this target.
    """

    target: str
    relevant: str
    where: str | None = None
    looked_at: bool = True


@dataclass(frozen=True)
class Found:
    """What one method found: shares of relevant rows by how many picks, and the circumstances."""

    method: str
    shares: dict[int, float] = field(default_factory=dict)
    rows: int = 0
    left_out: int = 0
    seconds: float = 0.0
    refused: str | None = None


@dataclass(frozen=True)
class Column:
    """What all methods found for one target, beside what there is to find."""

    pair: Pair
    rows: int
    relevant_rows: int
    found: tuple[Found, ...]

    def ranks(self) -> list[float]:
        """Return the rank of every method, 1 for the best; ties share the mean of their places."""
        means = [mean(each.shares.values()) if each.shares else -1.0 for each in self.found]
        return [
            sum(other > own for other in means) + (sum(other == own for other in means) + 1) / 2
            for own in means
        ]


def measure(
    db: Database, pair: Pair, method: str, relevant: set[str], first: Sequence[int]
) -> Found:
    """Select by one method, once or with every seed, and count what is relevant."""
    seeds = SEEDS if method.split("(")[0] in DRAWN else SEEDS[:1]
    shares = dict.fromkeys(first, 0.0)
    rows, left_out, seconds = 0, 0, 0.0
    for seed in seeds:
        start = time.perf_counter()
        try:
            coreset = db.select(
                pair.target, method=method, budget=max(first), seed=seed, where=pair.where
            )
        except CoresetDBError as error:
            return Found(method, refused=str(error))
        seconds += (time.perf_counter() - start) / len(seeds)
        hits = [each in relevant for each in coreset.ids]
        for count in shares:
            shares[count] += sum(hits[:count]) / count / len(seeds)
        rows = len(hits)
        left_out = max(left_out, coreset.parameters["rules"]["leakage"]["left_out"])
        db.remove_coreset(coreset.name)
    return Found(method, shares, rows, left_out, seconds)


def measure_all(db: Database, pair: Pair, methods: Sequence[str], first: Sequence[int]) -> Column:
    """Measure every method on one pair."""
    pool = f"SELECT id FROM pool WHERE ({pair.where or 'true'})"
    rows = db.sql(pool).read_all().num_rows
    ids = db.sql(f"{pool} AND ({pair.relevant})").read_all()["id"]
    relevant = set(ids.to_pylist())
    found = []
    for method in methods:
        found.append(measure(db, pair, method, relevant, first))
        each = found[-1]
        shown = each.refused or "/".join(f"{100 * share:.1f}" for share in each.shares.values())
        print(
            f"{pair.target}: {method}: {shown}, {each.left_out} left out, {each.seconds:.1f} s",
            file=sys.stderr,
        )
    return Column(pair, rows, len(relevant), tuple(found))


def table(columns: Sequence[Column], methods: Sequence[str], first: Sequence[int]) -> str:
    """Return a Markdown table: a row for each method, a column for each target, mean ranks."""
    groups = {
        "rank, chosen by": [c for c in columns if c.pair.looked_at],
        "rank, others": [c for c in columns if not c.pair.looked_at],
    }
    groups = {name: group for name, group in groups.items() if group and len(columns) > 1}
    ranks = {name: [c.ranks() for c in group] for name, group in groups.items()}
    lines = [
        ["method", *(c.pair.target for c in columns), *groups],
        ["---"] * (1 + len(columns) + len(groups)),
        [
            "share in the pool",
            *(f"{100 * c.relevant_rows / c.rows:.1f}" for c in columns),
            *([""] * len(groups)),
        ],
        [
            "best possible",
            *("/".join(_per_cent(min(c.relevant_rows / n, 1)) for n in first) for c in columns),
            *([""] * len(groups)),
        ],
    ]
    for place, method in enumerate(methods):
        lines.append(
            [
                f"`{method}`",
                *("/".join(map(_per_cent, c.found[place].shares.values())) for c in columns),
                *(f"{mean(r[place] for r in ranks[name]):.1f}" for name in groups),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _per_cent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("target", nargs="?")
    parser.add_argument("--relevant", help="SQL expression over the pool")
    parser.add_argument("--where", help="SQL expression: the part of the store that is the pool")
    parser.add_argument("--pairs", help="JSON list of target, relevant, where, looked_at")
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    parser.add_argument("--first", default=",".join(map(str, FIRST)), help="numbers of picks")
    parser.add_argument("--json", default="relevance.json", help="where to write the results")
    options = parser.parse_args()
    if bool(options.pairs) == bool(options.target and options.relevant):
        parser.error("give a target with --relevant, or --pairs")
    if options.pairs:
        with open(options.pairs, encoding="utf-8") as file:
            pairs = [Pair(**each) for each in json.load(file)]
    else:
        pairs = [Pair(options.target, options.relevant, options.where)]
    db = coresetdb.connect(options.store)
    methods, first = options.methods.split(";"), [int(n) for n in options.first.split(",")]
    columns = [measure_all(db, pair, methods, first) for pair in pairs]
    print(table(columns, methods, first))
    refused = {each.method: each.refused for c in columns for each in c.found if each.refused}
    for method, why in refused.items():
        print(f"\n`{method}`: {why}")
    write_report(options.json, "relevance", {"targets": [asdict(each) for each in columns]})


if __name__ == "__main__":
    main()

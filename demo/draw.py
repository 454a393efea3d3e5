"""Draw the demo's pool and targets from the permissive mix.

    python demo/draw.py --mix ../shared/data/permissive/train_mix.jsonl.gz

Writes `pool.jsonl.gz` (about 3,000 rows), one `<target>.jsonl` per target and `SOURCES.md` beside
this file. Only MIT, Apache-2.0 and CC BY rows are drawn; every row keeps its source and licence,
and no target example is in the pool.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LICENCES = {"MIT", "Apache-2.0", "CC BY 2.0", "CC BY 4.0"}
MAX_CHARACTERS = 2000
SHARES = {
    "gsm8k": 300,
    "math": 200,
    "mbpp_train": 250,
    "flan_cot/creak": 350,
    "flan_cot/strategyqa": 150,
    "flan_cot/aqua": 200,
    "flan_cot/qasc": 150,
    "oasst_zh": 100,
    "self_instruct_seed": 150,
    "p3/quartz": 100,
    "p3/qasc": 100,
    "p3/cosmos_qa": 100,
    "p3/ropes": 100,
    "ni_v1": 750,
}
"""Rows of each source in the pool; `ni_v1` stands for all of its subtasks together."""
TARGETS = {"grade_school_math": "gsm8k", "python_functions": "mbpp_train"}
TARGET_ROWS = 16


def main() -> None:
    """Draw, write, and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mix", type=Path, default="../shared/data/permissive/train_mix.jsonl.gz")
    by_source: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with gzip.open(parser.parse_args().mix, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            turns = row.get("messages") or []  # a few rows are plain text
            short = 0 < sum(len(turn["content"]) for turn in turns) <= MAX_CHARACTERS
            if row["licence"] in LICENCES and short:
                by_source[group(row["source"])].append(row)
    for rows in by_source.values():
        rows.sort(key=lambda row: hashlib.blake2b(row["id"].encode()).digest())
    for target, source in TARGETS.items():
        examples, by_source[source] = (
            by_source[source][:TARGET_ROWS],
            by_source[source][TARGET_ROWS:],
        )
        write(HERE / f"{target}.jsonl", examples)
    pool = [row for source, share in SHARES.items() for row in by_source[source][:share]]
    pool.sort(key=lambda row: row["id"])
    write(HERE / "pool.jsonl.gz", pool)
    made = Counter((row["source"], row["licence"]) for row in pool)
    (HERE / "SOURCES.md").write_text(sources_page(made), encoding="utf-8")
    print(f"{len(pool)} rows, {(HERE / 'pool.jsonl.gz').stat().st_size} bytes")


def group(source: str) -> str:
    """The key of SHARES a source belongs to."""
    return "ni_v1" if source.startswith("ni_v1/") else source


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line; the same bytes for the same rows."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text, 9, mtime=0) if path.suffix == ".gz" else text)


def sources_page(made: Counter[tuple[str, str]]) -> str:
    """Where the rows come from, as a Markdown page."""
    lines = [
        "# The demo's data",
        "",
        f"{sum(made.values())} conversations in `pool.jsonl.gz` and {TARGET_ROWS} examples for "
        "each target, drawn by `draw.py`",
        "from public data under MIT, Apache-2.0 and CC BY licences. Each row names its source and",
        "licence in the fields `source` and `licence`. No target example is in the pool.",
        "",
        "| source | licence | rows |",
        "|---|---|---|",
    ]
    lines += [f"| {source} | {licence} | {n} |" for (source, licence), n in sorted(made.items())]
    lines += [
        "",
        "gsm8k: Cobbe et al. 2021. math: Hendrycks et al. 2021. mbpp: Austin et al. 2021.",
        "flan_cot: the chain-of-thought part of FLAN (CREAK, StrategyQA, AQuA, QASC).",
        "p3: Public Pool of Prompts (QuaRTz, QASC, Cosmos QA, ROPES). ni_v1: Natural Instructions.",
        "oasst_zh: OpenAssistant. self_instruct_seed: the seed tasks of Self-Instruct.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

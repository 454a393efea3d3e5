"""Draw three small pools with known relevance from public corpora, for tables of methods.

    python benchmarks/small_pools.py CORPORA OUT

CORPORA holds the files named below under `pools/` and the targets' examples under `targets/`.
Written to OUT: a file of instructions for each corpus, the examples of each target, and
`pairs.json`, which `relevance.py --pairs` reads: target, pool (SQL), what is relevant (SQL), and
whether the target was looked at while defaults were chosen. Draws are seeded; rows of more than 450
characters are left out, so that a model of 100M parameters gets through in an hour on two cores
(rows of question typing, whose instructions alone are longer, are kept).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

LONGEST = 450
EXAMPLES = 32
END = "<|endoftext|>"

TYPING = "subtask046_miscellaenous_question_typing"
OVERLAP = "subtask039_qasc_find_overlapping_words"
PRONOUNS = "subtask033_winogrande_answer_generation"

SEEN = {
    "gsm8k": "gsm8k",
    "svamp": "gsm8k",
    "mbpp": "mbpp",
    "p3_minority_quarel": "quarel",
    "ni_minority_question_typing": TYPING,
}
"""Targets with examples of their own -> the task of the pool's rows that are relevant. Defaults
were chosen looking at these."""

DRAWN = {
    "creak": "creak",
    "ecqa": "ecqa",
    "samsum": "samsum",
    "wiqa": "wiqa",
    "overlapping_words": OVERLAP,
    "pronouns": PRONOUNS,
}
"""Further targets -> the task whose rows are their examples, which are taken out of the pool."""

Row = dict[str, Any]
"""An instruction: `task`, `prompt`, `response`."""


def records(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the records of a gzipped JSON array, JSON Lines or FLAN TSV file."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        if path.name.endswith(".json.gz"):
            yield from json.load(file)
        elif path.name.endswith(".tsv.gz"):
            for asked, answer, why in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                asked, why = (text.replace("\\n", "\n") for text in (asked, why))
                yield {"prompt": asked, "response": f"{why} So the answer is {answer}."}
        else:
            yield from map(json.loads, file)


def alpaca(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return prompt and response of an Alpaca-style record."""
    asked = "\n\n".join(filter(None, [record["instruction"], record["input"]]))
    return asked, record.get("output") or record.get("response") or ""


CORPORA: dict[str, tuple[str, Callable[[Mapping[str, Any]], tuple[str, str]], str]] = {
    "gsm8k": ("gsm8k_train.jsonl.gz", lambda r: (r["question"], r["answer"]), "gsm8k"),
    "mbpp": ("mbpp_train.jsonl.gz", lambda r: (r["text"], r["code"]), "mbpp"),
    "codegen": ("gpteacher_codegen.json.gz", alpaca, "mbpp"),
    "alpaca": ("alpaca_52k.json.gz", alpaca, "alpaca"),
    "dolly": ("dolly_3k.json.gz", alpaca, "dolly"),
    **{
        name: (f"flan_cot/{name}_train.tsv.gz", lambda r: (r["prompt"], r["response"]), name)
        for name in ("creak", "ecqa", "strategyqa", "sensemaking")
    },
}
"""Corpus of the pool `general` -> its file, prompt and response of a record, the task."""

GENERAL = {
    "gsm8k": 600,
    "mbpp": 420,
    "codegen": 300,
    "alpaca": 1300,
    "dolly": 400,
    "creak": 250,
    "ecqa": 250,
    "strategyqa": 250,
    "sensemaking": 230,
}
"""Rows drawn from each corpus."""

LABELLED = {
    "p3": {"quarel": 431, "samsum": 200, "wiqa": 200, "": 2569},
    "ni": {TYPING: 150, OVERLAP: 200, PRONOUNS: 200, "": 2250},
}
"""Rows drawn from each task of a labelled pool; "" stands for all other tasks."""


def general_rows(pools: Path, corpus: str) -> list[Row]:
    """Return the rows of a corpus of the pool `general`, none longer than LONGEST."""
    file, parts, task = CORPORA[corpus]
    rows = [
        dict(zip(("prompt", "response"), parts(each), strict=True))
        for each in records(pools / file)
    ]
    return [{"task": task, **row} for row in rows if usable(row)]


def labelled_rows(pools: Path, pool: str) -> list[Row]:
    """Return the rows of P3 (without those that have no label) or of Natural Instructions."""
    if pool == "p3":
        rows = [
            {
                "task": each["dataset"],
                "prompt": each["prompt"],
                "response": each["completion"].removesuffix(END),
            }
            for each in records(pools / "p3_t0.jsonl.gz")
        ]
        return [row for row in rows if usable(row)]
    rows = [
        {
            "task": each["task_name"],
            "prompt": f"{each['definition']}\n\n{each['input']}",
            "response": each["output"][0] if isinstance(each["output"], list) else each["output"],
        }
        for each in records(pools / "ni_v1_sample.jsonl.gz")
    ]
    return [row for row in rows if usable(row) or row["task"] == TYPING]


def usable(row: Mapping[str, Any]) -> bool:
    """Return whether a row has an answer and is short enough."""
    return bool(row["response"]) and len(row["prompt"]) + len(row["response"]) <= LONGEST


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write instructions as JSON Lines of prompt, response and task."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{path}: {len(rows):,} rows")


def main() -> None:
    """Draw pools and targets, and write them with their pairs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpora", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    pools, draw = options.corpora / "pools", random.Random(0)
    options.out.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[Row]] = {"general": []}
    for corpus, count in GENERAL.items():
        drawn["general"] += sample(draw, general_rows(pools, corpus), corpus, count)
    for pool, counts in LABELLED.items():
        rows, drawn[pool] = labelled_rows(pools, pool), []
        for task, count in counts.items():
            own = [r for r in rows if (r["task"] == task if task else r["task"] not in counts)]
            drawn[pool] += sample(draw, own, task, count)
    pairs = []
    for target, task in DRAWN.items():
        [pool] = [name for name, rows in drawn.items() if any(r["task"] == task for r in rows)]
        examples = [row for row in drawn[pool] if row["task"] == task][:EXAMPLES]
        write(options.out / f"{target}.target.jsonl", examples)
        drawn[pool] = [row for row in drawn[pool] if row not in examples]
        pairs.append(pair(target, pool, task, looked_at=False))
    for target, task in SEEN.items():
        examples = [
            {"task": target, "prompt": each["prompt"], "response": each["target"]}
            for each in records(options.corpora / "targets" / f"{target}.query.jsonl.gz")
        ]
        name = target.rpartition("_minority_")[2]
        write(options.out / f"{name}.target.jsonl", examples)
        [pool] = [p for p, rows in drawn.items() if any(row["task"] == task for row in rows)]
        pairs.append(pair(name, pool, task, looked_at=True))
    for pool, rows in drawn.items():
        draw.shuffle(rows)
        write(options.out / f"{pool}.jsonl", rows)
    with open(options.out / "pairs.json", "w", encoding="utf-8") as file:
        json.dump(pairs, file, indent=1)


def sample(draw: random.Random, rows: list[Row], task: str, count: int) -> list[Row]:
    """Draw `count` rows, all where there are no more, and the examples of a target of this task."""
    wanted = count + EXAMPLES * (task in DRAWN.values())
    return draw.sample(rows, min(wanted, len(rows)))


def pair(target: str, pool: str, task: str, looked_at: bool) -> dict[str, Any]:
    """Return what `relevance.py` measures for a target."""
    return {
        "target": target,
        "where": f"corpus = '{pool}'",
        "relevant": f"task = '{task}'",
        "looked_at": looked_at,
    }


if __name__ == "__main__":
    main()

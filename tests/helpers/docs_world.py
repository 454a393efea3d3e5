"""A folder like that of somebody who follows the docs: corpora, examples, a store, a coreset."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from coresetdb import Database
from helpers.files import write_jsonl
from helpers.tiny_models import save_tiny_model

FEATURES = "fast,lexical,gradfiltering:members=4:at_least=24:at_most=24"
ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
TARGETS = ("gsm8k", "svamp", "mbpp")


def sums(count: int, start: int = 0) -> list[dict]:
    return [
        {"question": f"Ann has {n} apples and buys {n % 7 + 2} more. How many has she?",
         "answer": f"She has {n} + {n % 7 + 2} = {n + n % 7 + 2} apples."}
        for n in range(start, start + count)
    ]  # fmt: skip


def functions(count: int, start: int = 0) -> list[dict]:
    return [
        {"prompt": f"Write a function that adds {n} to a number.",
         "completion": f"def add_{n}(number):\n    return number + {n}"}
        for n in range(start, start + count)
    ]  # fmt: skip


def facts(count: int) -> list[dict]:
    kinds = ("open_qa", "closed_qa", "brainstorming")
    return [
        {"instruction": f"Name {n + 1} rivers of a country.", "context": "",
         "response": f"River {n}, the longest of {n % 5} countries.",
         "category": kinds[n % 3], "licence": "MIT", "id": f"river-{n}"}
        for n in range(count)
    ]  # fmt: skip


def _corpora(folder: Path) -> None:
    dolly = [*facts(24), {"instruction": "Say nothing.", "context": "", "response": ""}]
    write_jsonl(folder / "corpora" / "gsm8k_train.jsonl.gz", sums(24))
    write_jsonl(folder / "corpora" / "mbpp_train.jsonl.gz", functions(20))
    write_jsonl(folder / "corpora" / "dolly.jsonl.gz", dolly)
    write_jsonl(folder / "data" / "sums.jsonl.gz", sums(20, 500))
    write_jsonl(folder / "pools" / "rivers.jsonl", facts(3))
    write_jsonl(folder / "more" / "sums.jsonl.gz", sums(3, 700))
    pl.DataFrame(functions(6, 300)).write_parquet(folder / "more.parquet")
    with open(folder / "qa.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(sums(5, 400))


def _targets(folder: Path) -> None:
    write_jsonl(folder / "gsm8k_examples.jsonl", sums(6, 200))
    svamp = [row | {"subject": ("apples", "sums")[n % 2]} for n, row in enumerate(sums(6, 220))]
    write_jsonl(folder / "svamp_examples.jsonl", svamp)
    write_jsonl(folder / "mbpp_examples.jsonl", functions(6, 200))
    write_jsonl(folder / "gsm8k_test.jsonl", sums(12, 210))
    _write_questions(folder)


def _write_questions(folder: Path) -> None:
    """Questions about a passage and with choices, in the shapes of BoolQ, MMLU and PIQA."""
    passage = {"context": "The hall has a green lamp.", "question": "What is green?"}
    write_jsonl(folder / "passages.jsonl", [{**passage, "answer": "The lamp."}])
    even = {"question": "Which number is even?", "choices": ["one", "two", "three"], "answer": 1}
    write_jsonl(folder / "mmlu.jsonl", [even])
    goals = [
        {"goal": f"Open box {n}.", "sol1": "Lift.", "sol2": "Push.", "label": n} for n in (0, 1)
    ]
    write_jsonl(folder / "piqa.jsonl", goals)


def _attachments(folder: Path, pool: Database) -> None:
    """What somebody else made of these corpora: scores, labels, vectors."""
    ids = [id for (id,) in pool.sql("SELECT id FROM pool ORDER BY id").to_polars().rows()]
    judged = [{"id": id, "score": n % 5, "verdict": "good"} for n, id in enumerate(ids)]
    write_jsonl(folder / "judged.jsonl", judged)
    labels = [{"id": f"river-{n}", "topic": "rivers"} for n in range(24)]
    pl.DataFrame(labels).write_csv(folder / "labels.csv")
    scored = pl.DataFrame(functions(20)).with_columns(quality=pl.int_range(20))
    scored.write_parquet(folder / "scored.parquet")
    vectors = np.random.default_rng(3).standard_normal((len(ids), 8)).astype(np.float32)
    embedded = pl.DataFrame({"id": ids, "embedding": vectors.tolist()})
    embedded.write_parquet(folder / "embedded.parquet")
    np.save(folder / "embedded.npy", vectors[:25])
    (folder / "ids.txt").write_text("\n".join(ids[:7]))
    pl.DataFrame({"id": ids[3:9], "score": range(6)}).write_csv(folder / "selection.csv")
    np.save(folder / "gsm8k_examples.npy", vectors[:6])


def make_world(folder: Path) -> None:
    """Fill an empty folder with corpora, examples, stores and coresets."""
    model = save_tiny_model(folder / "my-model", "llama")
    _corpora(folder)
    _targets(folder)
    pool = Database.create(
        str(folder / "pool"), backbone=str(model), features=FEATURES, dtype="float32"
    )
    pool.ingest(sorted((folder / "corpora").iterdir()))
    for target in TARGETS:
        pool.add_target(target, str(folder / f"{target}_examples.jsonl"))
    _attachments(folder, pool)
    pool.select("gsm8k", budget=20, name="math")
    pool.select("gsm8k", budget=20)
    pool.select(budget=12, method="random", name="chance")
    other = Database.create(
        str(folder / "other"), backbone=str(model), features="rds,losses", dtype="float32"
    )
    other.ingest(str(folder / "qa.csv"))
    (folder / "question.sql").write_text("SELECT corpus, count(*) FROM pool GROUP BY corpus")


@contextmanager
def copy_of(world: Path, place: Path) -> Iterator[Path]:
    """Copy the folder and make the copy the current folder for a while."""
    shutil.copytree(world, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield place

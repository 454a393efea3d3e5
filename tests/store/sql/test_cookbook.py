"""Every query of docs/cookbook.md, on a small pool of real rows with a tiny model's features."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers.files import write_jsonl

import coresetdb
from coresetdb.schemas.tables import SCORES
from coresetdb.store.rows import key_of
from coresetdb.store.sql.session import SqlSession

ROOT = Path(__file__).parents[3]
RECIPES = re.findall(
    r"^### (.*?)\n.*?```sql\n(.*?)```",
    (ROOT / "docs" / "cookbook.md").read_text(),
    re.MULTILINE | re.DOTALL,
)
CORPORA = {"school": ("gsm8k", "math"), "code": ("mbpp_train",), "mixed": ("flan", "oasst_zh")}


def real_rows() -> dict[str, list[dict]]:
    """Every fifteenth row of the demo's pool, by corpus."""
    with gzip.open(ROOT / "demo" / "pool.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file][::15]
    return {
        corpus: [row for row in rows if row["source"].startswith(sources)]
        for corpus, sources in CORPORA.items()
    }


def with_question(row: dict, question: str, answer: str | None = None) -> dict:
    turns = [{"role": "user", "content": question}, *row["messages"][1:]]
    if answer is not None:
        turns[-1] = {"role": "assistant", "content": answer}
    return {**row, "messages": turns}


def score(database: coresetdb.Database, seed: int) -> None:
    """Put scores of `rds`, `less` and `trim` into the table, as `coresetdb score` does."""
    nearest = database.sql("FROM nearest('gsm8k', 'rds', 1000)").read_all()
    ids, cosines = nearest["id"].to_pylist(), nearest["score"].to_numpy()
    noise = np.random.default_rng(seed)
    by_method = {
        "rds": cosines,
        "less": cosines + noise.normal(0, 0.1, len(ids)),
        "trim": cosines + noise.normal(0, 0.2, len(ids)),
    }
    version = database.store.version()
    rows = []
    for method, scores in by_method.items():
        order = sorted(range(len(ids)), key=lambda n: (-scores[n], ids[n]))
        rows += [
            {
                "key": key_of("gsm8k", method, "f", version, ids[n]),
                "target": "gsm8k",
                "method": method,
                "fingerprint": "f",
                "pool_version": version,
                "id": ids[n],
                "score": scores[n],
                "rank": rank,
            }
            for rank, n in enumerate(order, 1)
        ]
    database.store.insert("scores", pa.Table.from_pylist(rows, schema=SCORES))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path):
    """Three corpora, the last of which came after the first coreset, with what goes wrong."""
    folder = tmp_path_factory.mktemp("cookbook")

    def file(name: str, rows: list[dict]) -> str:
        return str(write_jsonl(folder / f"{name}.jsonl", rows))

    rows = real_rows()
    school, code, mixed = rows["school"], rows["code"], rows["mixed"]
    first = school[0]["messages"][0]["content"]
    [example, *_] = [
        json.loads(line)
        for line in (ROOT / "demo" / "grade_school_math.jsonl").read_text().splitlines()
    ]
    planted = [
        *code[:3],  # three rows that another corpus has
        *(with_question(row, row["messages"][0]["content"] + " ") for row in school[:4]),
        with_question(school[0], first, "I do not know."),
        {**example, "source": "flan", "licence": "MIT"},  # an example of the target itself
        {**mixed[0], "messages": []},
    ]
    database = coresetdb.create(str(folder / "pool"), backbone=str(tiny_llama))
    database.ingest(file("school", school), corpus="school")
    database.ingest(file("code", code), corpus="code")
    database.add_target("gsm8k", str(ROOT / "demo" / "grade_school_math.jsonl"))
    database.add_target("mbpp", str(ROOT / "demo" / "python_functions.jsonl"))
    database.select("gsm8k", budget=20, name="math")
    score(database, 0)
    database.ingest(file("mixed", mixed + planted), corpus="mixed")
    score(database, 1)
    database.select("gsm8k", "mbpp", budget=30, name="code")
    with SqlSession(database.store.uri) as session:
        yield session


Rows = list[dict]


def pairs(rows: Rows, one: str, other: str) -> set:
    return {(row[one], row[other]) for row in rows}


# What each answer must look like beyond being there; the pool is known, the model's numbers not.
SANE: dict[str, Callable[[Rows], bool]] = {
    "What is the pool made of?": lambda rows: (
        {row["corpus"] for row in rows} == set(CORPORA)
        and abs(sum(row["percent"] for row in rows) - 100) < 0.5
        and all(0 < row["answer_tokens"] < row["tokens"] for row in rows)
    ),
    "What did each ingestion bring?": lambda rows: (
        [row["corpora"] for row in rows] == [["school"], ["code"], ["mixed"]]
        and rows[2]["duplicate"] == 3
        and rows[2]["rejected"] == 1
    ),
    "What was refused, and why?": lambda rows: (
        [row["corpus"] for row in rows] == ["mixed"] and rows[0]["records"] == 1
    ),
    "Which corpora repeat one another?": lambda rows: (
        rows == [{"one": "code", "other": "mixed", "shared": 3}]
    ),
    "Which questions have several answers?": lambda rows: (
        rows[0]["answers"] >= 2 and any("school" in row["corpora"] for row in rows)
    ),
    "Which rows of different corpora are nearly the same?": lambda rows: (
        sum(row["question"].strip() == row["near"].strip() for row in rows) >= 2
    ),
    "How far apart are the corpora?": lambda rows: (
        pairs(rows, "one", "other") == {("code", "mixed"), ("code", "school"), ("mixed", "school")}
        and all(0 < row["cosine"] < 1 for row in rows)
    ),
    "What shape do the conversations have?": lambda rows: all(row["turns"] >= 2 for row in rows),
    "In which scripts are they written?": lambda rows: (
        [row["han"] > 0 for row in rows] == [False, True, False]
    ),
    "Which rows lack a feature, and why?": lambda rows: all(
        0 < row["with_rds"] <= row["rows"] for row in rows
    ),
    "What do the rows read like?": lambda rows: (
        [row["corpus"] for row in rows] == ["code"] * 3 + ["mixed"] * 3 + ["school"] * 3
    ),
    "Which rows does the model find hardest?": lambda rows: (
        len(rows) == 20 and rows == sorted(rows, key=lambda row: -row["nll"])
    ),
    "Where does the question not help with the answer?": lambda rows: all(
        0 <= row["percent_no_help"] <= 100 and row["p10"] <= row["median"] <= row["p90"]
        for row in rows
    ),
    "Where do the best one per cent come from?": lambda rows: (
        sum(row["in_top"] for row in rows) == 2
    ),
    "Which rows do all methods rank high?": lambda rows: all(
        max(row["rds_rank"], row["less_rank"], row["trim_rank"]) <= 12 for row in rows
    ),
    "Where do two methods disagree most?": lambda rows: (
        len(rows) == 20 and abs(rows[0]["rds_rank"] - rows[0]["trim_rank"]) > 10
    ),
    "How alike are the methods?": lambda rows: (
        pairs(rows, "one", "other") == {("less", "rds"), ("less", "trim"), ("rds", "trim")}
        and all(0 < row["spearman"] <= 1 and row["rows"] == 116 for row in rows)
    ),
    "Does a score follow length?": lambda rows: (
        {row["method"] for row in rows} == {"rds", "less", "trim"}
        and all(-1 <= row["with_length"] <= 1 for row in rows)
    ),
    "What changes from the best tenth to the worst?": lambda rows: (
        [row["tenth"] for row in rows] == list(range(1, 11))
        and rows == sorted(rows, key=lambda row: -row["lowest_score"])
    ),
    "How much did the ranks move since the pool grew?": lambda rows: all(
        row["before"] < row["after"] and row["in_both"] > 20 for row in rows
    ),
    "Which rows are nearest to a target?": lambda rows: (
        len(rows) == 10 and rows == sorted(rows, key=lambda row: -row["cosine"])
    ),
    "Which examples does the pool serve badly?": lambda rows: (
        len(rows) == 16 and max(row["nearest_row"] for row in rows) == 1.0
    ),
    "Is the target itself in the pool?": lambda rows: (
        pairs(rows, "target", "corpus") == {("gsm8k", "mixed")} and len(rows) == 1
    ),
    "Where do the rows of a coreset come from?": lambda rows: (
        sum(row["picked"] for row in rows) == 20 and rows[0]["lift"] > 1
    ),
    "Which examples pulled the rows, and how strongly?": lambda rows: (
        sum(row["pulled"] for row in rows) == 20
        and all(row["worst"] <= row["best"] for row in rows)
    ),
    "What does a coreset miss?": lambda rows: (
        len(rows) == 20 and all(row["less_rank"] <= 100 for row in rows)
    ),
    "How much do coresets have in common?": lambda rows: (
        pairs(rows, "one", "other") == {("code", "math")} and 0 < rows[0]["jaccard"] < 1
    ),
    "How do two mixes differ?": lambda rows: (
        sum(row["math"] for row in rows) == 20 and sum(row["code"] for row in rows) == 30
    ),
    "What does each coreset cost, and under which licences is it?": lambda rows: (
        [row["rows"] for row in rows] == [30, 20] and all("MIT" in row["licences"] for row in rows)
    ),
    "What came into the pool since a coreset was made?": lambda rows: (
        [row["corpus"] for row in rows] == ["mixed"]
    ),
}


def test_every_question_has_an_answer_to_expect() -> None:
    assert [title for title, _ in RECIPES] == list(SANE)
    assert len(SANE) >= 20


@pytest.mark.parametrize(("title", "query"), RECIPES, ids=[title for title, _ in RECIPES])
def test_every_query_answers_its_question(session: SqlSession, title: str, query: str) -> None:
    rows = session.run(query).read_all().to_pylist()
    assert rows
    assert SANE[title](rows), rows[:5]

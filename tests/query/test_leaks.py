"""Leaks of benchmarks in a whole pool: what is found, how much of it, and the file that is made."""

from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest
from helpers import toy_stores
from helpers.files import write_jsonl

from coresetdb.database import Database
from coresetdb.query.leaks import overlap
from coresetdb.schemas.errors import InputError, QueryError, UsageError
from coresetdb.schemas.instruction import Instruction
from coresetdb.schemas.progress import Silence

QUESTIONS = [
    "a train leaves paris at nine and travels north at eighty kilometres an hour until it stops",
    "seven gardeners plant forty rows of tulips before lunch how many rows does each one plant",
    "which river crosses the largest number of countries on its way down to the black sea",
    "write a poem about an old lighthouse keeper who counts the ships that never come back home",
]


def row(question, answer="nobody can say that for sure"):
    return Instruction.from_turns(("user", question), ("assistant", answer))


FILLER = [row(f"story {n} about w{n} and x{n * 7} with y{n * 3}", f"end {n}") for n in range(40)]
PLANTED = {
    "equal": row(QUESTIONS[0].upper() + "?", "at noon"),
    "contains": row(f"Please help me. {QUESTIONS[1]}? Think first.", "no idea"),
    "13-gram": row("first " + " ".join(QUESTIONS[2].split()[:14]) + " then rest", "so"),
}


@pytest.fixture
def database(tmp_path) -> Database:
    store = toy_stores.toy_store(tmp_path / "store")
    store.insert("pool", toy_stores.pool_rows(FILLER, ["stories"] * 40))
    store.insert("pool", toy_stores.pool_rows([*PLANTED.values()], ["web", "web", "books"]))
    return Database(store)


@pytest.fixture
def bench(tmp_path):
    rows = [{"question": question, "answer": f"it is {n}"} for n, question in enumerate(QUESTIONS)]
    return write_jsonl(tmp_path / "bench.jsonl", rows)


def test_planted_rows_are_found_with_their_examples(database, bench):
    found = database.leaks(bench)
    by_id = {leak.id: leak for leak in found.found}
    assert set(by_id) == {each.id for each in PLANTED.values()} == set(found.ids)
    for line, (how, planted) in enumerate(PLANTED.items(), 1):
        leak = by_id[planted.id]
        assert (leak.how, leak.line, leak.benchmark) == (how, line, str(bench))
    assert by_id[PLANTED["13-gram"].id].corpus == "books"
    assert by_id[PLANTED["13-gram"].id].overlap == pytest.approx(14 / (16 + 3))
    assert [leak.overlap for leak in found.found] == sorted(
        (leak.overlap for leak in found.found), reverse=True
    )
    assert (found.rows, found.examples) == (43, {str(bench): 4})
    assert found.by_corpus() == [
        {"corpus": "books", "rows": 1, "leaking": 1, "examples": 1},
        {"corpus": "web", "rows": 2, "leaking": 2, "examples": 2},
    ]
    said = str(found)
    assert (
        "looked through 43 rows for 4 examples of bench.jsonl: 3 rows give 3 examples away" in said
    )
    assert "bench.jsonl:1" in said and PLANTED["equal"].id[:8] in said


def test_nothing_found_is_said_with_what_was_compared(database, tmp_path):
    other = write_jsonl(tmp_path / "o.jsonl", [{"question": "is two even", "answer": "yes it is"}])
    found = database.leaks(other)
    assert found.found == ()
    assert str(found).endswith("for 1 example of o.jsonl: none is given away")
    assert found.to_polars().shape == (0, 8)


def test_a_filter_says_which_rows_are_looked_at(database, bench):
    found = database.leaks(bench, where="corpus = 'books'")
    assert (found.rows, found.ids) == (1, [PLANTED["13-gram"].id])
    with pytest.raises(QueryError):
        database.leaks(bench, where="nothing = 1")


def test_several_benchmarks_and_data_in_memory(database, tmp_path):
    first = write_jsonl(tmp_path / "a.jsonl", [{"question": QUESTIONS[0], "answer": "one"}])
    (tmp_path / "sub").mkdir()
    second = write_jsonl(tmp_path / "sub" / "a.jsonl", [{"question": QUESTIONS[1], "answer": "b"}])
    third = [{"question": QUESTIONS[2], "answer": "c"}]
    found = database.leaks(first, str(second), third)
    assert {leak.id: leak.line for leak in found.found} == {each.id: 1 for each in PLANTED.values()}
    assert list(found.examples.values()) == [1, 1, 1]
    assert str(first) in str(found) and str(second) in str(found)  # of the same name
    frame = pl.DataFrame({"q": [QUESTIONS[0]], "a": ["one"]})
    assert database.leaks(frame, mapping={"user": "q", "assistant": "a"}).ids


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_file_has_every_row_with_its_evidence(database, bench, tmp_path, suffix):
    found = database.leaks(bench)
    out = tmp_path / f"leaks.{suffix}"
    found.write(str(out))
    read = {"csv": pl.read_csv, "jsonl": pl.read_ndjson, "parquet": pl.read_parquet}[suffix](out)
    assert read.to_dicts() == found.to_polars().to_dicts()
    assert read.columns == [
        "id", "corpus", "benchmark", "line", "example", "how", "overlap", "words",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="exists"):
        found.write(str(out))
    replace(found, found=()).write(str(out), overwrite=True)
    assert out.exists()


def test_the_list_that_is_shown_says_how_much_is_left_out(database, tmp_path):
    rows = [row(f"{QUESTIONS[0]} number {n}", f"{n}") for n in range(30)]
    database.store.insert("pool", toy_stores.pool_rows(rows, ["web"] * 30))
    bench = [{"question": QUESTIONS[0], "answer": "x"}]
    found = database.leaks(bench)
    assert len(found.found) == 31
    assert str(found).endswith("and 11 more")
    assert len(json.loads(json.dumps(found.as_dict()))["found"]) == 31


def test_records_that_are_no_example_are_counted(database, tmp_path):
    file = tmp_path / "b.jsonl"
    good = json.dumps({"question": QUESTIONS[0], "answer": "x"})
    file.write_text("\n".join([good, *['{"question": '] * 7]))
    found = database.leaks(file)
    assert len(found.rejected) == 7 and len(found.as_dict()["rejected"]) == 7
    assert "7 records were not looked for:" in str(found) and "and 2 more" in str(found)


def test_files_that_cannot_be_read_are_named(database, tmp_path, bench):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match="broken"):
        database.leaks(bench, broken)
    with pytest.raises(InputError, match="nothere"):
        database.leaks(tmp_path / "nothere.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(InputError, match="empty"):
        database.leaks(empty)
    with pytest.raises(UsageError, match="one or more files"):
        database.leaks()


def test_progress_is_reported(database, bench):
    said = []

    class Listening(Silence):
        def learn(self, *, name, share, said: str) -> None:
            heard.append((share, said))

    heard = said
    database.leaks(bench, progress=Listening())
    assert heard[-1] == (1.0, "43 of 43 rows")


def test_overlap_is_the_share_of_words_in_runs_of_eight():
    example = [f"w{n}" for n in range(20)]
    assert overlap(example, example) == 1
    assert overlap(example, ["x", *example[:10], "y", *example[12:19]]) == 10 / 20
    assert overlap(example[:3], ["a", *example[:3]]) == 1
    assert overlap(example[:3], ["a", "w0", "w2", "w1"]) == 0
    assert overlap([], example) == 0

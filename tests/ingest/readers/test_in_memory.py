"""Data in memory: a list, an Arrow table, a frame and a dataset read as a file of the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.files import write_jsonl

import coresetdb
from coresetdb.ingest.readers.in_memory import InMemory
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import find_sources, open_source, open_sources
from coresetdb.schemas.errors import AmbiguousFormatError, UsageError
from coresetdb.schemas.instruction import Record, Reject

ROWS: list[dict[str, Any]] = [
    {"instruction": "add", "input": None, "output": "3", "score": 0.5, "tags": ["a", None]},
    {"instruction": "say", "input": "hé", "output": "", "score": None, "tags": []},
    {"instruction": "count", "input": "x", "output": "1", "score": float("nan"), "tags": None},
]
CHATS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": f"q{number}"},
            {"role": "assistant", "content": "a"},
        ],
        "id": number,
    }
    for number in range(2500)
]

KINDS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], Any]]] = {
    "list": ("<list>", list),
    "tuple": ("<list>", tuple),
    "table": ("<pyarrow.Table>", pa.Table.from_pylist),
    "reader": ("<pyarrow.RecordBatchReader>", lambda rows: pa.Table.from_pylist(rows).to_reader()),
    "polars": ("<polars.DataFrame>", lambda rows: pl.DataFrame(rows, strict=False)),
    "pandas": ("<pandas.DataFrame>", pd.DataFrame),
    "datasets": ("<datasets.Dataset>", datasets.Dataset.from_list),
}


def read(data: Any, **options: Any) -> list[Record | Reject]:
    (source,) = open_sources(data, ReadOptions(**options)).sources()
    return list(source)


def content(items: list[Record | Reject]) -> list[Any]:
    """What does not name the source."""
    return [
        (item.line, item.instruction.id, item.source_id, item.metadata)
        if isinstance(item, Record)
        else (item.line, item.reason, item.excerpt)
        for item in items
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_reads_as_a_parquet_file(tmp_path: Path, kind: str) -> None:
    name, make = KINDS[kind]
    for rows in (ROWS, CHATS):
        file = tmp_path / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(rows), file)
        expected = read(str(file))
        items = read(make(rows))
        assert content(items) == content(expected)
        assert {(item.file, item.corpus) for item in items} == {(name, "memory")}
    assert [item.line for item in items] == list(range(1, len(CHATS) + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_json_lines(tmp_path: Path, kind: str) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", CHATS)
    assert content(read(KINDS[kind][1](CHATS))) == content(read(str(file)))


@pytest.mark.parametrize("kind", KINDS)
def test_can_be_read_twice(kind: str) -> None:
    sources = open_sources(KINDS[kind][1](CHATS), ReadOptions(corpus="mine"), copies="/nowhere")
    first, second = ([content(list(one)) for one in sources.sources()] for _ in range(2))
    assert first == second and len(first[0]) == len(CHATS)
    assert all(one.corpus == "mine" and one.xxh3 == "" for one in sources.sources())
    for source in sources.sources():
        list(source)
        assert source.bytes_read == (source.size or 0)


def test_a_dataset_keeps_its_selection() -> None:
    dataset = datasets.Dataset.from_list(CHATS).select([7, 3])
    assert [item.source_id for item in read(dataset) if isinstance(item, Record)] == ["7", "3"]


def test_what_python_holds_and_json_does_not() -> None:
    row = {
        "question": "q",
        "answer": np.int64(4),
        "none": [float("inf"), pd.NaT, pd.NA],
        "vector": np.array([1.5, np.nan], np.float32),
        5: b"\xff",
    }
    (item,) = read([row])
    assert isinstance(item, Record) and item.instruction.messages[1].content == "4"
    assert json.loads(item.metadata) == {
        "none": [None, None, None],
        "vector": [1.5, None],
        "5": "/w==",
    }


def test_rows_that_are_rejected() -> None:
    nested: list[Any] = []
    nested.append(nested)
    good = {"question": "q", "answer": "a"}
    items = read([good, "text", {**good, "more": nested}, {**good, "more": "x" * 9_000_000}, good])
    assert [getattr(item, "reason", "") for item in items] == [
        "",
        "not an object: text",
        "nested too deeply",
        "record over 8 MB: 9,000,002 bytes",
        "",
    ]
    assert [item.line for item in items] == [1, 2, 3, 4, 5]


def test_the_shape_is_detected_and_mapped() -> None:
    frame = pl.DataFrame(
        {"q": ["u"], "r": ["a"], "v": pl.Series([[0.5]], dtype=pl.Array(pl.Float32, 1))}
    )
    source = open_source(
        InMemory("<polars.DataFrame>", pa.table(frame)),
        ReadOptions(mapping={"user": "q", "assistant": "r"}),
    )
    assert source.decision == "map (user=q, assistant=r), in memory, without the vectors v"
    with pytest.raises(AmbiguousFormatError, match=r"^<list>: no known shape"):
        read([{"q": "u", "r": "a"}])
    assert read([]) == []


def test_several_sources_in_a_list(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", ROWS[:1])
    found = find_sources([file, str(file), pa.Table.from_pylist(ROWS), ROWS])
    names = [entry if isinstance(entry, str) else entry.name for entry in found]
    assert names == [str(file), "<pyarrow.Table>", "<list>"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, r"cannot read int data\. Give a file, folder, glob"),
        ([5], "cannot read int data"),
        ([["a.jsonl"]], "cannot read list data"),
        (None, "cannot read NoneType data"),
        (ROWS[0], "cannot read dict data. Give rows as a list of dicts"),
        (pl.DataFrame(ROWS, strict=False).lazy(), r"Give frame\.collect\(\)"),
        (pl.Series([1]), "<polars.Series> is not a table"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}), "several splits"),
        ((row for row in ROWS), "cannot read generator data"),
    ],
)  # fmt: skip
def test_other_data_is_refused(data: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_sources(data)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, pyarrow as pa\n"
        "from coresetdb.ingest.readers.options import ReadOptions\n"
        "from coresetdb.ingest.sources import open_sources\n"
        "rows = [{'question': 'q', 'answer': 'a'}]\n"
        "for data in (rows, pa.Table.from_pylist(rows)):\n"
        "    (source,) = open_sources(data, ReadOptions()).sources()\n"
        "    assert len(list(source)) == 1\n"
        "print([name for name in ('polars', 'datasets', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_store_takes_them_all(tmp_path: Path) -> None:
    database = coresetdb.create(str(tmp_path / "pool"), features="rds")
    rows = [{"question": f"q{number}", "answer": "a"} for number in range(4)]
    assert database.ingest(rows).total("new") == 4
    for kind in KINDS.values():
        assert database.ingest(kind[1](rows)).total("duplicate") == 4
    added = database.add_target("few", rows[:2])  # pyright: ignore[reportArgumentType]
    assert (added.target.examples, added.target.files) == (2, ("<list>",))
    assert added.decisions == ("<list>: question_answer (question, answer), in memory",)

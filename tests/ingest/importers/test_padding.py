"""Tools and tool calls are the same row from JSON Lines as from tables, which pad their objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.files import write_jsonl

from coresetdb.ingest.importers.padding import without_padding
from coresetdb.ingest.sources import open_source
from coresetdb.schemas.instruction import Record


def tool(name: str, **parameters: dict[str, Any]) -> dict[str, Any]:
    about = {"name": name, "parameters": {"type": "object", "properties": parameters}}
    return {"type": "function", "function": about}


TOOLS = [
    tool("boil", litres={"type": "number"}),
    tool("chop", what={"type": "string", "enum": ["leek", None]}, fine={"type": "boolean"}),
]
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("boil", {"litres": 2}),
    ("chop", {"what": "leek", "fine": True}),
    ("boil", {"litres": 0.5}),
]
ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": f"kitchen {number}"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": f"c{number}",
                        "type": "function",
                        "function": {"name": name, "arguments": arguments},
                    }
                ],
            },
            {"role": "tool", "content": "ok", "tool_call_id": f"c{number}"},
            {"role": "assistant", "content": "Done."},
        ],
        "tools": TOOLS[: 1 + number % 2],
    }
    for number, (name, arguments) in enumerate(CALLS)
]


def through_datasets(rows: list[dict[str, Any]], folder: Path) -> datasets.Dataset:
    file = write_jsonl(folder / "source.jsonl", rows)
    return datasets.load_dataset(  # pyright: ignore[reportReturnType]
        "json", data_files=str(file), split="train", cache_dir=str(folder / "cache")
    )


WAYS: dict[str, Callable[[list[dict[str, Any]], Path], Any]] = {
    "pyarrow.parquet": lambda rows, path: pq.write_table(pa.Table.from_pylist(rows), path),
    "polars.parquet": lambda rows, path: pl.DataFrame(rows).write_parquet(path),
    "polars.arrow": lambda rows, path: pl.DataFrame(rows).write_ipc(path),
    "polars.ndjson": lambda rows, path: pl.DataFrame(rows).write_ndjson(path),
    "datasets.parquet": lambda rows, path: through_datasets(rows, path.parent).to_parquet(path),
    "datasets.jsonl": lambda rows, path: through_datasets(rows, path.parent).to_json(path),
    "from_list.jsonl": lambda rows, path: datasets.Dataset.from_list(rows).to_json(path),
    "from_list.parquet": lambda rows, path: datasets.Dataset.from_list(rows).to_parquet(path),
}


def contents(path: Path) -> list[tuple[str, str | None, list[str | None]]]:
    items = list(open_source(path))
    assert all(isinstance(item, Record) for item in items), items
    return [
        (
            item.instruction.id,
            item.instruction.tools,
            [message.tool_calls for message in item.instruction.messages],
        )
        for item in items
    ]


@pytest.mark.parametrize("way", WAYS)
def test_one_row_whatever_it_went_through(tmp_path: Path, way: str) -> None:
    expected = contents(write_jsonl(tmp_path / "rows.jsonl", ROWS))
    path = tmp_path / way
    WAYS[way](ROWS, path)
    assert contents(path) == expected
    assert json.loads(expected[1][1] or "") == TOOLS, "a null in a list is content"


def test_json_text_stays_as_it_is(tmp_path: Path) -> None:
    """It is never padded, so its nulls are content."""
    text = json.dumps([{"name": "f", "parameters": {"default": None}}])
    row = {**ROWS[0], "tools": text}
    (item,) = open_source(write_jsonl(tmp_path / "a.jsonl", [row]))
    assert json.loads(item.instruction.tools or "") == json.loads(text)


def test_a_list_of_json_texts_is_a_list_of_tools(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{**ROWS[1], "tools": list(map(json.dumps, TOOLS))}])
    whole = write_jsonl(tmp_path / "b.jsonl", [ROWS[1]])
    assert contents(path) == contents(whole)


def test_padding() -> None:
    value = {"a": None, "b": [None, {"c": None, "d": 0}], "e": {"f": None}, "g": ""}
    assert without_padding(value) == {"b": [None, {"d": 0}], "e": {}, "g": ""}
    numbers = [2.0, -0.0, 2.5, 1e300, 2, True, "2.0"]
    assert list(map(repr, without_padding(numbers))) == [
        *("2", "0", "2.5", "1e+300", "2", "True", "'2.0'")
    ]

"""The same records come out of every way to lay them out in JSON; what is unclear is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coresetdb.ingest.readers import json_layouts
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import SourceFile, open_source
from coresetdb.schemas.errors import AmbiguousFormatError, InputError
from coresetdb.schemas.instruction import Instruction, Record

ROWS = [
    {"instruction": f"Name {i}", "input": "" if i % 2 else f"hint {i}", "output": f"It is {i}."}
    for i in range(12)
]
TALKS = [
    [
        {"from": "human", "value": f"How deep is pond {i}?"},
        {"from": "gpt", "value": f"{i} metres."},
        *([{"from": "human", "value": "And wide?"}, {"from": "gpt", "value": "9."}] * (i % 2)),
    ]
    for i in range(12)
]
MESSAGES = [
    [{"role": "user" if t["from"] == "human" else "assistant", "content": t["value"]} for t in talk]
    for talk in TALKS
]
ALPACA = [
    Instruction.from_turns(
        ("user", row["instruction"] + (f"\n\n{row['input']}" if row["input"] else "")),
        ("assistant", row["output"]),
    )
    for row in ROWS
]
CHATS = [
    Instruction.from_turns(*((turn["role"], turn["content"]) for turn in talk)) for talk in MESSAGES
]
FRAME = pd.DataFrame(ROWS)
NAMED = {f"id{i}": row for i, row in enumerate(ROWS)}


def lines(values: list[Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def opened(path: Path, text: str, **options: Any) -> SourceFile:
    path.write_text(text)
    return open_source(path, ReadOptions(**options))


def instructions(path: Path, text: str, **options: Any) -> list[Instruction]:
    items = list(opened(path, text, **options))
    assert all(isinstance(item, Record) for item in items), items
    return [item.instruction for item in items]


LAYOUTS = {
    "by id": (json.dumps(NAMED), ALPACA),
    "by id, pretty": (json.dumps(NAMED, indent=1), ALPACA),
    "by id below a key": (json.dumps({"version": "1", "data": NAMED}), ALPACA),
    "by id below the only key": (json.dumps({"dump": NAMED}), ALPACA),
    "chats by id": (json.dumps({f"c{i}": talk for i, talk in enumerate(TALKS)}, indent=2), CHATS),
    "records of chats by id": (
        json.dumps({f"c{i}": {"conversations": talk} for i, talk in enumerate(TALKS)}),
        CHATS,
    ),
    "pandas index": (FRAME.to_json(orient="index"), ALPACA),
    "pandas columns": (FRAME.to_json(orient="columns"), ALPACA),
    "pandas split": (FRAME.to_json(orient="split"), ALPACA),
    "pandas table": (FRAME.to_json(orient="table"), ALPACA),
    "pandas records": (FRAME.to_json(orient="records"), ALPACA),
    "pandas, labels of its own": (FRAME[::-1].set_index(FRAME.index + 7).to_json(), ALPACA[::-1]),
    "pandas with a header of values": (json.dumps([list(FRAME), *FRAME.values.tolist()]), ALPACA),
    "chats in columns": (json.dumps({"n": list(range(12)), "conversations": TALKS}), CHATS),
    "objects in columns": (
        json.dumps(
            {**{name: list(FRAME[name]) for name in FRAME}, "meta": [{"i": i} for i in range(12)]}
        ),
        ALPACA,
    ),
    "list of lists": (json.dumps(TALKS), CHATS),
    "list of lists, pretty": (json.dumps(MESSAGES, indent=1), CHATS),
    "list of lists below a key": (json.dumps({"version": 2, "data": TALKS}), CHATS),
    "list of lists below the only key": (json.dumps({"data": MESSAGES}), CHATS),
    "a list a line": (lines(TALKS), CHATS),
    "a list a line with roles": (lines(MESSAGES), CHATS),
    "rows of the dataset viewer": (
        json.dumps({"features": [{"n": "output"}], "rows": [{"n": 1, "row": row} for row in ROWS]}),
        ALPACA,
    ),
    "an id a line": (lines([{f"id{i}": row} for i, row in enumerate(ROWS)]), ALPACA),
    "a record below a key, line by line": (lines([{"data": row} for row in ROWS]), ALPACA),
    "texts of JSON": (json.dumps([json.dumps(row) for row in ROWS]), ALPACA),
    "a text of JSON a line": (lines([json.dumps(row) for row in ROWS]), ALPACA),
    "one chat": (json.dumps(MESSAGES[1], indent=1), CHATS[1:2]),
    "chats one after another": ("\n".join(json.dumps(m, indent=1) for m in MESSAGES), CHATS),
    "one chat on one line": (json.dumps(TALKS[0]), CHATS[:1]),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(tmp_path: Path, layout: str) -> None:
    text, expected = LAYOUTS[layout]
    assert instructions(tmp_path / "rows.json", text) == expected


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "one chat" not in name])
def test_a_layout_told_from_its_beginning(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a file larger than the window that is looked at; here, of a few hundred bytes."""
    text, expected = LAYOUTS[layout]
    monkeypatch.setattr("coresetdb.ingest.readers.opening.WINDOW_BYTES", 600)
    monkeypatch.setattr("coresetdb.ingest.readers.decoding.CHUNK_BYTES", 300)
    monkeypatch.setattr("coresetdb.ingest.readers.opening.HEAD_BYTES", 300)
    assert json_layouts.WINDOW_BYTES == 1 << 20
    assert instructions(tmp_path / "rows.json", text) == expected


def test_what_stands_around_a_record_is_kept(tmp_path: Path) -> None:
    source = opened(
        tmp_path / "a.jsonl", lines([{"n": 1, "row": ROWS[0]}, {"n": 2, "row": ROWS[1]}])
    )
    assert [json.loads(item.metadata) for item in source] == [{"n": 1}, {"n": 2}]
    assert source.decision.endswith('JSON Lines, below "row"')
    cut = {"row": ROWS[1], "truncated_cells": ["output"]}
    good, bad = opened(tmp_path / "a.jsonl", lines([{"row": ROWS[0], "truncated_cells": []}, cut]))
    assert isinstance(good, Record) and bad.reason == "cut off by the dataset viewer: ['output']"
    items = list(opened(tmp_path / "a.jsonl", lines([{"x7": ROWS[0]}, {"x9": ROWS[1]}])))
    assert [item.source_id for item in items] == ["x7", "x9"]


def test_labels_become_ids(tmp_path: Path) -> None:
    rows = {"a": ROWS[0], "b": {**ROWS[1], "id": "b"}, "c": {**ROWS[2], "id": "own"}}
    items = list(opened(tmp_path / "a.json", json.dumps(rows)))
    assert [item.source_id for item in items] == ["a", "b", "own"]
    assert [json.loads(item.metadata) for item in items] == [{}, {}, {"label": "c"}]
    for orient in ("index", "columns", "split"):
        frame = pd.DataFrame(ROWS[:2], index=["x", "y"])
        items = list(opened(tmp_path / "a.json", frame.to_json(orient=orient)))
        assert [item.source_id for item in items] == ["x", "y"], orient
    items = list(opened(tmp_path / "a.json", FRAME.to_json(orient="index")))
    assert {item.source_id for item in items} == {None}, "pandas' own numbers are no ids"


def test_columns_whose_labels_differ(tmp_path: Path) -> None:
    text = json.dumps({"question": {"0": "a", "1": "b"}, "answer": {"1": "b", "0": "a"}})
    with pytest.raises(InputError, match=r"different labels \(question 0, answer 1\)"):
        opened(tmp_path / "a.json", text)
    text = json.dumps({"question": {"0": "a", "1": "b"}, "answer": {"0": "b", "2": "a"}})
    source = opened(tmp_path / "a.json", text)
    assert len(list(source)) == 1, "what stands before is read"
    assert "different labels (question 1, answer 2)" in str(source.fault)


def test_rows_of_split_that_are_too_short(tmp_path: Path) -> None:
    text = json.dumps({"columns": ["question", "answer"], "data": [["q", "a"], ["q"]]})
    good, bad = opened(tmp_path / "a.json", text)
    assert isinstance(good, Record) and bad.reason == "wrong number of columns: 1 instead of 2"
    data_first = json.dumps({"data": [["q", "a"]], "index": [5], "columns": ["question", "answer"]})
    assert len(list(opened(tmp_path / "a.json", data_first))) == 1


def test_rows_of_values_are_counted_or_refused(tmp_path: Path) -> None:
    text = json.dumps([["q0", "x", "a0"], ["q1", "y", "a1"]])
    with pytest.raises(AmbiguousFormatError, match="--map user=1,assistant=2"):
        opened(tmp_path / "a.json", text)
    mapping = {"user": "1", "assistant": "3"}
    rows = instructions(tmp_path / "a.json", text, mapping=mapping)
    assert rows == [
        Instruction.from_turns(("user", f"q{i}"), ("assistant", f"a{i}")) for i in range(2)
    ]
    assert "no header" in opened(tmp_path / "a.json", text, mapping=mapping).decision
    assert (
        instructions(tmp_path / "a.jsonl", '["q0","x","a0"]\n["q1","y","a1"]\n', mapping=mapping)
        == rows
    )


def test_lists_that_are_not_read_are_said(tmp_path: Path) -> None:
    text = json.dumps({"train": ROWS, "test": ROWS[:1], "n": 3})
    assert instructions(tmp_path / "a.json", text) == ALPACA
    decision = opened(tmp_path / "a.json", text).decision
    assert (
        'JSON list below "train" (not those below "test": --map records=KEY reads one)' in decision
    )
    assert instructions(tmp_path / "a.json", text, mapping={"records": "test"}) == ALPACA[:1]


def test_a_list_among_lines_of_objects_is_refused(tmp_path: Path) -> None:
    text = lines([ROWS[0], TALKS[0], ROWS[1]])
    items = list(opened(tmp_path / "a.jsonl", text))
    assert [getattr(item, "reason", "") for item in items] == ["", "not an object: a list", ""]


@pytest.mark.parametrize("text", ["[[]]", "[[1, 2], [3, 4]]", "[[[1]]]", "[1, 2]", '["a"]', "{}"])
def test_lists_of_nothing_known(tmp_path: Path, text: str) -> None:
    try:
        items = list(opened(tmp_path / "a.json", text))
    except InputError:
        return
    assert not any(isinstance(item, Record) for item in items)


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    """NaN is what pandas writes for a missing number; it is null, and counted once."""
    rows = [dict(row, score=float("nan") if i % 2 else 1.5) for i, row in enumerate(ROWS)]
    for name, text in {
        "a.jsonl": lines(rows),
        "a.json": json.dumps(rows),
        "b.json": json.dumps({"data": rows}),
        "c.json": json.dumps({name: [row[name] for row in rows] for name in rows[0]}),
    }.items():
        source = opened(tmp_path / name, text)
        items = list(source)
        assert [item.instruction for item in items] == ALPACA
        assert [json.loads(item.metadata)["score"] for item in items] == [1.5, None] * 6
        assert source.remarks == ["6 values read as null: NaN or infinite"], name


def test_numbers_and_texts_out_of_range_in_the_metadata(tmp_path: Path) -> None:
    line = json.dumps(ROWS[0])[:-1]
    text = f'{line}, "x": [1e999, 2], "y": {{"\\ud800": "\\udc00", "z": "fine"}}}}\n'
    source = opened(tmp_path / "a.jsonl", text)
    (item,) = source
    assert item.instruction == ALPACA[0]
    assert json.loads(item.metadata) == {"x": [None, 2], "y": {"\\ud800": None, "z": "fine"}}
    assert source.remarks == [
        "1 value of column 'x' read as null: NaN or infinite",
        "1 value of column 'y' read as null: text that is not UTF-8",
    ]

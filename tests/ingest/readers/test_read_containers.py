"""The same records come out of every container, packing and layout, told by content."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sys
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from coresetdb.ingest.readers.decoding import BadRecord, split_lines
from coresetdb.ingest.readers.json_rows import JsonScanner
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_source
from coresetdb.schemas.errors import InputError, UsageError
from coresetdb.schemas.instruction import Instruction, Record, Reject

ROWS = [
    {"instruction": "Name a fruit.", "input": "", "output": "Apple."},
    {"instruction": "Übersetze", "input": "street", "output": "Straße"},
    {"instruction": "翻译", "input": "a\u2028b\u0085c", "output": 'line 1\nline 2\r\n\ttab "q"'},
]
EXPECTED = [
    Instruction.from_turns(("user", "Name a fruit."), ("assistant", "Apple.")),
    Instruction.from_turns(("user", "Übersetze\n\nstreet"), ("assistant", "Straße")),
    Instruction.from_turns(
        ("user", "翻译\n\na\u2028b\u0085c"), ("assistant", 'line 1\nline 2\r\n\ttab "q"')
    ),
]


def read(path: Path | str, **options) -> list[Record | Reject]:
    return list(open_source(str(path), ReadOptions(**options)))


def instructions(path: Path | str, **options) -> list[Instruction]:
    items = read(path, **options)
    assert all(isinstance(item, Record) for item in items), items
    return [item.instruction for item in items]


def lines_of(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv_of(rows: list[dict], delimiter: str) -> str:
    quoted = [[str(v).replace('"', '""') for v in row.values()] for row in rows]
    head = delimiter.join(rows[0])
    return "\n".join([head, *(delimiter.join(f'"{cell}"' for cell in row) for row in quoted)])


TEXTS = {
    "lines.jsonl": lines_of(ROWS),
    "no_final_newline.jsonl": lines_of(ROWS).rstrip("\n"),
    "crlf.jsonl": lines_of(ROWS).replace("}\n", "}\r\n"),
    "lines_named.json": lines_of(ROWS),
    "array.json": json.dumps(ROWS),
    "array_named.jsonl": json.dumps(ROWS, indent=2),
    "pretty.json": "\n".join(json.dumps(row, indent=1) for row in ROWS),
    "below.json": json.dumps({"version": 1, "data": ROWS, "meta": None}),
    "below_other_key.json": json.dumps({"about": {"a": [1]}, "questions": ROWS}),
    "columns.json": json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}),
    "pandas.json": json.dumps(
        {key: {str(i): row[key] for i, row in enumerate(ROWS)} for key in ROWS[0]}
    ),
    "comma.csv": csv_of(ROWS, ","),
    "semicolon.csv": csv_of(ROWS, ";"),
    "bar.csv": csv_of(ROWS, "|"),
    "tabs.tsv": csv_of(ROWS, "\t"),
    "no_ending": lines_of(ROWS),
}


@pytest.mark.parametrize(
    "packing",
    ["plain", "gzip", "members", "zstd", "frames", "xz", "xz streams", "bz2", "bz2 streams"],
)
@pytest.mark.parametrize("name", TEXTS)
def test_text_containers(tmp_path: Path, name: str, packing: str) -> None:
    data = TEXTS[name].encode()
    half = len(data) // 2
    packed = {
        "plain": lambda: data,
        "gzip": lambda: gzip.compress(data),
        "members": lambda: gzip.compress(data[:half]) + gzip.compress(data[half:]),
        "zstd": lambda: zstandard.compress(data),
        "frames": lambda: zstandard.compress(data[:half]) + zstandard.compress(data[half:]),
        "xz": lambda: lzma.compress(data),
        "xz streams": lambda: lzma.compress(data[:half]) + bytes(8) + lzma.compress(data[half:]),
        "bz2": lambda: bz2.compress(data),
        "bz2 streams": lambda: bz2.compress(data[:half]) + bz2.compress(data[half:]),
    }[packing]()
    path = tmp_path / name
    path.write_bytes(packed)
    source = open_source(str(path))
    items = list(source)
    assert [item.instruction for item in items] == EXPECTED
    assert source.fault is None
    assert source.xxh3 == xxhash.xxh3_64_hexdigest(packed)
    assert source.bytes_read == source.size == len(packed)
    assert ("gzip" in source.decision) == (packing in ("gzip", "members"))
    assert ("zstd" in source.decision) == (packing in ("zstd", "frames"))
    assert ("xz" in source.decision) == packing.startswith("xz")
    assert ("bzip2" in source.decision) == packing.startswith("bz2")


@pytest.mark.parametrize(
    ("content", "name"),
    [(gzip.compress(TEXTS["lines.jsonl"].encode()), "packed.jsonl"), (b"", "plain.jsonl.gz")],
)
def test_names_do_not_decide(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content or TEXTS["lines.jsonl"].encode())
    assert instructions(path) == EXPECTED


def write_tables(folder: Path) -> dict[str, Path]:
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, folder / "t.parquet", row_group_size=2)
    with ipc.new_file(str(folder / "f.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    with ipc.new_stream(str(folder / "s.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    lance.write_dataset(table, str(folder / "t.lance"))
    saved = folder / "saved"
    saved.mkdir()
    for part in range(2):
        shard = table.slice(2 * part, 2)
        with ipc.new_stream(str(saved / f"data-{part}.arrow"), table.schema) as writer:
            writer.write_table(shard)
    files = [{"filename": f"data-{part}.arrow"} for part in range(2)]
    (saved / "state.json").write_text(json.dumps({"_data_files": files}))
    packed = folder / "t.parquet.gz"
    packed.write_bytes(gzip.compress((folder / "t.parquet").read_bytes()))
    return {
        "Parquet": folder / "t.parquet",
        "Arrow file": folder / "f.arrow",
        "Arrow stream": folder / "s.arrow",
        "Lance table": folder / "t.lance",
        "datasets folder": saved,
        "Parquet, gzip": packed,
    }


def test_tables(tmp_path: Path) -> None:
    for words, path in write_tables(tmp_path).items():
        source = open_source(str(path))
        assert [item.instruction for item in source] == EXPECTED, words
        assert source.decision.endswith(words)
        assert source.fault is None
        assert len(source.xxh3) == 16
        assert source.bytes_read == source.size


def test_lines_and_corpus(tmp_path: Path) -> None:
    path = tmp_path / "my.set.jsonl.gz"
    path.write_text("\n" + TEXTS["lines.jsonl"])
    assert [item.line for item in read(path)] == [2, 3, 4]
    assert {item.corpus for item in read(path)} == {"my.set"}
    assert {item.corpus for item in read(path, corpus="c")} == {"c"}
    (tmp_path / "a.json").write_text(TEXTS["array.json"])
    assert [item.line for item in read(tmp_path / "a.json")] == [1, 2, 3]
    (tmp_path / "c.csv").write_text(TEXTS["comma.csv"], newline="")
    assert [item.line for item in read(tmp_path / "c.csv")] == [2, 3, 4]


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (gzip.compress(TEXTS["array.json"].encode()), _parquet_bytes()):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        source = open_source("-")
        assert [item.instruction for item in source] == EXPECTED
        assert (source.corpus, source.file, source.size) == ("stdin", "-", None)
        assert source.xxh3 == xxhash.xxh3_64_hexdigest(content)


def _parquet_bytes() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def test_a_source_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(TEXTS["lines.jsonl"])
    source = open_source(str(path))
    assert source.xxh3 == ""
    list(source)
    with pytest.raises(UsageError, match="open it again"):
        list(source)


def test_facts_beside_instances(tmp_path: Path) -> None:
    task = {
        "Definition": "Do it.",
        "Categories": ["QA"],
        "Positive Examples": [{"input": "x", "output": "y"}],
        "Instances": [{"id": "t-1", "input": "i", "output": ["a", "b"]}, {"input": "j"}],
        "Instance License": ["MIT"],
    }
    path = tmp_path / "task.json"
    path.write_text(json.dumps(task))
    first, second = read(path)
    assert first.instruction == Instruction.from_turns(("user", "Do it.\n\ni"), ("assistant", "a"))
    assert first.source_id == "t-1"
    assert json.loads(first.metadata) == {
        "Categories": ["QA"],
        "Instance License": ["MIT"],
        "other_outputs": ["b"],
    }
    assert second.reason == "missing field: output"


def test_several_lists_ask(tmp_path: Path) -> None:
    path = tmp_path / "two.json"
    path.write_text(json.dumps({"easy": ROWS, "hard": ROWS[:1]}))
    with pytest.raises(InputError, match="--map records=easy"):
        open_source(str(path))
    assert instructions(path, mapping={"records": "hard"}) == EXPECTED[:1]


def test_named_columns_in_documents(tmp_path: Path) -> None:
    mapping = {"user": "instruction", "assistant": "output"}
    for name in ("array.json", "below.json", "columns.json", "pandas.json", "comma.csv"):
        (tmp_path / name).write_text(TEXTS[name], newline="")
        answers = [
            item.messages[-1].content for item in instructions(tmp_path / name, mapping=mapping)
        ]
        assert answers == [row["output"] for row in ROWS], name
    one = {"talk": [{"role": "assistant", "content": "a"}], "tools": [{"name": "f"}]}
    (tmp_path / "one.json").write_text(json.dumps(one))
    (only,) = instructions(tmp_path / "one.json", mapping={"messages": "talk"})
    assert only.messages[0].content == "a"


def test_stopping_early(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(TEXTS["lines.jsonl"])
    source = open_source(str(path))
    next(iter(source))
    source.finish()
    assert source.xxh3 == "", "the rest was not read, so there is no hash of the whole"
    with pytest.raises(UsageError):
        next(iter(source))


def test_a_folder_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder of files"):
        open_source(str(tmp_path))


def test_columns_of_unequal_length(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"question": ["a", "b"], "answer": ["c"]}')
    with pytest.raises(InputError, match="differ in length"):
        open_source(str(path))


def test_values_json_cannot_say(tmp_path: Path) -> None:
    import datetime
    import decimal

    table = pa.table(
        {
            "question": ["q"],
            "answer": ["a"],
            "when": pa.array([datetime.datetime(2020, 1, 2, 3)], pa.timestamp("ns")),
            "deep": pa.array([[{"t": 1_000_000_001}]], pa.list_(pa.struct({"t": pa.time64("ns")}))),
            "took": pa.array([1500], pa.duration("ms")),
            "nan": [float("nan")],
            "bytes": [b"\xff"],
            "text": [b"text"],
            "price": [decimal.Decimal("1.50")],
            "half": pa.array([0.5], pa.float16()),
            "vector": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
        }
    )
    pq.write_table(table.drop_columns(["half"]), tmp_path / "t.parquet")
    with ipc.new_file(str(tmp_path / "t.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("t.parquet", "t.arrow"):
        source = open_source(str(tmp_path / name))
        (record,) = source
        metadata = json.loads(record.metadata)
        metadata.pop("half", None)
        assert metadata == {
            "when": "2020-01-02T03:00:00",
            "deep": [{"t": "00:00:01"}],
            "took": 1.5,
            "nan": None,
            "bytes": "/w==",
            "text": "text",
            "price": "1.50",
        }
        assert "without the vectors vector" in source.decision


def test_fat_table_rows_are_refused_one_by_one(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": "a" * size} for i, size in enumerate((1, 9_000_000, 2))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    first, fat, last = read(tmp_path / "t.parquet")
    assert fat.reason.startswith("record over 8 MB: 9,000,")
    assert (first.line, fat.line, last.line) == (1, 2, 3)
    assert isinstance(first, Record) and isinstance(last, Record)


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 9), st.integers(1, 25))
def test_lines_against_split(parts: list[bytes], step: int, limit: int) -> None:
    data = b"\n".join(parts)
    chunks = (data[at : at + step] for at in range(0, len(data), step))
    expected = data.split(b"\n")
    expected = expected[:-1] if expected[-1] == b"" else expected
    found = list(split_lines(chunks, limit))
    assert [number for number, _ in found] == list(range(1, len(expected) + 1))
    for (_, line), plain in zip(found, expected, strict=True):
        if len(plain) > limit:
            assert isinstance(line, BadRecord)
            assert line.reason == f"record over 8 MB: {len(plain):,} bytes"
        else:
            assert line == plain


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(JSON_VALUES, max_size=6), st.integers(1, 40), st.sampled_from([None, 2]))
def test_scanner_against_json(values: list, step: int, indent: int | None) -> None:
    text = json.dumps(values, ensure_ascii=False, indent=indent)
    data = text.encode("utf-8", "surrogatepass")
    if any("\ud800" <= character <= "\udfff" for character in text):
        data = json.dumps(values, indent=indent).encode()
    scanner = JsonScanner(data[at : at + step] for at in range(0, len(data), step))
    assert scanner.take("[")
    found = []
    while not scanner.take("]"):
        found.append(scanner.value())
        scanner.take(",")
    assert found == values
    assert scanner.peek() == ""


@given(st.integers(1, 60), st.integers(20, 200))
def test_scanner_counts_what_it_drops(step: int, length: int) -> None:
    fat = json.dumps({"a": '\\"é{[' * length}, ensure_ascii=False)
    data = f'[{{"b": 1}}, {fat}, {{"c": 2}}]'.encode()
    chunks = (data[at : at + step] for at in range(0, len(data), step))
    scanner = JsonScanner(chunks, limit=64)
    found = []
    scanner.take("[")
    while not scanner.take("]"):
        found.append(scanner.value())
        scanner.take(",")
    assert found[0] == {"b": 1} and found[2] == {"c": 2}
    assert found[1].reason == f"record over 8 MB: {len(fat.encode()):,} bytes"

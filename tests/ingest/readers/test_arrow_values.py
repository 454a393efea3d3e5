"""Every Arrow type, sliced and nested, against what it was made from."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coresetdb.ingest.readers.arrow_values import json_values
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.readers.remarks import NOT_FINITE, OUT_OF_RANGE
from coresetdb.ingest.sources import open_source
from coresetdb.schemas.instruction import Record


def values_of(array: pa.Array) -> list[Any]:
    lost: Counter[str] = Counter()
    values = json_values(array, lambda reason: lost.update([reason]))
    assert not lost
    return values


def raw(kind: pa.DataType, numbers: list[int], width: pa.DataType) -> pa.Array:
    return pa.array(numbers, width).view(kind)


DAY = datetime.date(2020, 2, 29)
UUID = uuid.UUID(int=7)
LEAVES: dict[str, tuple[pa.Array, list[Any]]] = {
    "text": (pa.array(["a", None, "é"]), ["a", None, "é"]),
    "large text": (pa.array(["a", None], pa.large_string()), ["a", None]),
    "text view": (pa.array(["a" * 20, None], pa.string_view()), ["a" * 20, None]),
    "bytes": (pa.array([b"a", b"\xff", None]), ["a", "/w==", None]),
    "bytes view": (pa.array([b"a" * 20, b"\xff"], pa.binary_view()), ["a" * 20, "/w=="]),
    "fixed bytes": (pa.array([b"ab", b"\xff\xff"], pa.binary(2)), ["ab", "//8="]),
    "integers": (pa.array([2**63, None], pa.uint64()), [2**63, None]),
    "truth": (pa.array([True, None]), [True, None]),
    "nothing": (pa.nulls(2), [None, None]),
    "half": (pa.array([0.5, None], pa.float16()), [0.5, None]),
    "decimal": (pa.array([decimal.Decimal("1.50"), None]), ["1.50", None]),
    "small decimal": (pa.array([decimal.Decimal("1.5")], pa.decimal32(5, 1)), ["1.5"]),
    "wide decimal": (pa.array([decimal.Decimal(3)], pa.decimal256(70, 0)), ["3"]),
    "day": (pa.array([DAY, None]), ["2020-02-29", None]),
    "day in ms": (pa.array([DAY], pa.date64()), ["2020-02-29"]),
    "time": (pa.array([datetime.time(1, 2, 3)]), ["01:02:03"]),
    "time in ns": (pa.array([1_500], pa.time64("ns")), ["00:00:00.000001"]),
    "instant": (pa.array([0], pa.timestamp("s")), ["1970-01-01T00:00:00"]),
    "instant in ns": (pa.array([1_500], pa.timestamp("ns")), ["1970-01-01T00:00:00.000001"]),
    "zone": (pa.array([0], pa.timestamp("s", "+01:00")), ["1970-01-01T01:00:00+01:00"]),
    "odd zone": (pa.array([0], pa.timestamp("s", "No/Where")), ["1970-01-01T00:00:00+00:00"]),
    "duration": (pa.array([1_500], pa.duration("ms")), [1.5]),
    "duration in ns": (pa.array([1_500], pa.duration("ns")), [1e-06]),
    "interval": (pa.array([pa.MonthDayNano([1, 2, 3])]), [[1, 2, 3]]),
    "json": (
        pa.ExtensionArray.from_storage(
            pa.json_(), pa.array(['{"a": [1, null]}', '"text"', None, "not json", "null"])
        ),
        [{"a": [1, None]}, "text", None, "not json", None],
    ),
    "json view": (
        pa.ExtensionArray.from_storage(
            pa.json_(pa.string_view()), pa.array(["[1]"], pa.string_view())
        ),
        [[1]],
    ),
    "uuid": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([UUID.bytes, None], pa.binary(16))),
        [str(UUID), None],
    ),
    "bool8": (
        pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 5, None], pa.int8())),
        [False, True, None],
    ),
    "opaque": (
        pa.ExtensionArray.from_storage(
            pa.opaque(pa.string(), "a", "b"), pa.array(["x"], pa.string())
        ),
        ["x"],
    ),
    "list": (pa.array([["a", None], None, []]), [["a", None], None, []]),
    "large list": (pa.array([[1], None], pa.large_list(pa.int8())), [[1], None]),
    "list view": (pa.array([["a"], None, ["b"]], pa.list_view(pa.string())), [["a"], None, ["b"]]),
    "large list view": (pa.array([[1], []], pa.large_list_view(pa.int8())), [[1], []]),
    "fixed list": (pa.array([["a", "b"], None], pa.list_(pa.string(), 2)), [["a", "b"], None]),
    "struct": (pa.array([{"a": 1}, None, {"a": None}]), [{"a": 1}, None, {"a": None}]),
    "empty struct": (pa.array([{}, None], pa.struct([])), [{}, None]),
    "map": (
        pa.array([[("k", 1), ("l", None)], None, []], pa.map_(pa.string(), pa.int8())),
        [{"k": 1, "l": None}, None, {}],
    ),
    "map with numbers": (pa.array([[(1, "a")]], pa.map_(pa.int8(), pa.string())), [{"1": "a"}]),
    "map that repeats": (
        pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int8())),
        [[["k", 1], ["k", 2]]],
    ),
    "dictionary": (pa.array(["a", None, "b", "a"]).dictionary_encode(), ["a", None, "b", "a"]),
    "dictionary of views": (
        pa.DictionaryArray.from_arrays(
            pa.array([1, None, 0], pa.uint32()), pa.array(["x", "y"], pa.string_view())
        ),
        ["y", None, "x"],
    ),
    "dictionary of lists": (
        pa.DictionaryArray.from_arrays(pa.array([1, 0, 1]), pa.array([[1], [2, 3]])),
        [[2, 3], [1], [2, 3]],
    ),
    "runs": (pc.run_end_encode(pa.array(["a", "a", None, "b"])), ["a", "a", None, "b"]),
    "sparse union": (
        pa.UnionArray.from_sparse(
            pa.array([0, 1, 0], pa.int8()), [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])]
        ),
        [1, "b", 3],
    ),
    "dense union": (
        pa.UnionArray.from_dense(
            pa.array([0, 1, 1], pa.int8()),
            pa.array([0, 0, 1], pa.int32()),
            [pa.array([1]), pa.array(["a", "b"])],
        ),
        [1, "a", "b"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAVES)
def test_every_type_sliced_and_nested(name: str) -> None:
    array, expected = LEAVES[name]
    assert values_of(array) == expected
    for start in range(len(array) + 1):
        for stop in range(start, len(array) + 1):
            assert values_of(array.slice(start, stop - start)) == expected[start:stop]
    padded = pa.concat_arrays([array, array]) if not _cannot_concat(array) else array
    twice = expected * 2 if len(padded) == 2 * len(array) else expected
    struct = pa.StructArray.from_arrays([padded], ["inner"])
    assert values_of(struct.slice(1)) == [{"inner": value} for value in twice[1:]]
    lists = pa.ListArray.from_arrays(pa.array([0, 1, len(padded)], pa.int32()), padded)
    assert values_of(lists.slice(1)) == [twice[1:]]


def _cannot_concat(array: pa.Array) -> bool:
    try:
        pa.concat_arrays([array, array])
    except pa.ArrowException:
        return True
    return False


TREES = st.recursive(
    st.sampled_from([pa.string(), pa.int8(), pa.string_view(), pa.date32()]),
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(pa.list_view),
        inner.map(lambda kind: pa.list_(kind, 2)),
        inner.map(lambda kind: pa.struct([("a", kind), ("b", pa.int8())])),
        inner.map(lambda kind: pa.map_(pa.string(), kind)),
    ),
    max_leaves=4,
)


def made(draw: Any, kind: pa.DataType) -> tuple[Any, Any]:
    """A random value of a type as pyarrow takes it, and as JSON has it."""
    if draw(st.integers(0, 4)) == 0:
        return None, None
    if pa.types.is_struct(kind):
        parts = {field.name: made(draw, field.type) for field in kind}
        return {n: v for n, (v, _) in parts.items()}, {n: j for n, (_, j) in parts.items()}
    if pa.types.is_map(kind):
        keys = draw(st.lists(st.sampled_from("xyz"), max_size=3, unique=True))
        parts = {key: made(draw, kind.item_type) for key in keys}
        return [(k, v) for k, (v, _) in parts.items()], {k: j for k, (_, j) in parts.items()}
    if kind.num_fields:
        fixed = kind.list_size if pa.types.is_fixed_size_list(kind) else None
        count = draw(st.integers(0, 3)) if fixed is None else fixed
        parts = [made(draw, kind.value_type) for _ in range(count)]
        return [value for value, _ in parts], [expected for _, expected in parts]
    if pa.types.is_date32(kind):
        day = draw(st.dates())
        return day, day.isoformat()
    value = draw(st.integers(-9, 9) if pa.types.is_integer(kind) else st.text(max_size=20))
    return value, value


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_trees(data: Any) -> None:
    kind = data.draw(TREES)
    rows = [made(data.draw, kind) for _ in range(data.draw(st.integers(0, 6)))]
    array = pa.array([value for value, _ in rows], kind)
    start = data.draw(st.integers(0, len(rows)))
    assert values_of(array) == [expected for _, expected in rows]
    assert values_of(array.slice(start)) == [expected for _, expected in rows[start:]]


QA = {"question": ["q0", "q1", "q2"], "answer": ["a0", "a1", "a2"]}


def read(path: Path, table: pa.Table, **options: Any) -> tuple[list[Any], list[str]]:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    source = open_source(path, ReadOptions(**options))
    return list(source), source.remarks


@pytest.mark.parametrize(
    ("column", "reason", "good"),
    [
        (raw(pa.timestamp("ms"), [0, 2**60, 1], pa.int64()), OUT_OF_RANGE, "1970-01-01T00:00:00"),
        (raw(pa.date32(), [0, 2**31 - 1, 1], pa.int32()), OUT_OF_RANGE, "1970-01-01"),
        (raw(pa.date64(), [0, 2**62, 86_400_000], pa.int64()), OUT_OF_RANGE, "1970-01-01"),
        (raw(pa.duration("s"), [0, 2**62, 1], pa.int64()), OUT_OF_RANGE, 0.0),
        (pa.array([0.5, float("nan"), 1.0]), NOT_FINITE, 0.5),
        (pa.array([0.5, float("-inf"), 1.0], pa.float32()), NOT_FINITE, 0.5),
    ],
)  # fmt: skip
def test_a_bad_value_costs_itself(tmp_path: Path, column: pa.Array, reason: str, good: Any) -> None:
    items, remarks = read(tmp_path / "t.arrow", pa.table({**QA, "m": column}))
    kept = [json.loads(item.metadata)["m"] for item in items]
    assert kept[0] == good and kept[1] is None and kept[2] is not None
    assert len(remarks) == 1 and remarks[0].startswith("1 value of column 'm' read as null: ")
    assert reason in remarks[0]
    deep = pa.StructArray.from_arrays([column], ["x"])
    items, remarks = read(tmp_path / "t.arrow", pa.table({**QA, "m": deep}))
    assert [json.loads(item.metadata)["m"]["x"] for item in items] == kept
    assert len(remarks) == 1


def broken_text(texts: list[bytes]) -> pa.Array:
    data = pa.array(texts, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(data), data.buffers())


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    broken = broken_text([b"fine", b"\xff\xfe", b"fine too"])
    items, remarks = read(tmp_path / "t.arrow", pa.table({**QA, "m": broken}))
    assert [json.loads(item.metadata)["m"] for item in items] == ["fine", None, "fine too"]
    assert remarks == ["1 value of column 'm' read as null: text that is not UTF-8"]
    items, remarks = read(tmp_path / "t.arrow", pa.table({**QA, "answer": broken}))
    assert [isinstance(item, Record) for item in items] == [True, False, True]
    assert items[1].reason == "lone surrogate: the text has no UTF-8 form" and not remarks


def test_a_shared_dictionary_does_not_make_rows_fat(tmp_path: Path) -> None:
    """Its bytes count for none of the rows that point into it; a long value of a row does."""
    texts = pa.array(["x" * 5_000_000, "y" * 5_000_000, "short", "z" * 9_000_000], pa.string_view())
    column = pa.DictionaryArray.from_arrays(pa.array([2, 0, 3], pa.int8()), texts)
    items, _ = read(tmp_path / "t.arrow", pa.table({**QA, "m": column}))
    assert [getattr(item, "reason", "")[:18] for item in items] == ["", "", "record over 8 MB: "]


def test_columns_of_one_name_are_both_kept(tmp_path: Path) -> None:
    table = pa.table(
        [pa.array(["q"]), pa.array(["a"]), pa.array([1]), pa.array([2])],
        names=["question", "answer", "m", "m"],
    )
    for name in ("t.parquet", "t.arrow"):
        (item,), _ = read(tmp_path / name, table)
        assert json.loads(item.metadata) == {"m": 1, "m_2": 2}


@pytest.mark.parametrize("write", ["write_parquet", "write_ipc", "write_ipc_stream"])
def test_what_polars_writes(tmp_path: Path, write: str) -> None:
    frame = pl.DataFrame(
        {
            **QA,
            "category": pl.Series(["x", "y", "x"], dtype=pl.Categorical),
            "level": pl.Series(["low", "low", None], dtype=pl.Enum(["low", "high"])),
            "tags": pl.Series([["x"], [], None], dtype=pl.List(pl.Categorical)),
            "time": pl.Series([datetime.time(1), None, None]),
            "price": pl.Series([decimal.Decimal("1.5"), None, None]),
            "raw": pl.Series([b"\xff", b"a", None]),
            "pair": pl.Series([[1, 2], [3, 4], None], dtype=pl.Array(pl.Int8, 2)),
        }
    )
    getattr(frame, write)(tmp_path / "t")
    source = open_source(tmp_path / "t")
    items = list(source)
    assert json.loads(items[0].metadata) == {
        "category": "x",
        "level": "low",
        "tags": ["x"],
        "time": "01:00:00",
        "price": "1.5",
        "raw": "/w==",
        "pair": [1, 2],
    }
    assert len(items) == 3 and source.remarks == [] and source.fault is None


def test_vectors_are_left_out_and_offered(tmp_path: Path) -> None:
    table = pa.table(
        {
            **QA,
            "embedding": pa.array([[0.5] * 16, None, [1.0] * 16]),
            "fixed": pa.array([[0.5] * 4] * 3, pa.list_(pa.float32(), 4)),
            "scores": pa.array([[0.5] * 20, [0.5] * 21, None]),
            "few": pa.array([[0.5] * 3] * 3),
        }
    )
    for name in ("t.parquet", "t.arrow"):
        path = tmp_path / name
        items, _ = read(path, table)
        assert set(json.loads(items[0].metadata)) == {"scores", "few"}
        source = open_source(path)
        assert source.vectors == ["fixed", "embedding"]
        assert "without the vectors fixed, embedding" in source.decision

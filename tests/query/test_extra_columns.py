"""Exports with further columns: fields of the metadata and columns of the pool."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coresetdb.query.export import FORMATS, export
from coresetdb.query.selection import select
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction
from coresetdb.store.store import Store

ROWS = [Instruction.from_turns(("user", f"{n}?"), ("assistant", f"{n}!")) for n in range(4)]
METADATA = [
    {"dataset": "gsm8k", "stars": 1, "share": 1, "ok": True, "tags": ["a"], "of": {"part": "x"}},
    {"dataset": "mbpp", "stars": 2, "share": 0.5, "mixed": "a", "score": 9},
    {"dataset": "mbpp", "stars": None, "mixed": 3, "tags": [], "of": {"part": "y"}, "big": 1 << 70},
    {"dataset": None, "mixed": ["b"], "tokens": "own"},
]


@pytest.fixture
def written(tmp_path, toys):
    """Export four rows with further columns; a function from source_id to row, and the account."""
    store = toys.toy_store(tmp_path / "small")
    store.insert("pool", toys.pool_rows(ROWS, ["mixed"] * 4, METADATA))
    coreset = select(store, method="random", budget="4", seed=4, name="all")

    def run(name="out.jsonl", **options):
        out = tmp_path / name
        account = export(store, coreset, str(out), **options)
        if name.endswith(".parquet"):
            rows = pq.read_table(out).to_pylist()
        else:
            rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
        order = [row.id for row in ROWS]
        return sorted(rows, key=lambda row: order.index(row["id"])), account, out

    return run


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_fields_become_columns_of_one_type(written, suffix):
    fields = ["dataset", "stars", "share", "ok", "tags", "mixed", "of.part", "of", "big"]
    rows, account, out = written(f"out.{suffix}", with_fields=fields)
    assert {field: [row[field] for row in rows] for field in fields} == {
        "dataset": ["gsm8k", "mbpp", "mbpp", None],
        "stars": [1, 2, None, None],
        "share": [1.0, 0.5, None, None],
        "ok": [True, None, None, None],
        "tags": [["a"], None, [], None],
        "mixed": [None, "a", "3", '["b"]'],
        "of.part": ["x", None, "y", None],
        "of": ['{"part":"x"}', None, '{"part":"y"}', None],
        "big": [None, None, str(1 << 70), None],
    }
    assert account.remarks["no dataset"] == 1 and account.remarks["no ok"] == 3
    assert account.remarks["mixed is text, as it is not of one kind"] == 3
    assert (
        json.loads((out.parent / f"{out.name}.manifest.json").read_text())["export"]["with"]
        == fields
    )
    if suffix == "parquet":
        schema = pq.read_schema(out)
        assert schema.field("share").type == pa.float64()
        assert schema.field("stars").type == pa.int64()


def test_columns_of_the_pool_and_other_names(written):
    rows, _, _ = written(with_fields=["source_id", "own_score=score", "rds_norm", "added_at", "id"])
    assert [row["source_id"] for row in rows] == [f"row-{n}" for n in range(4)]
    assert [row["own_score"] for row in rows] == [None, 9, None, None]
    assert all(row["rds_norm"] > 0 and row["added_at"][:2] == "20" for row in rows)
    rows, _, _ = written(with_fields=["meta_tokens", "rds"], overwrite=True)
    assert [row["meta_tokens"] for row in rows] == [None, None, None, "own"]
    assert len(rows[0]["rds"]) == 16


@pytest.mark.parametrize("format", FORMATS)
def test_all_metadata_in_every_format(written, format):
    rows, _, _ = written(format=format, with_metadata=True, with_fields=["dataset"])
    assert [json.loads(row["metadata"]) for row in rows] == METADATA
    assert [row["source_id"] for row in rows] == [f"row-{n}" for n in range(4)]
    assert [row["dataset"] for row in rows] == ["gsm8k", "mbpp", "mbpp", None]


def test_what_cannot_be_had_is_refused(written):
    for fields, why in {
        "datasett": "no row has such a field",
        "score": r"the export has a column of that name; .* own_score=score",
        "messages": "part of the conversation",
        "a=dataset,a=stars": "the export has a column of that name",
        "=": "give names of fields",
    }.items():
        with pytest.raises(UsageError, match=why):
            written(with_fields=fields.split(","))
    with pytest.raises(UsageError, match=r"there are .*dataset"):
        written(with_fields=["datasett"])


def test_a_field_that_only_other_rows_have_is_null(written, tmp_path):
    runs = pa.table(
        {"run": ["r1"], "metadata_keys": pa.array([["licence"]], pa.list_(pa.string()))}
    )
    Store.open(str(tmp_path / "small")).insert("runs", runs)
    rows, account, _ = written(with_fields=["licence"])
    assert [row["licence"] for row in rows] == [None] * 4 and account.remarks == {"no licence": 4}


def test_a_column_that_few_rows_fill_is_filled_at_the_top_of_the_file(written):
    _, _, out = written(with_fields=["big", "ok"])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    for field in ("big", "ok"):
        assert any(line[field] is not None for line in lines[:2])

"""Counts and sums of groups are those of the whole table, however it is cut into batches."""

from __future__ import annotations

from collections import defaultdict

import lance
import numpy as np
import pyarrow as pa
import pytest

from coresetdb.store import grouping
from coresetdb.store.grouping import grouped

CORPORA = ["a", "b", None, "c"]


@pytest.fixture
def rows() -> list[dict]:
    generator = np.random.default_rng(0)
    return [
        {
            "corpus": CORPORA[generator.integers(4)],
            "file": f"{generator.integers(30)}.jsonl",
            "tokens": None if generator.random() < 0.2 else int(generator.integers(100)),
            "empty": None,
            "truncated": bool(generator.random() < 0.5),
        }
        for _ in range(500)
    ]


def by_hand(rows: list[dict], by: tuple[str, ...]) -> dict:
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in by)].append(row)
    return {
        key: (
            sum(row["tokens"] is not None for row in own),
            sum(row["tokens"] or 0 for row in own),
            sum(row["truncated"] for row in own),
        )
        for key, own in groups.items()
    }


@pytest.mark.parametrize("by", [("corpus",), ("corpus", "file")])
@pytest.mark.parametrize("most_groups", [1, 1 << 18])
def test_groups_of_batches_are_those_of_the_table(tmp_path, monkeypatch, rows, by, most_groups):
    monkeypatch.setattr(grouping, "_BATCH_ROWS", 7)
    monkeypatch.setattr(grouping, "_MOST_GROUPS", most_groups)
    table = pa.Table.from_pylist(rows).cast(
        pa.schema(
            [
                ("corpus", pa.string()),
                ("file", pa.string()),
                ("tokens", pa.int32()),
                ("empty", pa.int32()),
                ("truncated", pa.bool_()),
            ]
        )
    )
    dataset = lance.write_dataset(table, tmp_path / "t.lance", max_rows_per_file=90)
    wanted = [("tokens", "count"), ("tokens", "sum"), ("truncated", "sum"), ("empty", "sum")]
    found = grouped(dataset, by, wanted)
    assert {
        tuple(row[name] for name in by): (
            row["tokens_count"],
            row["tokens_sum"] or 0,
            row["truncated_sum"],
        )
        for row in found
    } == by_hand(rows, by)
    assert all(row["empty_sum"] is None for row in found)


def test_no_rows_no_groups(tmp_path):
    table = pa.table({"corpus": pa.array([], pa.string())})
    assert grouped(lance.write_dataset(table, tmp_path / "t.lance"), ["corpus"]) == []

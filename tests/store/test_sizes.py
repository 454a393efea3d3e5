"""Bytes of a table's columns on disk, against files that hold one column each."""

from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa
import pytest

from coresetdb.schemas.recipe import Recipe
from coresetdb.store.sizes import bytes_of_columns, bytes_per_row

ROWS = 3000
DRAW = np.random.default_rng(0)
COLUMNS = {
    "id": pa.array([DRAW.bytes(16).hex() for _ in range(ROWS)]),
    "rds": pa.FixedSizeListArray.from_arrays(
        pa.array(DRAW.standard_normal(ROWS * 64).astype(np.float16)), 64
    ),
    "trim": pa.array([[n % 900, n] * (n % 5) for n in range(ROWS)], pa.list_(pa.int32())),
    "trim_codes": pa.array(
        [[[n % 100] * 16] * (n % 5) for n in range(ROWS)], pa.list_(pa.list_(pa.int8(), 16))
    ),
    "rds_reason": pa.nulls(ROWS, pa.string()),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("sizes") / "pool.lance")
    rows = pa.table(COLUMNS)
    for start in (0, 2000):
        lance.write_dataset(rows.slice(start, 2000), place, mode="append")
    return lance.dataset(place)


def test_each_column_takes_what_a_file_of_it_alone_does(table, tmp_path):
    sizes = bytes_of_columns(table)
    assert set(sizes) == set(COLUMNS)
    for name, column in COLUMNS.items():
        alone = str(tmp_path / f"{name}.lance")
        for start in (0, 2000):
            part = pa.table({name: column.slice(start, 2000)})
            lance.write_dataset(part, alone, mode="append")
        files = (tmp_path / f"{name}.lance" / "data").iterdir()
        written = sum(file.stat().st_size for file in files)
        assert sizes[name] == pytest.approx(written, rel=0.1, abs=4000), name  # footers, padding


def test_columns_are_summed_by_feature(table):
    rds = Recipe("rds", 1, columns=("rds", "rds_reason"))
    trim = Recipe("trim", 1, columns=("trim", "trim_codes", "trim_reason"))
    found = {
        row["of"]: row["bytes per row"] for row in bytes_per_row(table, {"rds": rds, "trim": trim})
    }
    sizes = bytes_of_columns(table)
    assert list(found) == ["rds", "trim", "texts and keys"]
    assert found["rds"] == round((sizes["rds"] + sizes["rds_reason"]) / ROWS) >= 128
    assert found["trim"] == round((sizes["trim"] + sizes["trim_codes"]) / ROWS)
    assert found["texts and keys"] == round(sizes["id"] / ROWS)


def test_an_empty_table_has_no_bytes_per_row(tmp_path):
    empty = lance.write_dataset(pa.table(COLUMNS).slice(0, 0), str(tmp_path / "empty.lance"))
    assert bytes_per_row(empty, {}) == []

"""Reading only the eligible rows: the same rows in the same order, whatever the filter is."""

import lance
import numpy as np
import pyarrow as pa
import pytest

from coresetdb.query.scanning.rows import Scanned, eligible_batches
from coresetdb.schemas.ids import IdSet, ids_of, keys_of

WIDTH = 64


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """3,000 rows in fragments of 5 to 1,500, some deleted, every seventh vector null."""
    generator = np.random.default_rng(0)
    ids = [generator.bytes(16).hex() for _ in range(3000)]
    vectors = generator.standard_normal((3000, WIDTH)).astype(np.float16)
    values = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.ravel()), WIDTH, mask=pa.array(np.arange(3000) % 7 == 3)
    )
    numbers = [[number] * (number % 5) for number in range(3000)]
    table = pa.table({"id": ids, "rds": values, "units": pa.array(numbers, pa.list_(pa.int32()))})
    place = str(tmp_path_factory.mktemp("eligible") / "pool.lance")
    start = 0
    for rows in (700, 5, 1500, 95, 700):
        lance.write_dataset(table.slice(start, rows), place, mode="append")
        start += rows
    dataset = lance.dataset(place)
    dataset.delete(f"id IN ('{ids[3]}', '{ids[702]}', '{ids[1400]}', '{ids[2999]}')")
    return dataset


def masks(rows):
    """Which rows are eligible, by name."""
    generator = np.random.default_rng(1)
    places = np.arange(rows)
    return {
        "all": np.ones(rows, bool),
        "none": np.zeros(rows, bool),
        "one": places == 1399,
        "the last": places == rows - 1,
        "side by side": (places >= 690) & (places < 1200),
        "scattered, few": generator.random(rows) < 0.01,
        "scattered, many": generator.random(rows) < 0.6,
        "two corpora": (places < 300) | (places > 2600),
        "all but one": places != 1000,
    }


@pytest.mark.parametrize("name", masks(1))
@pytest.mark.parametrize("seek", [1, 8 << 10])
@pytest.mark.parametrize("stretch", [64, 1000, 1 << 16])
def test_same_rows_in_the_same_order(pool, monkeypatch, name, seek, stretch):
    monkeypatch.setattr("coresetdb.query.scanning.rows.SEEK_BYTES", seek)
    monkeypatch.setattr("coresetdb.query.scanning.rows.STRETCH_ROWS", stretch)
    whole = pool.to_table()
    mask = masks(whole.num_rows)[name]
    expected = whole.filter(pa.array(mask))
    eligible = IdSet(keys_of(expected["id"]))
    seen = Scanned()
    batches, keys = [], []
    for own, batch in eligible_batches(
        pool, ["id", "rds", "units"], eligible, seen, batch_rows=100, row_bytes=2 * WIDTH
    ):
        assert len(own) == batch.num_rows <= 100
        keys.append(own)
        batches.append(batch)
    found = pa.Table.from_batches(batches, whole.schema)
    assert found.equals(expected)
    assert [text for own in keys for text in ids_of(own)] == expected["id"].to_pylist()
    assert (seen.rows, seen.filtered) == (whole.num_rows, whole.num_rows - int(mask.sum()))


def test_no_filter_reads_everything(pool):
    seen = Scanned()
    batches = [
        batch
        for _, batch in eligible_batches(
            pool, ["id", "rds"], None, seen, batch_rows=100, row_bytes=2 * WIDTH
        )
    ]
    assert pa.Table.from_batches(batches).equals(pool.to_table(columns=["id", "rds"]))
    assert (seen.rows, seen.filtered) == (2996, 0)


class Counting:
    """A dataset that counts the rows whose vectors are asked for."""

    def __init__(self, dataset):
        self._dataset, self.uri, self.rows = dataset, dataset.uri, 0

    def scanner(self, columns, **options):
        self.rows += options.get("limit", 0) if "rds" in columns else 0
        return self._dataset.scanner(columns=columns, **options)

    def take(self, rows, columns):
        self.rows += len(rows)
        return self._dataset.take(rows, columns=columns)


@pytest.mark.parametrize(
    ("name", "uri", "most"),
    [
        ("none", "pool", 0),
        ("side by side", "pool", 510),
        ("two corpora", "pool", 700),
        ("scattered, few", "pool", 60),
        ("one", "s3://bucket/pool", 1),
        ("side by side", "s3://bucket/pool", 510),
    ],
)
def test_little_else_is_read(pool, name, uri, most):
    """With rows as wide as an embedding's, so that a seek is worth it."""
    counting = Counting(pool)
    counting.uri = uri
    ids = pool.to_table(columns=["id"])["id"]
    eligible = IdSet(keys_of(ids.filter(pa.array(masks(len(ids))[name]))))
    for _ in eligible_batches(
        counting, ["id", "rds"], eligible, Scanned(), batch_rows=512, row_bytes=2048
    ):
        pass
    assert counting.rows <= most

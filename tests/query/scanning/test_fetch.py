"""Vectors and columns that selectors ask for beside the scan, against the whole table."""

from types import SimpleNamespace

import lance
import numpy as np
import pyarrow as pa
import pytest

from coresetdb.query.scanning.fetch import fetcher
from coresetdb.schemas.ids import IdSet, ids_of, keys_of
from coresetdb.selectors.reductions import Columns, Vectors

WIDTH = 8


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """400 rows in three fragments, every fifth without a vector; and the same as plain lists."""
    generator = np.random.default_rng(0)
    ids = [generator.bytes(16).hex() for _ in range(400)]
    vectors = generator.standard_normal((400, WIDTH)).astype(np.float16)
    missing = np.arange(400) % 5 == 2
    table = pa.table(
        {
            "id": ids,
            "rds": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.ravel()), WIDTH, mask=pa.array(missing)
            ),
            "corpus": [None if n % 7 == 0 else f"c{n % 3}" for n in range(400)],
            "tokens": pa.array([None if n % 11 == 0 else n for n in range(400)], pa.int32()),
        }
    )
    place = str(tmp_path_factory.mktemp("fetch") / "pool.lance")
    for start, stop in ((0, 30), (30, 300), (300, 400)):
        lance.write_dataset(table.slice(start, stop - start), place, mode="append")
    feature = SimpleNamespace(column="rds", width=WIDTH)
    return fetcher(lance.dataset(place), feature), table, vectors, missing


@pytest.mark.parametrize("every", [None, 1, 3, 397])
def test_vectors_of_all_eligible_rows_by_id(rows, every):
    fetch, table, vectors, missing = rows
    ids = table["id"].to_pylist()
    allowed = np.arange(400) % (every or 1) == 0
    eligible = None if every is None else IdSet(keys_of(table["id"].filter(pa.array(allowed))))
    found = fetch(Vectors(), eligible)
    expected = sorted((n for n in range(400) if allowed[n] and not missing[n]), key=ids.__getitem__)
    assert ids_of(found.keys) == [ids[n] for n in expected]
    assert found.vectors.dtype == np.float16 and (found.vectors == vectors[expected]).all()


def test_vectors_of_named_rows_in_the_order_asked(rows):
    fetch, table, vectors, _ = rows
    asked = [399, 0, 31, 300, 29, 150]
    found = fetch(Vectors(keys_of(table["id"].take(asked))), None)
    assert ids_of(found.keys) == table["id"].take(asked).to_pylist()
    assert (found.vectors == vectors[asked]).all()


@pytest.mark.parametrize("every", [None, 6])
def test_columns_in_the_order_of_ids(rows, every):
    fetch, table, *_ = rows
    kept = table if every is None else table.filter(pa.array(np.arange(400) % every == 0))
    eligible = None if every is None else IdSet(keys_of(kept["id"]))
    found = fetch(Columns(("tokens",)), eligible)
    corpora = fetch(Columns(("corpus",)), eligible)
    expected = kept.sort_by("id")
    assert ids_of(found.keys) == ids_of(corpora.keys) == expected["id"].to_pylist()
    assert corpora.columns["corpus"].tolist() == expected["corpus"].to_pylist()
    tokens = [np.nan if each is None else each for each in expected["tokens"].to_pylist()]
    np.testing.assert_array_equal(found.columns["tokens"], tokens)

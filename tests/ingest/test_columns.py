"""Feature columns on their way to storage."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from coresetdb.ingest import columns
from coresetdb.ingest.columns import no_rows, ragged, to_arrow
from coresetdb.schemas.stored_vectors import encoded, packed


@pytest.mark.parametrize("bound", [1 << 31, 7, 1])
def test_lists_with_more_values_than_offsets_can_count_come_in_parts(monkeypatch, bound):
    monkeypatch.setattr(columns, "LIST_VALUES", bound)
    rows = [np.arange(n, dtype=np.int32) for n in (3, 0, 5, 2, 4)]
    kind = pa.list_(pa.int32())
    found = to_arrow(ragged([*rows, None]), kind)
    assert found.type == kind
    assert found.to_pylist() == [*(row.tolist() for row in rows), None]
    assert isinstance(found, pa.ChunkedArray) == (bound < 14)
    assert pa.table({"x": found}).num_rows == 6
    assert to_arrow(np.empty(0, object), kind).to_pylist() == []


@pytest.mark.parametrize("bound", [1 << 31, 3])
def test_lists_of_vectors(monkeypatch, bound):
    monkeypatch.setattr(columns, "LIST_VALUES", bound)
    rows = [np.arange(2 * n, dtype=np.int8).reshape(n, 2) for n in (3, 0, 1)]
    kind = pa.list_(pa.list_(pa.int8(), 2))
    found = to_arrow(ragged([*rows, None]), kind)
    assert found.type == kind
    assert found.to_pylist() == [*(row.tolist() for row in rows), None]
    assert isinstance(found, pa.ChunkedArray) == (bound < 4)
    assert to_arrow(ragged([[[1, 2]], None]), kind).to_pylist() == [[[1, 2]], None]
    assert to_arrow(np.empty(0, object), kind).to_pylist() == []


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((1, 3), pa.list_(pa.list_(pa.int8(), 2))),
        ((4,), pa.list_(pa.list_(pa.int8(), 2))),
        ((2, 2), pa.list_(pa.int8())),
    ],
)
def test_values_of_another_shape_are_refused(shape, kind):
    with pytest.raises(ValueError, match=r"a value of shape .* does not fit list<"):
        to_arrow(ragged([np.ones(shape, np.int8)]), kind)


def test_vectors_of_each_type_with_gaps():
    vectors = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    vectors[2, 5] = np.nan
    kept = [0, 1, 3]
    stored = {
        pa.list_(pa.float16(), 8): vectors[kept].astype(np.float16),
        pa.list_(pa.int8(), 8): encoded(vectors[kept]),
        pa.list_(pa.uint8(), 2): packed(vectors[kept]),
    }
    for kind, expected in stored.items():
        column = to_arrow(vectors, kind)
        assert column.type == kind and column[2].as_py() is None
        assert [column[row].as_py() for row in kept] == expected.tolist()
        assert no_rows(kind).shape == (0, 8)

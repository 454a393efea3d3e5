"""The scan for scorers: which rows share a block, what is read, how large a block gets."""

from __future__ import annotations

from itertools import pairwise

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coresetdb.ingest.representations.representation import Scorer
from coresetdb.query.scanning import columns as score_scan
from coresetdb.query.scanning.columns import scan_scores
from coresetdb.query.scanning.reducers import reducer_for
from coresetdb.query.scanning.rows import BLOCK_BYTES, packed, row_bytes
from coresetdb.schemas.ids import IdSet, ids_of, keys_of
from coresetdb.selectors.reductions import TopPerQuery

torch.set_num_threads(1)
KINDS = pa.schema(
    [
        ("id", pa.string()),
        ("codes", pa.list_(pa.int8())),
        ("scale", pa.float32()),
        ("states", pa.list_(pa.float16(), 4)),
    ]
)


def table(lengths, generator):
    """Rows with `codes` of these lengths, None where there are none."""
    codes = [
        None if length is None else generator.integers(-9, 9, length, np.int8) for length in lengths
    ]
    states = generator.standard_normal((len(lengths), 4)).astype(np.float16)
    columns = {
        "id": [generator.bytes(16).hex() for _ in lengths],
        "codes": codes,
        "scale": generator.random(len(lengths), np.float32),
        "states": pa.FixedSizeListArray.from_arrays(pa.array(states.ravel()), 4),
    }
    return pa.table(columns, schema=KINDS)


class Sums(Scorer):
    """weight x scale x sum of codes; writes down what it was handed."""

    columns = ("codes", "scale")

    def __init__(self, weight):
        self.weight = weight
        self.blocks = []

    def scores(self, rows):
        self.blocks.append(rows)
        codes = rows.column("codes")
        assert codes.offset == 0 and codes.offsets[0].as_py() == 0
        sums = [np.nan if each is None else float(sum(each)) for each in codes.to_pylist()]
        return self.weight * np.array(sums) * rows.column("scale").to_numpy()


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """600 rows in fragments of 7 to 300, every eleventh without codes."""
    generator = np.random.default_rng(3)
    lengths = [None if n % 11 == 4 else int(generator.integers(0, 40)) for n in range(600)]
    rows = table(lengths, generator).rename_columns(["id", "codes__1f", "scale__1f", "states"])
    place = str(tmp_path_factory.mktemp("scan") / "pool.lance")
    start = 0
    for count in (7, 300, 93, 200):
        lance.write_dataset(rows.slice(start, count), place, mode="append")
        start += count
    return lance.dataset(place), rows.to_pylist()


COLUMNS = {"codes": "codes__1f", "scale": "scale__1f"}


def naive(rows, weight):
    scores = {
        row["id"]: np.float32(weight * sum(row["codes__1f"]) * row["scale__1f"])
        for row in rows
        if row["codes__1f"] is not None
    }
    return sorted(scores.items(), key=lambda each: (-each[1], each[0]))


def scanned(dataset, scorers, k, eligible=None):
    reducers = [reducer_for(TopPerQuery(k), slice(n, n + 1)) for n in range(len(scorers))]
    seen = scan_scores(dataset, COLUMNS, scorers, reducers, eligible)
    return seen, [reducer.result() for reducer in reducers]


def test_every_row_is_scored_for_every_target(pool):
    dataset, rows = pool
    scorers = [Sums(1.0), Sums(-2.0)]
    seen, found = scanned(dataset, scorers, 1000)
    lacking = sum(row["codes__1f"] is None for row in rows)
    assert (seen.rows, seen.filtered, seen.missing) == (600, 0, lacking)
    assert seen.scored == 600 - lacking
    for lists, scorer in zip(found, scorers, strict=True):
        expected = naive(rows, scorer.weight)
        assert ids_of(lists.keys[0]) == [row for row, _ in expected]
        np.testing.assert_allclose(lists.scores[0], [score for _, score in expected], rtol=1e-6)
    assert [block.schema.names for block in scorers[0].blocks] == [["codes", "scale"]]


def test_a_filter(pool):
    dataset, rows = pool
    allowed = rows[::3]
    eligible = IdSet(keys_of(pa.array([row["id"] for row in allowed])))
    seen, (found,) = scanned(dataset, [Sums(1.0)], 50, eligible)
    assert ids_of(found.keys[0]) == [row for row, _ in naive(allowed, 1.0)[:50]]
    assert (seen.rows, seen.filtered) == (600, 400)
    nobody, (empty,) = scanned(dataset, [Sums(1.0)], 9, IdSet(keys_of(pa.array([], pa.string()))))
    assert nobody.scored == 0 and empty.keys.shape[1] == 0


def test_only_the_columns_of_the_scorers_are_read(pool, monkeypatch):
    dataset, _ = pool
    asked = []
    scanner = lance.LanceDataset.scanner

    def seen(self, columns=None, *args, **options):
        asked.append(columns)
        return scanner(self, columns, *args, **options)

    monkeypatch.setattr(lance.LanceDataset, "scanner", seen)
    scanned(dataset, [Sums(1.0)], 5)
    assert asked == [["id", "codes__1f", "scale__1f"]]


lengths = st.lists(st.one_of(st.none(), st.integers(0, 60)), max_size=40)


@given(lengths, st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(20, 300))
@settings(max_examples=25)
def test_blocks_do_not_depend_on_how_batches_were_cut(lengths, cuts, most):
    rows = table(lengths, np.random.default_rng(0))

    def cut():
        start, turn = 0, 0
        while start < rows.num_rows:
            yield from rows.slice(start, cuts[turn % len(cuts)]).to_batches()
            start, turn = start + cuts[turn % len(cuts)], turn + 1

    blocks = list(packed(cut(), 8, most))
    whole = list(packed(iter(rows.to_batches()), 8, most))
    assert [each.num_rows for each in blocks] == [each.num_rows for each in whole]
    assert pa.Table.from_batches(blocks, KINDS).equals(rows)
    for block in blocks:
        assert block.num_rows <= 8
        assert block.num_rows == 1 or row_bytes(block).sum() <= most
    for block, after in pairwise(blocks):
        full = row_bytes(block).sum() + row_bytes(after.slice(0, 1))[0] > most
        assert block.num_rows == 8 or full


def test_bytes_of_rows():
    rows = table([3, None, 0, 10], np.random.default_rng(0)).to_batches()[0]
    fixed = 32 + 4 + 8
    assert row_bytes(rows).tolist() == [fixed + 3, fixed, fixed, fixed + 10]
    assert row_bytes(rows.slice(3)).tolist() == [fixed + 10]


def test_lists_of_vectors_weigh_their_numbers():
    rows = pa.array([[[1] * 6] * 2, None, [], [[1] * 6]], pa.list_(pa.list_(pa.int8(), 6)))
    assert row_bytes(pa.record_batch({"codes": rows})).tolist() == [12, 0, 0, 6]


def test_long_rows_make_small_blocks(tmp_path):
    """Rows of 60 kB: a block holds no more than its bytes, whatever Lance hands over."""
    generator = np.random.default_rng(5)
    rows = table([60_000] * 300, generator).rename_columns(["id", *COLUMNS.values(), "states"])
    dataset = lance.write_dataset(rows, str(tmp_path / "long.lance"))
    scorer = Sums(1.0)
    scorer.scores = lambda batch: _noted(scorer, batch)
    seen, _ = scanned(dataset, [scorer], 10)
    assert seen.scored == 300
    assert max(scorer.blocks) <= BLOCK_BYTES and len(scorer.blocks) >= 4


def _noted(scorer, batch):
    scorer.blocks.append(int(row_bytes(batch).sum()))
    return np.zeros(batch.num_rows, np.float32)


class Refusing(Sums):
    """Gives minus infinity to the rows whose sum is odd."""

    refuses = "their sum is odd"

    def scores(self, rows):
        found = super().scores(rows)
        return np.where(found % 2 == 1, -np.inf, found) * rows.column("scale").to_numpy()


def test_threads_change_nothing(pool, monkeypatch):
    """Blocks of at most 32 rows, scored in threads of their own."""
    dataset, _ = pool
    monkeypatch.setattr(score_scan, "MAX_BLOCK_ROWS", 32)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            scorers = [Sums(1.0), Refusing(1.0)]
            scorers[1].columns = ("codes", "scale")
            seen, lists = scanned(dataset, scorers, 1000)
        finally:
            torch.set_num_threads(1)
        assert len(scorers[0].blocks) == -(-600 // 32)
        found.append((seen, lists))
    (one, first), (three, second) = found
    assert one == three and one.scored
    for alone, shared in zip(first, second, strict=True):
        assert (alone.keys == shared.keys).all() and (alone.scores == shared.scores).all()

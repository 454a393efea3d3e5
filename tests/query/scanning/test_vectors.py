"""The scan over a real Lance dataset against the full matrix."""

import itertools
import threading
import time

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch

from coresetdb.query.scanning import vectors as products
from coresetdb.query.scanning.reducers import reducer_for
from coresetdb.query.scanning.rows import mapped_ahead, read_ahead
from coresetdb.query.scanning.vectors import block_rows, scan_ids, scan_vectors, similarity_blocks
from coresetdb.schemas.ids import IdSet, ids_of, keys_of
from coresetdb.selectors.reductions import Shuffled, TopPerQuery

torch.set_num_threads(1)
WIDTH = 16


def unit(generator, rows):
    vectors = generator.standard_normal((rows, WIDTH)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def table(ids, vectors, missing):
    values = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.ravel(), pa.float16()), WIDTH, mask=pa.array(missing)
    )
    return pa.table({"id": ids, "rds": values, "text": ["x"] * len(ids)})


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """900 rows in fragments of 7 to 400, every ninth without the feature."""
    generator = np.random.default_rng(1)
    ids = [generator.bytes(16).hex() for _ in range(900)]
    vectors = unit(generator, 900)
    missing = np.arange(900) % 9 == 4
    place = str(tmp_path_factory.mktemp("scan") / "pool.lance")
    start = 0
    for rows in (7, 400, 93, 300, 100):
        part = slice(start, start + rows)
        lance.write_dataset(table(ids[part], vectors[part], missing[part]), place, mode="append")
        start += rows
    return lance.dataset(place), ids, vectors, missing


def naive_lists(queries, ids, vectors, allowed, k):
    similarity = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    rows = [j for j in range(len(ids)) if allowed[j]]
    return [
        [ids[j] for j in sorted(rows, key=lambda j: (-row[j], ids[j]))[:k]] for row in similarity
    ]


def scanned(dataset, queries, k, eligible=None):
    reducer = reducer_for(TopPerQuery(k), slice(0, len(queries)))
    matrix = torch.from_numpy(queries.astype(np.float32))
    seen = scan_vectors(dataset, "rds", matrix, [reducer], eligible)
    return seen, reducer.result()


@pytest.mark.parametrize("k", [1, 50, 2000])
def test_scan_equals_full_matrix(pool, k):
    dataset, ids, vectors, missing = pool
    queries = unit(np.random.default_rng(2), 5)
    seen, found = scanned(dataset, queries, k)
    assert [ids_of(keys) for keys in found.keys] == naive_lists(queries, ids, vectors, ~missing, k)
    assert (seen.rows, seen.missing, seen.filtered, seen.scored) == (900, 100, 0, 800)


def test_scan_with_a_mask(pool):
    dataset, ids, vectors, missing = pool
    queries = unit(np.random.default_rng(3), 4)
    allowed = np.arange(900) % 4 == 0
    eligible = IdSet(keys_of(pa.array([ids[j] for j in np.flatnonzero(allowed)])))
    seen, found = scanned(dataset, queries, 30, eligible)
    expected = naive_lists(queries, ids, vectors, allowed & ~missing, 30)
    assert [ids_of(keys) for keys in found.keys] == expected
    assert (seen.rows, seen.filtered) == (900, 675)
    assert seen.missing == int((allowed & missing).sum())
    nobody, empty = scanned(dataset, queries, 30, IdSet(keys_of(pa.array([], pa.string()))))
    assert nobody.scored == 0 and empty.keys.shape[1] == 0


def test_scores_do_not_depend_on_fragments(pool, tmp_path):
    """The same rows in one fragment give the same bits."""
    dataset, *_ = pool
    whole = lance.write_dataset(dataset.to_table(), str(tmp_path / "one.lance"))
    queries = unit(np.random.default_rng(4), 6)
    (_, first), (_, second) = scanned(dataset, queries, 100), scanned(whole, queries, 100)
    assert (first.keys == second.keys).all() and (first.scores == second.scores).all()


@pytest.mark.parametrize("count", [1, 5, 17, 40])
def test_scores_do_not_depend_on_threads_or_neighbours(pool, count):
    dataset, ids, *_ = pool
    queries = unit(np.random.default_rng(5), count)
    _, alone = scanned(dataset, queries, 900)
    torch.set_num_threads(3)
    try:
        _, shared = scanned(dataset, queries, 900)
    finally:
        torch.set_num_threads(1)
    assert (alone.keys == shared.keys).all() and (alone.scores == shared.scores).all()
    some = IdSet(keys_of(pa.array(ids[::3])))
    _, few = scanned(dataset, queries, 900, some)
    for query in range(count):
        scores = dict(zip(ids_of(alone.keys[query]), alone.scores[query].tolist(), strict=True))
        picked = zip(ids_of(few.keys[query]), few.scores[query].tolist(), strict=True)
        assert all(scores[row] == score for row, score in picked)


def test_scan_of_ids_feeds_every_row_once(pool):
    dataset, ids, *_ = pool
    reducer = reducer_for(Shuffled(5000, 3), slice(0, 0))
    seen = scan_ids(dataset, [reducer])
    assert sorted(ids_of(reducer.result().keys[0])) == sorted(ids)
    assert (seen.rows, seen.scored, seen.missing) == (900, 900, 0)


def test_blocks_lie_within_their_bounds():
    assert [block_rows(width) for width in (16, 256, 1024, 4096, 8192)] == [
        4096,
        4096,
        2048,
        512,
        256,
    ]


def test_read_ahead_keeps_order_and_passes_errors_on():
    assert list(read_ahead(iter(range(1, 50)))) == list(range(1, 50))

    def broken():
        yield 1
        raise OSError("the disk is gone")

    batches = read_ahead(broken())
    assert next(batches) == 1
    with pytest.raises(OSError, match="disk"):
        next(batches)


def test_mapped_ahead_keeps_order_bounds_its_work_and_passes_errors_on():
    taken, inside = [], []

    def items():
        for number in range(40):
            taken.append(number)
            yield number

    def square(number):
        time.sleep(0.002 * (number % 3))  # later ones are done before earlier ones
        inside.append((threading.get_ident(), torch.get_num_threads()))
        if number == 30:
            raise OSError("the disk is gone")
        return number * number

    torch.set_num_threads(4)
    try:
        squares = mapped_ahead(square, items(), 3)
        for number in range(30):
            assert next(squares) == number * number
            assert len(taken) <= number + 5
        with pytest.raises(OSError, match="disk"):
            next(squares)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(1)
    assert 1 < len({thread for thread, _ in inside}) <= 3
    assert {threads for _, threads in inside} == {1}


@pytest.mark.parametrize("threads", [1, 3])
def test_products_of_parts_of_any_size(threads):
    generator = np.random.default_rng(8)
    vectors, queries = unit(generator, 100), unit(generator, 3).astype(np.float32)
    keys = np.stack([np.arange(100), np.zeros(100, np.int64)], axis=1)
    ends = [0, 1, 1, 30, 31, 90, 100]
    parts = [
        (keys[start:end], torch.from_numpy(vectors[start:end]))
        for start, end in itertools.pairwise(ends)
    ]
    torch.set_num_threads(threads)
    try:
        blocks = list(similarity_blocks(parts, torch.from_numpy(queries), 16))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)
    assert [len(block.keys) for block in blocks] == [16] * 6 + [4]
    assert (np.concatenate([block.keys for block in blocks]) == keys).all()
    found = torch.cat([block.similarity for block in blocks], dim=1).numpy()
    assert np.abs(found - queries @ vectors.T.astype(np.float32)).max() < 1e-6


def test_a_scan_that_fails_leaves_torch_its_threads(pool):
    class Broken:
        def feed(self, block):
            raise OSError("no room")

    dataset, *_ = pool
    torch.set_num_threads(3)
    try:
        with pytest.raises(OSError, match="no room"):
            scan_vectors(dataset, "rds", torch.ones(2, WIDTH), [Broken()])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_scans_that_overlap_leave_torch_its_threads():
    """A thread that begins during a scan finds torch with one thread, and must not keep it."""
    torch.set_num_threads(3)
    found, inside, go_on = [], threading.Event(), threading.Event()

    def second():
        squares = mapped_ahead(lambda number: number * number, range(5))
        found.append(next(squares))
        inside.set()
        go_on.wait(10)
        found.extend(squares)
        found.append(torch.get_num_threads())

    try:
        first = mapped_ahead(abs, range(5))
        assert next(first) == 0
        other = threading.Thread(target=second)
        other.start()
        assert inside.wait(10)
        assert list(first) == [1, 2, 3, 4]
        go_on.set()
        other.join(10)
        assert found == [0, 1, 4, 9, 16, 3]
        later: list[int] = []
        fresh = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        fresh.start()
        fresh.join(10)
        assert later == [3] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_work_that_is_left_half_way_or_fails_where_it_is_taken():
    torch.set_num_threads(2)

    def items():
        yield from range(3)
        raise OSError("the table is gone")

    try:
        half = mapped_ahead(abs, range(100))
        assert next(half) == 0
        half.close()
        assert torch.get_num_threads() == 2
        assert not [t for t in threading.enumerate() if t.name.startswith("coresetdb-scan")]
        with pytest.raises(OSError, match="table is gone"):
            list(mapped_ahead(abs, items()))
        assert torch.get_num_threads() == 2
        assert list(mapped_ahead(abs, [])) == []
    finally:
        torch.set_num_threads(1)


def test_blocks_that_are_too_large_to_share_are_made_one_by_one(pool, monkeypatch):
    dataset, *_ = pool
    queries = unit(np.random.default_rng(9), 4)
    _, shared = scanned(dataset, queries, 100)
    monkeypatch.setattr(products, "WORK_BYTES", 1)
    monkeypatch.setattr(products, "mapped_ahead", None)
    _, alone = scanned(dataset, queries, 100)
    assert (alone.keys == shared.keys).all() and (alone.scores == shared.scores).all()


@pytest.fixture(scope="module", params=["int8", "int2"])
def coded(request, pool, tmp_path_factory):
    """The same rows as codes, in one fragment, and what these stand for."""
    _, ids, vectors, missing = pool
    if request.param == "int8":
        codes = np.rint(vectors * 127 / np.abs(vectors).max(axis=1, keepdims=True))
        stored = codes.astype(np.int8)
    else:
        codes = np.sign(vectors) * np.where(np.abs(vectors) < WIDTH**-0.5, 1, 3)
        codes[vectors == 0] = 1
        quarter = WIDTH // 4
        stored = np.zeros((len(codes), quarter), np.uint8)
        for number, column in enumerate(codes.T):  # the first quarter in the lowest bits
            bits = ((column + 3) / 2).astype(np.uint8) << np.uint8(2 * (number // quarter))
            stored[:, number % quarter] |= bits
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(stored.ravel()), stored.shape[1], mask=pa.array(missing)
    )
    table = pa.table({"id": ids, "rds": column})
    place = str(tmp_path_factory.mktemp("coded") / "pool.lance")
    units = codes / np.linalg.norm(codes.astype(np.float64), axis=1, keepdims=True)
    return lance.write_dataset(table, place), ids, units, missing


def scores_by_id(found, query):
    return dict(zip(ids_of(found.keys[query]), found.scores[query].tolist(), strict=True))


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("every", [1, 4])
def test_codes_compare_as_the_unit_vectors_they_stand_for(coded, squared, centred, every):
    dataset, ids, units, missing = coded
    queries = unit(np.random.default_rng(6), 3).astype(np.float32)
    centre = units.mean(axis=0) + 0.2 if centred else np.zeros(WIDTH)
    rows = units - centre
    expected = queries @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
    allowed = ~missing & (np.arange(900) % every == 0)
    reducer = reducer_for(TopPerQuery(900), slice(0, 3))
    mean = torch.from_numpy(centre.astype(np.float32)) if centred else None
    eligible = IdSet(keys_of(pa.array(ids[::every]))) if every > 1 else None
    seen = scan_vectors(
        dataset,
        "rds",
        torch.from_numpy(queries),
        [reducer],
        eligible,
        squared=squared,
        centre=mean,
    )
    assert seen.scored == allowed.sum()
    for query, row in enumerate(np.square(expected) if squared else expected):
        found = scores_by_id(reducer.result(), query)
        wanted = {ids[j]: row[j] for j in np.flatnonzero(allowed)}
        assert found == pytest.approx(wanted, abs=2e-6)


def test_scores_of_codes_do_not_depend_on_threads_or_neighbours(coded):
    dataset, ids, *_ = coded
    queries = unit(np.random.default_rng(7), 5)
    _, alone = scanned(dataset, queries, 900)
    torch.set_num_threads(3)
    try:
        _, shared = scanned(dataset, queries, 900)
    finally:
        torch.set_num_threads(1)
    assert (alone.keys == shared.keys).all() and (alone.scores == shared.scores).all()
    _, few = scanned(dataset, queries, 900, IdSet(keys_of(pa.array(ids[::3]))))
    for query in range(5):
        everything = scores_by_id(alone, query)
        assert all(everything[row] == score for row, score in scores_by_id(few, query).items())

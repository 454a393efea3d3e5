"""KNN-uniform and KNN-KDE against their algorithms, step by step over the full matrix."""

import heapq

import numpy as np
import pytest
import torch
from helpers.selector_driver import Pool, cosine_pool, drive, random_ids

from coresetdb.selectors.knn_kde import CROWDED, densities, fitted_sigma
from coresetdb.selectors.random_order import shuffle_words

torch.set_num_threads(1)


def distance_of(similarity, kind):
    gap = np.maximum(1.0 - similarity.astype(np.float64), 0.0)
    return np.sqrt(2 * gap) if kind == "euclidean" else gap


def orders_of(similarity, ids, count):
    """The `count` nearest rows of every query."""
    rows = range(len(ids))
    return [sorted(rows, key=lambda j, s=s: (-s[j], ids[j]))[:count] for s in similarity]


def naive_uniform(pool, alpha, c, most, kind):
    """p of every row: TSDS algorithm 1."""
    distance = distance_of(pool.similarity, kind)
    queries, rows = distance.shape
    most = min(most, rows)
    orders = orders_of(pool.similarity, pool.ids, most)
    near = 1
    while near < most:
        cost = sum(
            distance[m][orders[m][near]] - distance[m][orders[m][j]]
            for m in range(queries)
            for j in range(near)
        )
        if alpha / c * cost >= (1 - alpha) * queries:
            break
        near += 1
    mass = [sum(j in order[:near] for order in orders) / (near * queries) for j in range(rows)]
    return mass, [order[:near] for order in orders]


def naive_densities(vectors, union, sigma, count):
    """Row -> density among the union."""
    if not sigma:
        return dict.fromkeys(union, 1.0)
    exact = vectors.astype(np.float64)
    found = {}
    for row in union:
        gaps = sorted(max(0.0, 1 - exact[row] @ exact[each]) for each in union)[:count]
        found[row] = sum(max(0.0, 1 - 2 * gap / sigma**2) for gap in gaps)
    return found


def naive_kde(pool, alpha, c, most, kind, sigma, kde_k, rest, lonely=0.0):
    """p of every row: TSDS algorithm 2 with its heap, and the rows each query gives to."""
    distance = distance_of(pool.similarity, kind)
    queries, rows = distance.shape
    most = min(most, max(rows // 10, 2), rows)
    orders = orders_of(pool.similarity, pool.ids, most)
    union = sorted({j for order in orders for j in order})
    density = naive_densities(pool.vectors, union, sigma, min(kde_k, max(rows // 10, 1)))
    density = {row: max(lonely, each) for row, each in density.items()}
    full, cost, size = [0] * queries, [0.0] * queries, 1.0
    heap = [(1 / density[orders[m][0]], 0, m) for m in range(queries)] if most > 1 else []
    heapq.heapify(heap)
    while heap:
        size, place, m = heapq.heappop(heap)
        near = orders[m][: place + 1]
        following = distance[m][orders[m][place + 1]]
        cost[m] = sum((following - distance[m][j]) / density[j] for j in near)
        if alpha / c * sum(cost) >= (1 - alpha) * queries:
            break
        full[m] = place + 1
        if place + 2 < most:
            heapq.heappush(heap, (size + 1 / density[orders[m][place + 1]], place + 1, m))
    mass, givers = np.zeros(rows), []
    for m in range(queries):
        left = 1 / queries
        own = sum(1 / density[j] for j in orders[m])
        if rest == "spread" and full[m] == most - 1 and own < size * (1 - 1e-12):
            for j in orders[m]:
                mass[j] += 1 / density[j] / own / queries
            givers.append(orders[m])
            continue
        for j in orders[m][: full[m]]:
            mass[j] += 1 / (queries * size * density[j])
            left -= 1 / (queries * size * density[j])
        if left > 1e-12:
            mass[orders[m][full[m]]] += left
        givers.append(orders[m][: full[m] + (left > 1e-12)])
    return mass, givers


def assert_ranked(got, pool, mass, lists, k, means_settle):
    """Every pick where its mass and the rules for ties put it."""
    ids, rows = pool.ids, len(pool.ids)
    place = {text: j for j, text in enumerate(ids)}
    picked = [place[text] for text in got.ids]
    assert len(picked) == len(set(picked)) == min(k, rows)
    expected = np.sort(np.asarray(mass, np.float64))[::-1][: len(picked)]
    np.testing.assert_allclose(got.scores, expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(got.scores, [mass[j] for j in picked], rtol=2e-5, atol=1e-6)
    means = pool.similarity.astype(np.float64).mean(axis=0).astype(np.float32)
    settled = [
        (-score, -means[j] if means_settle or not score else 0, ids[j])
        for score, j in zip(got.scores, picked, strict=True)
    ]
    assert settled == sorted(settled)
    # Nobody who stayed out would have stood before the last.
    edge = settled[-1]
    for j in set(range(rows)) - set(picked):
        own = (-np.float32(mass[j]), -means[j] if means_settle or not mass[j] else 0, ids[j])
        assert own > edge or np.isclose(own[0], edge[0], rtol=2e-5)
    for j, query in zip(picked, got.queries, strict=True):
        givers = [m for m, rows in enumerate(lists) if j in rows] or range(len(lists))
        best = max(pool.similarity[m][j] for m in givers)
        assert int(query) == next(m for m in givers if pool.similarity[m][j] == best)


def case(number):
    """A pool, k, blocks and options; every third is tied, every eighth all equal."""
    generator = np.random.default_rng(number)
    queries, rows = int(generator.integers(1, 7)), int(generator.integers(1, 150))
    kind = "equal" if number % 8 == 7 else "tied" if number % 3 == 2 else "random"
    pool = cosine_pool(generator, queries, rows, kind=kind)
    k = int(generator.choice([1, 2, rows // 2 + 1, rows, rows + 5]))
    options = {
        "alpha": float(generator.choice([0.01, 0.3, 0.6, 0.8, 0.95])),
        "C": float(generator.choice([1.0, 5.0])),
        "Lmax": int(generator.choice([1, 3, 20, 5000])),
        "distance": str(generator.choice(["cosine", "euclidean"])),
    }
    return pool, k, generator.integers(1, 60, 3).tolist(), options


@pytest.fixture
def small_pending(monkeypatch):
    monkeypatch.setattr("coresetdb.query.scanning.top_k.pending_entries", lambda lists, k: 5)


def test_uniform_equals_naive(small_pending):
    stopped = 0
    for number in range(160):
        pool, k, blocks, options = case(number)
        mass, lists = naive_uniform(pool, *options.values())
        got = drive("knn_uniform", pool, k, blocks=blocks, options=options)
        assert_ranked(got, pool, mass, lists, k, means_settle=True)
        grown = any("nothing stopped" in note for note in got.notes)
        assert grown == (len(lists[0]) == min(options["Lmax"], len(pool.ids)))
        stopped += not grown
    assert 40 < stopped < 130


def test_kde_equals_naive(small_pending, monkeypatch):
    monkeypatch.setattr("coresetdb.selectors.knn_kde._ROWS_AT_ONCE", 5)
    monkeypatch.setattr("coresetdb.selectors.knn_kde._COLUMNS_AT_ONCE", 7)
    stopped = 0
    for number in range(160):
        pool, k, blocks, options = case(number)
        options["alpha"] = (0.01, 0.85, 0.93, 0.97)[number // 2 % 4]
        extra = {"sigma": (0.75, 0.3, 1.4, 0.0)[number % 4], "kde_k": (1000, 2)[number % 5 == 0]}
        extra["rest"] = ("last", "spread")[number // 8 % 2]
        mass, lists = naive_kde(pool, *options.values(), *extra.values())
        got = drive("knn_kde", pool, k, blocks=blocks, options=options | extra)
        assert_ranked(got, pool, mass, lists, k, means_settle=False)
        assert sum(mass) == pytest.approx(1)
        stopped += not any("nothing stopped" in note for note in got.notes)
    assert 25 < stopped < 130


def naive_sigma(vectors):
    """The reach that holds a thousandth of the pairs of distinct vectors."""
    distinct = [np.array(each) for each in {tuple(each) for each in vectors.astype(np.float64)}]
    gaps = sorted(
        1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        for at, a in enumerate(distinct)
        for b in distinct[:at]
    )
    if not gaps:
        return 0.75
    place = 0.001 * (len(gaps) - 1)
    below = gaps[int(place)]
    above = gaps[min(int(place) + 1, len(gaps) - 1)]
    near = max(below + (above - below) * (place - int(place)), 0)
    return min(max(np.sqrt(2 * near), 0.05), 0.75)


def test_kde_with_ties_by_mean_and_a_fitted_sigma_equals_naive(small_pending):
    different = 0
    for number in range(60):
        pool, k, blocks, options = case(number)
        options["alpha"] = (0.01, 0.85, 0.97)[number % 3]
        sigma, rest = round(naive_sigma(pool.vectors), 3), ("last", "spread")[number // 8 % 2]
        mass, lists = naive_kde(pool, *options.values(), sigma, 1000, rest, 1.0)
        options |= {"sigma": "auto", "rest": rest}
        got = drive("knn_kde", pool, k, blocks=blocks, options=options | {"ties": "mean"})
        assert got.fitted == pytest.approx({"sigma": sigma}, abs=2e-3)
        assert any(f"fitted to {len(pool.ids)} rows" in note for note in got.notes)
        assert_ranked(got, pool, np.array(mass), lists, k, means_settle=True)
        different += got.ids != drive("knn_kde", pool, k, blocks=blocks, options=options).ids
    assert different > 10


def test_what_a_fitted_sigma_is():
    generator = np.random.default_rng(0)
    pool = cosine_pool(generator, 1, 400, width=32)
    sigma = fitted_sigma(pool.vectors)
    assert sigma == pytest.approx(naive_sigma(pool.vectors), abs=1e-3)
    copies = np.concatenate([pool.vectors, np.repeat(pool.vectors[:1], 300, axis=0)])
    assert fitted_sigma(copies) == sigma  # copies are one row, else half of the pairs had no gap
    close = pool.vectors[:1] + generator.standard_normal((300, 32)) * 1e-3
    assert fitted_sigma(close.astype(np.float16)) == 0.05
    assert fitted_sigma(np.eye(64, dtype=np.float16)) == 0.75
    assert fitted_sigma(np.ones((5, 4), np.float16)) == 0.75  # there is no pair


def test_a_fitted_sigma_reads_a_sample(monkeypatch):
    monkeypatch.setattr("coresetdb.selectors.knn_kde.SAMPLE", 50)
    pool = cosine_pool(np.random.default_rng(3), 3, 300, width=16)
    first = sorted(range(300), key=lambda j: shuffle_words(pool.keys[j : j + 1], 0)[0])[:50]
    got = drive("knn_kde", pool, 100, options={"sigma": "auto"})
    assert got.fitted == {"sigma": fitted_sigma(pool.vectors[first])}
    turned = drive("knn_kde", pool.taken(range(299, -1, -1)), 100, options={"sigma": "auto"})
    assert (turned.ids, turned.fitted) == (got.ids, got.fitted)
    named = drive("knn_kde", pool, 100, options=got.fitted)
    assert named.ids == got.ids and not named.fitted


def test_a_sigma_that_covers_a_crowd_is_said():
    pool = cosine_pool(np.random.default_rng(1), 4, 400, width=8)
    crowd = "so typical rows are held back"
    said = []
    for sigma in (1.4, 0.1, 0.0):
        notes = drive("knn_kde", pool, 9, options={"sigma": sigma}).notes
        said.append([note for note in notes if crowd in note])
    assert [len(each) for each in said] == [1, 0, 0]
    union = {j for order in orders_of(pool.similarity, pool.ids, 40) for j in order}
    density = list(naive_densities(pool.vectors, union, 1.4, 40).values())
    assert f"density above {np.median(density):.1f} " in said[0][0]
    assert said[0][0].endswith("round_robin and top do not hold any back")


def test_a_few_rows_in_a_crowd_are_not_the_median():
    """A third of the rows are copies: their density raises the mean above the bound alone."""
    single, copies = np.eye(64, dtype=np.float16)[:40], np.repeat(np.eye(64)[40:41], 20, axis=0)
    vectors = np.concatenate([single, copies.astype(np.float16)])
    density = densities(vectors, 0.75, 60)
    assert density.mean() > CROWDED > np.median(density)
    generator = np.random.default_rng(7)
    asked = generator.random((1, 64)).astype(np.float32)
    asked[0, 40] = 2  # the copies are nearest
    far = np.repeat(-np.eye(64, dtype=np.float16)[50:51], 600, axis=0)
    every = np.concatenate([vectors, far])
    pool = Pool(random_ids(generator, 660), asked @ every.T.astype(np.float32), every)
    said = []
    for near in (60, 20):
        notes = drive("knn_kde", pool, 9, options={"sigma": 0.75, "Lmax": near}).notes
        said.append(any("typical rows are held back" in note for note in notes))
    assert said == [False, True]


@pytest.mark.parametrize("name", ["knn_uniform", "knn_kde"])
def test_pools_of_one_and_of_none(name):
    one = Pool(["a" * 32], np.array([[0.5], [0.2]], np.float32), np.ones((1, 1), np.float16))
    got = drive(name, one, 3)
    assert (got.ids, got.scores, got.queries) == (["a" * 32], [1.0], ["0"])
    empty = Pool([], np.empty((2, 0), np.float32), np.empty((0, 1), np.float16))
    assert drive(name, empty, 3).ids == []


def test_equal_rows_go_by_id_and_share_a_density():
    pool = cosine_pool(np.random.default_rng(5), 3, 400, kind="tied")
    same = {each.tobytes() for each in pool.vectors}
    density = densities(pool.vectors, 0.75, 40)
    assert len(set(density)) <= len(same)
    got = drive("knn_kde", pool, 400, options={"alpha": 0.9})
    assert not any("nothing stopped" in note for note in got.notes)
    place = {text: at for at, text in enumerate(got.ids)}
    twins: dict[bytes, list[str]] = {}
    for text, vector in zip(pool.ids, pool.vectors, strict=True):
        twins.setdefault(vector.tobytes(), []).append(text)
    for twin in twins.values():
        assert sorted(twin) == sorted(twin, key=lambda text: place[text])


def test_a_crowd_gets_less_than_the_lonely():
    """Two rows are equally near; one has thirty copies about it."""
    generator = np.random.default_rng(0)
    lonely, crowd = np.eye(4)[0] + np.eye(4)[2], np.eye(4)[1] + np.eye(4)[2]
    near = np.concatenate([lonely[None], np.repeat(crowd[None], 30, axis=0)]) / np.sqrt(2)
    far = np.repeat(-np.eye(4)[2:3], 300, axis=0)
    vectors = np.concatenate([near, far]).astype(np.float16)
    asked = np.array([[0, 0, 1, 0]], np.float32)
    pool = Pool(random_ids(generator, 331), asked @ vectors.astype(np.float32).T, vectors)
    got = drive("knn_kde", pool, 31, options={"Lmax": 31})
    assert got.ids[0] == pool.ids[0] and set(got.ids) == set(pool.ids[:31])
    assert got.scores[0] > 10 * got.scores[1]


def test_what_the_last_row_gets():
    """An example in a crowd has much left when a lonely one's rows are full."""
    pool = cosine_pool(np.random.default_rng(4), 4, 300, width=16)
    last = {order[-1] for order in orders_of(pool.similarity, pool.ids, 30)}
    ids = {pool.ids[j] for j in last}
    published = drive("knn_kde", pool, 30, options={"sigma": 0.75})
    spread = drive("knn_kde", pool, 30, options={"sigma": 0.75, "rest": "spread"})
    assert published.ids[0] in ids and spread.ids[0] not in ids
    assert published.scores[0] > 2 * spread.scores[0]


def test_the_union_is_held_to_its_bound_and_the_cut_is_said():
    pool = cosine_pool(np.random.default_rng(1), 6, 600, width=16)
    orders = orders_of(pool.similarity, pool.ids, 60)
    sizes = [len({j for order in orders for j in order[:reach]}) for reach in range(1, 61)]
    reach = max(at for at, size in enumerate(sizes, 1) if size <= 100)
    assert 2 < reach < 60
    got = drive("knn_kde", pool, 600, options={"union": 100})
    assert f"among {sizes[reach - 1]} rows" in got.notes[0]
    assert f"{reach} of the 60 nearest rows of every example" in got.notes[0]
    same = drive("knn_kde", pool, 600, options={"Lmax": reach})
    assert (got.ids, got.scores) == (same.ids, same.scores)
    tiny = drive("knn_kde", pool, 600, options={"union": 1})
    assert ": 2 of the 60 nearest" in tiny.notes[0] and len(set(tiny.ids)) == 600
    assert "nearest rows of every example" not in drive("knn_kde", pool, 600).notes[0]


def test_densities_count_the_nearest_only():
    vectors = np.repeat(np.eye(3, dtype=np.float16), [6, 2, 1], axis=0)
    assert densities(vectors, 0.75, 4).tolist() == [4.0] * 6 + [2.0] * 2 + [1.0]
    assert densities(vectors, 0.0, 4).tolist() == [1.0] * 9


def test_threads_change_no_density():
    vectors = cosine_pool(np.random.default_rng(2), 1, 1201, width=96).vectors
    alone = densities(vectors, 1.3, 30)
    torch.set_num_threads(2)
    try:
        assert (densities(vectors, 1.3, 30) == alone).all()
    finally:
        torch.set_num_threads(1)

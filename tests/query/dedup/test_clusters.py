"""Clusters of close vectors and texts against all pairs, compared one by one."""

from __future__ import annotations

import itertools
import tracemalloc

import lance
import numpy as np
import pyarrow as pa
import pytest

from coresetdb.query.dedup import close_texts, close_vectors
from coresetdb.query.dedup.close_texts import ShingledRows, shape_of_bands, shingles_of
from coresetdb.query.dedup.close_vectors import VectorRows, cluster_vectors, panel_rows
from coresetdb.query.dedup.linkage import LINKAGES, Chains
from coresetdb.schemas.progress import Silence


def naive(similarity, threshold, linkage):
    """The kept row of each row, from a square matrix of similarities; rows in order."""
    count = len(similarity)
    kept = list(range(count))
    if linkage == "single":
        for i, j in itertools.combinations(range(count), 2):
            if similarity[i][j] >= threshold and kept[i] != kept[j]:
                low, high = sorted((kept[i], kept[j]))
                kept = [low if each == high else each for each in kept]
    else:
        for j in range(count):
            for i in range(j):
                if kept[i] == i and similarity[i][j] >= threshold:
                    kept[j] = i
                    break
    return kept


def table_of(folder, vectors):
    width = vectors.shape[1]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float16()), width)
    uri = str(folder / "vectors.lance")
    for start in range(0, len(lists), 23):  # several fragments
        part = pa.table({"v": lists.slice(start, 23)})
        lance.write_dataset(part, uri, mode="append" if start else "create")
    dataset = lance.dataset(uri)
    dataset.delete("false")
    return dataset


def groups_of_vectors(rng, count=90, width=8):
    """Vectors around a few directions, of all lengths, so that clusters chain and touch."""
    directions = rng.standard_normal((9, width))
    near = directions[rng.integers(0, 9, count)] + 0.28 * rng.standard_normal((count, width))
    return (near * rng.uniform(0.5, 2, (count, 1))).astype(np.float16)


@pytest.mark.parametrize("linkage", LINKAGES)
@pytest.mark.parametrize(("tile", "memory"), [(16, 1), (16, 2000), (7, 1 << 20), (2048, 1)])
def test_vectors_are_clustered_as_all_pairs_say(tmp_path, monkeypatch, linkage, tile, memory):
    monkeypatch.setattr(close_vectors, "TILE_ROWS", tile)
    rng = np.random.default_rng(3)
    vectors = groups_of_vectors(rng)
    order = rng.permutation(len(vectors))[: len(vectors) - 5]  # some rows are not compared
    wide = vectors[order].astype(np.float64)
    units = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    rows = VectorRows(table_of(tmp_path, vectors), "v", order, vectors.shape[1])
    kept = cluster_vectors(rows, 0.9, LINKAGES[linkage](len(order)), memory, Silence())
    expected = naive(units @ units.T, 0.9, linkage)
    assert kept.tolist() == expected
    assert 5 < len(set(expected)) < 60


def test_a_threshold_of_one_finds_equal_directions(tmp_path):
    vector = np.random.default_rng(0).standard_normal(64)
    vectors = np.stack([vector, 3 * vector, -vector, vector + 0.05]).astype(np.float16)
    rows = VectorRows(table_of(tmp_path, vectors), "v", np.arange(4), 64)
    kept = cluster_vectors(rows, 1.0, Chains(4), 1 << 30, Silence())
    assert kept.tolist()[2:] == [2, 3]


def test_panels_and_tiles_bound_the_memory(tmp_path, monkeypatch):
    """Of 4 MB of vectors never more than a panel is held, and pairs no longer than a tile."""
    monkeypatch.setattr(close_vectors, "TILE_ROWS", 64)
    rows = np.random.default_rng(1).standard_normal((2048, 1024)).astype(np.float16)
    limit = 1 << 20
    assert panel_rows(1024, limit) * 1024 * 2 <= limit * close_vectors.PANEL_SHARE
    read = []
    true_tiles = VectorRows.tiles

    def counted(self, start, stop):
        for first, vectors in true_tiles(self, start, stop):
            read.append(vectors.nbytes)
            yield first, vectors

    monkeypatch.setattr(VectorRows, "tiles", counted)
    source = VectorRows(table_of(tmp_path, rows), "v", np.arange(len(rows)), 1024)
    tracemalloc.start()
    cluster_vectors(source, 0.9, Chains(len(rows)), limit, Silence())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(read) <= 64 * 1024 * 2
    assert peak < rows.nbytes / 2


def test_dense_pairs_are_joined_without_being_held():
    """Every pair of a thousand rows is close; what is held is a number a row."""
    clusters = Chains(1000)
    left, right = np.triu_indices(1000, 1)
    clusters.join(left, right)
    assert not clusters.matters(left, right).any()
    assert set(clusters.kept().tolist()) == {0}


def test_long_chains_are_one_cluster():
    clusters = Chains(5000)
    order = np.random.default_rng(0).permutation(4999)
    for part in np.array_split(order, 7):
        clusters.join(part, part + 1)
    assert set(clusters.kept().tolist()) == {0}


def words_of_groups(rng, count=120):
    """Texts that differ from one of a few by up to a third of their words, and repeats."""
    bases = [[f"b{base}w{n}" for n in range(40)] for base in range(12)]
    texts = []
    for _ in range(count):
        words = list(bases[rng.integers(0, 12)])
        for place in rng.integers(0, 40, rng.integers(0, 9)):
            words[place] = f"x{rng.integers(0, 1000)}"
        texts.append(words[: rng.integers(30, 41)])
    return [*texts, *texts[:10], ["one"], ["one"], ["two", "words"]]


def jaccard_of(texts, length):
    sets = [
        {tuple(words[at : at + length]) for at in range(max(1, len(words) - length + 1))}
        for words in texts
    ]
    return [[len(a & b) / len(a | b) for b in sets] for a in sets]


@pytest.mark.parametrize("linkage", LINKAGES)
@pytest.mark.parametrize(("threshold", "length"), [(0.8, 1), (0.6, 3), (1.0, 2)])
def test_texts_are_clustered_as_all_pairs_say(monkeypatch, linkage, threshold, length):
    monkeypatch.setattr(close_texts, "SHINGLES_AT_ONCE", 100)
    rng = np.random.default_rng(5)
    texts = words_of_groups(rng)
    order = rng.permutation(len(texts))
    expected = naive(jaccard_of([texts[at] for at in order], length), threshold, linkage)
    with ShingledRows(threshold) as rows:
        for start in range(0, len(texts), 17):
            rows.add([shingles_of(words, length) for words in texts[start : start + 17]])
        kept = rows.cluster(order, LINKAGES[linkage](len(order)), Silence())
    assert kept.tolist() == expected
    assert 10 < len(set(expected)) < len(texts)


def test_hardly_a_pair_at_the_threshold_is_missed():
    """2,000 pairs of exactly 0.8; the shape of the bands promises one missed in a thousand."""
    rng = np.random.default_rng(0)
    shared, own = 80, 10  # 80 / (80 + 10 + 10)
    sets = []
    for _ in range(2000):
        words = rng.integers(1 << 63, size=shared + 2 * own, dtype=np.uint64)
        sets += [np.sort(words[: shared + own]), np.sort(np.delete(words, np.s_[80:90]))]
    with ShingledRows(0.8) as rows:
        rows.add(sets)
        kept = rows.cluster(np.arange(len(sets)), Chains(len(sets)), Silence())
    found = (kept[1::2] == np.arange(0, len(sets), 2)).sum()
    assert found >= 1990


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_bands_show_a_pair_at_the_threshold(threshold):
    bands, width = shape_of_bands(threshold)
    assert bands * width <= close_texts.PERMUTATIONS
    assert (1 - threshold**width) ** bands <= close_texts.MOST_MISSED

"""Source-balanced and length-matched against naive ones that draw row by row."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from coresetdb.schemas.errors import MissingFeatureError
from coresetdb.schemas.ids import ids_of
from coresetdb.selectors.length_matched import upper_ends
from coresetdb.selectors.random_order import shuffled
from coresetdb.selectors.reductions import Columns, RowColumns
from coresetdb.selectors.registry import selectors
from coresetdb.selectors.selector import Task


def run(name, keys, column, k, seed=0, lengths=None, **options):
    """The numbers of the rows chosen, and the notes."""
    selector = selectors()[name]
    chosen = {key: option.default for key, option in selector.options.items()} | options
    passes = selector.passes(Task(0, len(keys), k, seed, chosen, lengths=lengths))
    (need,) = next(passes)
    assert isinstance(need, Columns)
    try:
        passes.send((RowColumns(keys, {need.names[0]: column}),))
    except StopIteration as end:
        assert end.value.scores is None
        place = {text: row for row, text in enumerate(ids_of(keys))}
        return [place[text] for text in ids_of(end.value.keys)], end.value.notes
    raise AssertionError("one pass is enough")


def case(number):
    """Random keys in the order of ids, and how many rows to take."""
    generator = np.random.default_rng(number)
    rows = int(generator.integers(1, 80))
    keys = generator.integers(-(2**63), 2**63 - 1, (rows, 2))
    keys = keys[np.lexsort((keys[:, 1], keys[:, 0]))]
    return generator, keys, int(generator.choice([1, 2, rows // 2 + 1, rows, rows + 5]))


def naive_source_balanced(keys, corpora, k, seed):
    order = shuffled(keys, seed).tolist()
    left = {name: [row for row in order if corpora[row] == name] for name in sorted(set(corpora))}
    picks = []
    while len(picks) < min(k, len(keys)):
        picks += [rows.pop(0) for rows in left.values() if rows]
    return picks[:k]


def naive_length_matched(keys, lengths, reference, k, seed, bins):
    """Every turn goes to the bin whose next row has the smallest (2j - 1) / n."""
    order = shuffled(keys, seed).tolist()
    reference = sorted(reference)
    ends = sorted({reference[math.ceil(len(reference) * b / bins) - 1] for b in range(1, bins + 1)})

    def bin_of(length):
        return next(number for number, end in enumerate(ends) if length <= end)

    weight = [sum(bin_of(each) == number for each in reference) for number in range(len(ends))]
    inside = [row for row in order if reference[0] <= lengths[row] <= reference[-1]]
    left = [[row for row in inside if bin_of(lengths[row]) == b] for b in range(len(ends))]
    taken, picks = [0] * len(ends), []
    while any(left):
        turns = [(Fraction(2 * taken[b] + 1, weight[b]), b) for b in range(len(ends)) if left[b]]
        best = min(turns)[1]
        picks.append(left[best].pop(0))
        taken[best] += 1
    away = {row: max(reference[0] - lengths[row], lengths[row] - reference[-1]) for row in order}
    return (picks + sorted(set(order) - set(inside), key=lambda r: (away[r], order.index(r))))[:k]


def test_source_balanced_equals_naive():
    for number in range(200):
        generator, keys, k = case(number)
        names = ["z", "a b", "é", "a"][: 1 + number % 4]
        corpora = np.array(generator.choice(names, len(keys)).tolist(), object)
        got, notes = run("source_balanced", keys, corpora, k, seed=number)
        assert got == naive_source_balanced(keys, corpora.tolist(), k, number), f"case {number}"
        assert notes == ()


def test_length_matched_equals_naive():
    for number in range(200):
        generator, keys, k = case(number)
        lengths = generator.integers(1, 40, len(keys))
        reference = generator.integers(1, 50, int(generator.integers(1, 30)))
        if number % 5 == 0:
            lengths[:] = 7
        if number % 3 == 0:
            reference = np.repeat(generator.integers(5, 9, 2), len(reference))
        bins = int(generator.choice([1, 2, 10, 100]))
        got, _ = run("length_matched", keys, lengths.astype(float), k, number, reference, bins=bins)
        expected = naive_length_matched(keys, lengths.tolist(), reference.tolist(), k, number, bins)
        assert got == expected, f"case {number}"


def test_a_prefix_is_matched_as_well_as_its_length_allows():
    """Within one row of the share of every bin, at every length: Sainte-Laguë for even bins."""
    generator, _, _ = case(3)
    keys = np.sort(generator.integers(0, 2**62, (5000, 2)), axis=0)
    lengths, reference = generator.integers(1, 1000, 5000), generator.integers(200, 400, 1000)
    got, notes = run("length_matched", keys, lengths.astype(float), 300, 0, reference)
    ends = upper_ends(reference, 10)
    shares = np.bincount(np.searchsorted(ends, reference), minlength=10) / 1000
    for k in range(1, 301):
        counts = np.bincount(np.searchsorted(ends, lengths[got[:k]]), minlength=10)
        assert np.abs(counts - k * shares).max() <= 1
    assert notes == () and len(ends) == 10


def test_what_runs_out_is_counted():
    _, keys, _ = case(8)
    keys = keys[:10]
    lengths = np.array([5.0, 5, 5, 5, 5, 5, 5, 5, 9, 30])
    got, notes = run("length_matched", keys, lengths, 8, 0, np.array([5, 5, 9, 9]), bins=2)
    assert sum(lengths[each] == 9 for each in got) == 1 and 9 not in got
    assert "first 3 rows; then" in notes[0] and "ran out: 1 row of 6-9 response tokens" in notes[0]
    everything, _ = run("length_matched", keys, lengths, 20, 0, np.array([5, 5, 9, 9]), bins=2)
    assert everything[-1] == 9 and sorted(everything) == list(range(10))


def test_rows_without_a_token_count_are_left_out():
    _, keys, _ = case(8)
    lengths = np.arange(len(keys), dtype=float) % 7
    lengths[::3] = np.nan
    got, notes = run("length_matched", keys, lengths, len(keys), 0, np.array([2, 5]))
    assert sorted(got) == np.flatnonzero(~np.isnan(lengths)).tolist()
    assert notes[0].startswith(f"left out: {np.isnan(lengths).sum()} eligible row")
    with pytest.raises(MissingFeatureError, match="no eligible row"):
        run("length_matched", keys, np.full(len(keys), np.nan), 3, 0, np.array([5]))

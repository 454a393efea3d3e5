"""The loop, on toy rankings of a few numbers: it ends, and what it returns is the plain ranking."""

import itertools

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from coresetdb.query.ranking import Picks
from coresetdb.query.rules.constrained import RuleLoop
from coresetdb.query.rules.quotas import Stratum, interleaved
from coresetdb.query.scanning.rows import Scanned
from coresetdb.schemas.ids import IdSet, keys_of


def name(number):
    return f"{number:032x}"


def keys(numbers):
    return keys_of(pa.array([name(number) for number in numbers], pa.string()))


def turns(similarity, allowed, k):
    """Plain round-robin over the allowed columns of a matrix."""
    picks = []
    while len(picks) < min(k, len(allowed)):
        row = similarity[len(picks) % len(similarity)]
        picks.append(min(set(allowed) - set(picks), key=lambda j: (-row[j], j)))
    return picks


class Objecting:
    """Objects to some rows, and to every second one of a colour that stands twice."""

    judges_spares = True

    def __init__(self, bad):
        self.bad, self.left, self.rounds = bad, [], 0

    def rejected(self, ids, chosen):
        self.rounds += 1
        numbers = [int(each, 16) for each in ids]
        if not self.bad.intersection(numbers[:chosen]):
            return keys([])
        self.left += [number for number in numbers if number in self.bad]
        return keys([each for each in numbers if each in self.bad])


def plain(similarity, members, calls):
    def rank(k, spare, rows, eligible):
        allowed = [j for j in members if eligible is None or eligible.contains(keys([j]))[0]]
        assert rows == len(allowed)
        calls.append(k + spare)
        picks = [name(j) for j in turns(similarity, allowed, k + spare)]
        return Picks(
            picks, [None] * len(picks), [None] * len(picks), [None] * len(picks)
        ), Scanned()

    return rank


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 60), st.integers(1, 70), st.data())
def test_the_plain_ranking_of_what_is_left(seed, queries, rows, k, data):
    similarity = np.random.default_rng(seed).integers(0, 5, (queries, rows)).tolist()
    bad = data.draw(st.sets(st.integers(0, rows - 1)))
    rule = Objecting(bad)
    part = Stratum(plain(similarity, range(rows), []), None, rows, lambda k: k)
    found = RuleLoop([part], lambda: keys(range(rows)), [rule]).first(k)
    left = [j for j in range(rows) if j not in set(rule.left)]
    assert found.ids == [name(j) for j in turns(similarity, left, k)]
    assert bad.isdisjoint(int(each, 16) for each in found.ids)


def test_few_rounds_where_most_rows_leave():
    rows, calls = 150, []
    rule = Objecting(set(range(135)))
    similarity = [list(range(rows, 0, -1))]
    part = Stratum(plain(similarity, range(rows), calls), None, rows, lambda k: k)
    found = RuleLoop([part], lambda: keys(range(rows)), [rule]).first(10)
    assert found.ids == [name(j) for j in range(135, 145)]
    assert rule.rounds == len(calls) <= 6


def test_a_part_from_which_nothing_left_is_not_ranked_again():
    calls = ([], [])
    similarity = [list(range(100, 0, -1))]
    parts = [
        Stratum(plain(similarity, part, own), IdSet(keys(part)), 50, lambda k: k // 2)
        for part, own in zip((range(50), range(50, 100)), calls, strict=True)
    ]
    found = RuleLoop(parts, lambda: keys(range(100)), [Objecting({1, 2})]).first(6)
    assert found.ids == [name(j) for j in (0, 50, 3, 51, 4, 52)]
    assert (len(calls[0]), len(calls[1])) == (2, 1)


def test_parts_stand_in_proportion_and_spares_behind():
    def picks(letter, count):
        return Picks([f"{letter}{at}" for at in range(count)], *[[None] * count] * 3, (letter,))

    whole, chosen = interleaved([(picks("a", 3), 2), (picks("b", 9), 8), (picks("c", 0), 0)])
    assert chosen == 10 and set(whole.ids[10:]) == {"a2", "b8"}
    for length in range(1, 11):
        share = sum(each.startswith("a") for each in whole.ids[:length])
        assert abs(share - length * 0.2) <= 1
    assert whole.notes == ("a", "b", "c")
    assert [each for each in whole.ids[:10] if each[0] == "b"] == [f"b{at}" for at in range(8)]
    assert list(itertools.chain(whole.scores, whole.targets)) == [None] * 24

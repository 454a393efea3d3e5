"""Several targets with weights: proportions in rows and tokens, records, replays, refusals."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresetdb.database import Database
from coresetdb.query.replay import replay
from coresetdb.query.selection import select
from coresetdb.query.weights import parse_weights, whole_weights
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.ids import keys_of
from coresetdb.selectors.round_robin import take_turns, take_weighted_turns

TARGETS = ["arithmetic", "python"]


def naive_weighted(lists, weights, k, size_of):
    """Every turn to the target whose next row lies lowest in its share; fractions as fractions."""
    from fractions import Fraction

    had, used, picks = [Fraction(0)] * len(lists), set(), []
    while len(picks) < k:
        waiting = []
        for player, rows in enumerate(lists):
            row = next((row for row in rows if row not in used), None)
            if row is not None:
                middle = (had[player] + Fraction(size_of(row), 2)) / Fraction(str(weights[player]))
                waiting.append((middle, player, row))
        if not waiting:
            break
        _, player, row = min(waiting)
        had[player] += size_of(row)
        used.add(row)
        picks.append((player, row))
    return picks


def alone(store, target, **options):
    return select(store, [target], budget="246", dry_run=True, **options).ids


@pytest.mark.parametrize("weights", [(0.6, 0.4), (1, 1), (0.05, 0.95), (3, 1)])
def test_rows_are_shared_in_proportion_and_picked_once(store, weights):
    given = dict(zip(TARGETS, weights, strict=True))
    both = select(store, TARGETS, budget="37", weights=given)
    lists = [alone(store, target) for target in TARGETS]
    expected = naive_weighted(lists, weights, 37, lambda row: 1)
    assert both.ids == [row for _, row in expected]
    assert both.table()["target"].to_pylist() == [TARGETS[player] for player, _ in expected]
    assert len(set(both.ids)) == 37
    for target, weight in given.items():
        assert abs(both.pulled[target] - 37 * weight / sum(weights)) <= 0.5
    shorter = select(store, TARGETS, budget="20", weights=given)
    assert shorter.ids == both.ids[:20]


@pytest.mark.parametrize(
    ("unit", "column"), [("tokens", "response_tokens"), ("total-tokens", "tokens")]
)
def test_a_budget_in_tokens_is_shared_in_tokens(store, unit, column):
    weights = {"arithmetic": "70%", "python": "30%"}
    both = select(store, TARGETS, budget=f"400-{unit}", weights=weights)
    everyone = alone(store, "arithmetic")
    lengths = store.take(everyone, [column])[column].to_pylist()
    size = dict(zip(everyone, lengths, strict=True))
    lists = [everyone, alone(store, "python")]
    expected = naive_weighted(lists, (0.7, 0.3), len(both), size.__getitem__)
    assert both.ids == [row for _, row in expected]
    spent = both.parameters["target_tokens"]
    assert sum(spent.values()) == both.parameters["tokens"] <= 400
    longest = max(lengths)
    assert abs(spent["arithmetic"] - 0.7 * both.parameters["tokens"]) <= longest
    assert replay(store, both.name).same


def test_within_quotas_every_corpus_is_shared_by_the_weights(store):
    from coresetdb.query.rules.quotas import shares
    from coresetdb.query.rules.rules import Rules

    rules = Rules(quotas=shares("quota", {"poems": 20, "facts": 10}))
    coreset = select(
        store, TARGETS, budget="40", weights="arithmetic=3,python=1", rules=rules, name="strata"
    )
    rows = coreset.table().to_pylist()
    for corpus, count in (("poems", 20), ("facts", 10)):
        own = [row["target"] for row in rows if row["corpus"] == corpus]
        assert len(own) == count and abs(own.count("arithmetic") - 0.75 * count) <= 0.5
    assert replay(store, "strata").same


def test_weights_are_recorded_said_and_replayed(store):
    database = Database(store)
    coreset = database.select(
        TARGETS, weights={"python": 0.25, "arithmetic": 0.75}, budget=12, name="mixed"
    )
    assert coreset.parameters["weights"] == {"arithmetic": "0.75", "python": "0.25"}
    assert "for arithmetic: 9 rows (75.0% of the picks, weight 0.75)" in repr(coreset)
    again = database.open_coreset("mixed")
    assert again.weights == coreset.weights and again.pulled == {"arithmetic": 9, "python": 3}
    assert database.replay("mixed").same
    assert database.select(targets=TARGETS, weights="arithmetic=3,python=1", budget=12).ids == (
        coreset.ids
    )
    turns = database.select(*TARGETS, budget=12, name="turns")
    assert "weights" not in turns.parameters and turns.pulled == {"arithmetic": 6, "python": 6}
    table = database.compare("mixed", "turns").pulled
    assert [(row.target, row.first, row.second) for row in table] == [
        ("arithmetic", 9, 6),
        ("python", 3, 6),
    ]
    both = {row["id"]: row["target"] for row in coreset.table().to_pylist()}
    same = [row for row in turns.table().to_pylist() if both.get(row["id"]) == row["target"]]
    assert sum(row.both for row in table) == len(same)
    third = coreset.table()["target"][2].as_py()
    assert f"for {third}" in str(database.explain("mixed", 3))
    assert database.explain("mixed", 3, without=True).without is not None


@given(st.lists(st.integers(1, 20), min_size=2, max_size=4), st.integers(1, 60), st.randoms())
def test_weighted_turns_agree_with_a_naive_merge(weights, k, random):
    ids = [f"{number:032x}" for number in range(50)]
    lists = [random.sample(ids, random.randint(1, 50)) for _ in weights]
    size = {row: random.randint(0, 9) for row in ids}
    keys = [keys_of(pa.array(rows, pa.string())) for rows in lists]
    sizes = [np.array([size[row] for row in rows]) for rows in lists]
    for own, size_of in ((None, lambda row: 1), (sizes, size.__getitem__)):
        players, places = take_weighted_turns(keys, weights, k, own)
        found = [(p, lists[p][at]) for p, at in zip(players.tolist(), places.tolist(), strict=True)]
        assert found == naive_weighted(lists, weights, k, size_of)
    players, places = take_weighted_turns(keys, [1] * len(lists), k)
    if all(len(rows) >= k for rows in lists):
        turns = take_turns(keys, k)
        assert players.tolist() == turns[0].tolist() and places.tolist() == turns[1].tolist()


def test_weights_in_whole_numbers():
    assert whole_weights(parse_weights("a=.6,b=.4", ["a", "b"])) == [3, 2]
    assert whole_weights(parse_weights("b=40%,a=60%", ["a", "b"])) == [3, 2]
    assert whole_weights(parse_weights({"a": 1e-3, "b": 1}, ["a", "b"])) == [1, 1000]
    assert parse_weights(None, ["a", "b"]) is None


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("arithmetic=.6", "none for 'python'"),
        ("arithmetic=.6,pythno=.4", "'pythno' is no target"),
        ("arithmetic=.6,python=0", "leave the target out"),
        ("arithmetic=.6,python=-1", "above zero"),
        ("arithmetic=.6,python=nan", "above zero"),
        ("arithmetic=.6,python=inf", "above zero"),
        ("arithmetic=.6,python=1e12", "in proportion"),
        ("arithmetic=.6,python=half", "must be a number"),
        ("arithmetic,python", "write TARGET=WEIGHT"),
        ("arithmetic=1,arithmetic=2,python=1", "given twice"),
        ("", "none for 'arithmetic'"),
        ({"arithmetic": 0.5, "python": None}, "must be a number"),
    ],
)
def test_weights_that_do_not_fit_are_refused(store, weights, says):
    with pytest.raises(UsageError, match=says):
        select(store, TARGETS, budget="10", weights=weights)


def test_weights_mean_nothing_where_no_target_pulls_a_row(store):
    with pytest.raises(UsageError, match="no target pulls a row"):
        select(store, TARGETS, method="random", budget="10", weights="arithmetic=1,python=1")

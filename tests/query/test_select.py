"""Selections on a real store: the right rows, recorded whole, and the words around them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from coresetdb.database import Database
from coresetdb.query.coresets import load_coreset, tag_of
from coresetdb.query.selection import select
from coresetdb.schemas.errors import FingerprintError, MissingFeatureError, UsageError
from coresetdb.schemas.recipe import Recipe
from coresetdb.store import catalog

torch.set_num_threads(1)


def matrix(store, target, allowed=lambda row: True):
    """Naive: ids of eligible rows, and the full similarities of the target's examples to them."""
    pool = store.dataset("pool").to_table(columns=["id", "corpus", "rds", "response_tokens"])
    rows = [row for row in pool.to_pylist() if row["rds"] is not None and allowed(row)]
    examples = store.dataset("targets").to_table(filter=f"target = '{target}'").to_pylist()
    examples.sort(key=lambda row: row["position"])
    vectors = np.array([row["rds"] for row in rows], np.float64)
    queries = np.array([row["rds"] for row in examples], np.float64)
    return rows, examples, queries @ vectors.T


def naive_turns(rows, examples, similarity, k):
    orders = [
        sorted(range(len(rows)), key=lambda j, row=row: (-row[j], rows[j]["id"]))
        for row in similarity
    ]
    picks, used = [], set()
    while len(picks) < min(k, len(rows)):
        turn = len(picks) % len(examples)
        j = next(j for j in orders[turn] if j not in used)
        used.add(j)
        picks.append((rows[j]["id"], examples[turn]["id"], similarity[turn][j]))
    return picks


def test_round_robin_on_a_store(store):
    coreset = select(store, ["arithmetic"], budget="60")
    expected = naive_turns(*matrix(store, "arithmetic"), 60)
    table = coreset.table()
    assert table["rank"].to_pylist() == list(range(1, 61))
    assert coreset.ids == [row[0] for row in expected]
    assert table["query"].to_pylist() == [row[1] for row in expected]
    np.testing.assert_allclose(table["score"], [row[2] for row in expected], atol=1e-6)
    assert set(table["target"].to_pylist()) == {"arithmetic"}
    assert coreset.mix[0].corpus == "sums" and coreset.mix[0].pool == 60
    assert sum(share.picked for share in coreset.mix) == 60
    assert "60 rows by rds:round_robin for arithmetic" in repr(coreset)
    assert coreset.to_polars().height == 60


@pytest.mark.parametrize("by", ["mean", "max"])
def test_top_on_a_store(store, by):
    rows, _, similarity = matrix(store, "python")
    scores = similarity.mean(axis=0) if by == "mean" else similarity.max(axis=0)
    order = sorted(range(len(rows)), key=lambda j: (-scores[j], rows[j]["id"]))[:30]
    coreset = select(store, ["python"], method=f"rds:top(by={by})", budget="30")
    assert coreset.ids == [rows[j]["id"] for j in order]


def test_targets_take_turns_each_with_its_own_ranking(store):
    both = select(store, ["arithmetic", "python"], budget="21")
    alone = {
        target: select(store, [target], budget="240").ids for target in ("arithmetic", "python")
    }
    used, expected = set(), []
    while len(expected) < 21:
        target = ("arithmetic", "python")[len(expected) % 2]
        chosen = next(each for each in alone[target] if each not in used)
        used.add(chosen)
        expected.append((chosen, target))
    table = both.table()
    assert list(zip(both.ids, table["target"].to_pylist(), strict=True)) == expected


def test_per_cent_and_token_budgets(store):
    whole = select(store, ["arithmetic"], budget="246")
    assert select(store, ["arithmetic"], budget="10%").ids == whole.ids[:25]
    lengths = store.take(whole.ids, ["response_tokens"])["response_tokens"].to_pylist()
    for budget in (1, 10, 57, 200):
        coreset = select(store, ["arithmetic"], budget=f"{budget}-tokens")
        count = len(coreset)
        assert coreset.ids == whole.ids[:count]
        assert sum(lengths[:count]) <= budget < sum(lengths[: count + 1])
        assert coreset.short_by == 0 and coreset.parameters["tokens"] == sum(lengths[:count])
    totals = store.take(whole.ids, ["tokens"])["tokens"].to_pylist()
    for budget in (100, 570, 2000):
        coreset = select(store, ["arithmetic"], budget=f"{budget}-total-tokens")
        count = len(coreset)
        assert coreset.ids == whole.ids[:count] and coreset.budget == f"{budget}-total-tokens"
        assert sum(totals[:count]) <= budget < sum(totals[: count + 1])
        assert coreset.parameters["tokens"] == sum(totals[:count])
    all_of_it = select(store, ["arithmetic"], budget="1m-tokens")
    assert len(all_of_it) == 240 and all_of_it.short_by == 1_000_000 - sum(lengths)
    with pytest.raises(UsageError, match="below one row"):
        select(store, ["arithmetic"], budget="0.1%")


def test_what_is_missing_is_said(store):
    coreset = select(store, ["arithmetic"], budget="1000")
    assert (len(coreset), coreset.eligible, coreset.short_by) == (240, 246, 760)
    assert coreset.parameters["missing"] == 6
    assert "short by 760 rows" in coreset.notes[0]
    assert "6 of 246 eligible rows lack rds and" in coreset.notes[1]
    assert len(set(coreset.ids)) == 240


def test_filter(store):
    coreset = select(store, ["arithmetic"], budget="30", where="corpus IN ('code', 'blank')")
    expected = naive_turns(*matrix(store, "arithmetic", lambda row: row["corpus"] == "code"), 30)
    assert coreset.ids == [row[0] for row in expected]
    assert (coreset.eligible, coreset.parameters["missing"]) == (66, 6)
    with pytest.raises(UsageError, match="no row of the pool passes it"):
        select(store, ["arithmetic"], budget="30", where="corpus = 'nowhere'")
    drawn = select(store, method="random", budget="50%", where="corpus = 'poems'")
    assert len(drawn) == 30 and drawn.mix[0].picked == 30


def test_random_needs_no_target_and_keeps_its_seed(store):
    first, again, other = (
        select(store, method="random", budget="40", seed=seed).ids for seed in (1, 1, 2)
    )
    assert first == again != other
    assert select(store, method="random", budget="80", seed=1).ids[:40] == first
    with_distance = select(store, ["python"], method="rds:random", budget="40", seed=1)
    assert with_distance.ids == first and with_distance.distance is not None


def test_random_imports_no_torch(store):
    code = (
        "import sys; from coresetdb.store.store import Store; "
        "from coresetdb.query.selection import select; "
        "from coresetdb.query.export import export; "
        f"coreset = select(Store.open({store.uri!r}), method='random', budget='5'); "
        f"export(Store.open({store.uri!r}), coreset, {store.uri + '.jsonl'!r}); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_distance_is_the_mean_gap_to_the_nearest_pick(store):
    coreset = select(store, ["python"], method="rds:random", budget="7")
    rows, _, similarity = matrix(store, "python")
    chosen = [j for j, row in enumerate(rows) if row["id"] in set(coreset.ids)]
    assert coreset.distance == pytest.approx(1 - similarity[:, chosen].max(axis=1).mean(), abs=1e-6)


def test_recorded_with_everything_to_replay(store):
    made = select(store, ["arithmetic"], method="rds+", budget="12", seed=5, name="a.b-c_1")
    (row,) = store.dataset("coresets").to_table().to_pylist()
    assert row["name"] == "a.b-c_1" and row["method"] == "rds:round_robin" and row["rows"] == 12
    assert row["seed"] == 5 and row["budget"] == "12" and row["pool_version"] == made.pool_version
    assert json.loads(row["parameters"])["selector_version"] == 1
    assert store.tags()[tag_of("a.b-c_1")] == made.pool_version
    loaded = load_coreset(store, "a.b-c_1")
    assert loaded.table() == made.table() and loaded.mix == made.mix
    assert loaded.distance == made.distance and loaded.parameters == made.parameters


def test_names(store):
    assert select(store, ["python"], budget="3").name == "python-rds-round_robin-1"
    assert select(store, ["python"], budget="3").name == "python-rds-round_robin-2"
    assert select(store, ["python"], method="rds:top(by=max)", budget="3").name == (
        "python-rds-top-by-max-1"
    )
    select(store, ["python"], budget="3", name="mine")
    with pytest.raises(UsageError, match="already"):
        select(store, ["python"], budget="3", name="mine")
    for bad in ("", "a b", "a/b", "a..b", "x" * 65, "é"):
        with pytest.raises(UsageError, match="name"):
            select(store, ["python"], budget="3", name=bad)


def test_killed_before_the_end_leaves_no_coreset(store, monkeypatch):
    insert = store.insert

    def dying(table, rows):
        if table == "coresets":
            raise KeyboardInterrupt
        return insert(table, rows)

    monkeypatch.setattr(store, "insert", dying)
    with pytest.raises(KeyboardInterrupt):
        select(store, ["python"], budget="20", name="mine")
    monkeypatch.undo()
    with pytest.raises(UsageError, match="no coreset 'mine'"):
        load_coreset(store, "mine")
    again = select(store, ["python"], budget="5", name="mine")
    assert load_coreset(store, "mine").ids == again.ids and len(again) == 5


def test_a_name_lost_at_the_last_moment(store, monkeypatch):
    """Both selections were computed before either was recorded."""
    from coresetdb.query import selection

    record, raced = selection.record, []

    def racing(snapshot, coreset):
        if not raced:
            raced.append(True)
            select(store, ["python"], method="rds:top", budget="9", name=coreset.name)
        return record(snapshot, coreset)

    monkeypatch.setattr(selection, "record", racing)
    loser = select(store, ["python"], budget="4")
    assert loser.name == "python-rds-round_robin-2"
    assert load_coreset(store, loser.name).ids == loser.ids
    winner = load_coreset(store, "python-rds-round_robin-1")
    assert winner.method == "rds:top" and len(winner) == 9


def test_killed_before_the_end_the_name_is_free_for_a_newer_pool(store, toys, monkeypatch):
    insert = store.insert

    def dying(table, rows):
        if table == "coresets":
            raise KeyboardInterrupt
        return insert(table, rows)

    monkeypatch.setattr(store, "insert", dying)
    with pytest.raises(KeyboardInterrupt):
        select(store, ["python"], budget="20", name="mine")
    monkeypatch.undo()
    store.insert("pool", toys.pool_rows([toys.question("code", 7777)], ["code"]))
    again = select(store, ["python"], budget="5", name="mine")
    assert load_coreset(store, "mine").ids == again.ids
    assert store.tags()[tag_of("mine")] == again.pool_version == store.version("pool")


def test_a_name_lost_while_the_corpora_were_counted(store, toys, monkeypatch):
    """The name was free when it was made up; the one who took it is done, on a newer pool."""
    from coresetdb.query import selection

    count, raced = selection.mix_of, []

    def racing(*given):
        if not raced:
            raced.append(True)
            store.insert("pool", toys.pool_rows([toys.question("code", 7777)], ["code"]))
            raced.append(select(store, ["python"], budget="9"))
        return count(*given)

    monkeypatch.setattr(selection, "mix_of", racing)
    loser = select(store, ["python"], budget="4")
    assert loser.name == "python-rds-round_robin-2"
    assert load_coreset(store, loser.name).ids == loser.ids
    winner = load_coreset(store, "python-rds-round_robin-1")
    assert winner.ids == raced[1].ids and len(winner) == 9
    assert store.tags()[tag_of(winner.name)] == winner.pool_version == store.version("pool")


def test_a_seed_that_no_table_holds_is_refused_at_once(store):
    for seed in (1 << 63, -(1 << 64)):
        with pytest.raises(UsageError, match=f"seed {seed}: it must be between"):
            select(store, method="random", budget="3", seed=seed)
    assert select(store, method="random", budget="3", seed=-7).seed == -7


def test_a_misspelt_keyword_is_named(store):
    with pytest.raises(TypeError, match="'leekage'"):
        Database(store).select("python", budget=3, leekage="off")


def test_unknown_things_are_named(store):
    with pytest.raises(UsageError, match="targets: arithmetic, python"):
        select(store, ["chemistry"])
    with pytest.raises(UsageError, match=r"methods: .*random"):
        select(store, ["python"], method="tsds")
    with pytest.raises(UsageError, match="name one or more"):
        select(store, method="rds")
    with pytest.raises(MissingFeatureError, match=r"this store: rds.*featurize .* losses"):
        select(store, ["python"], method="losses:random")
    with pytest.raises(UsageError, match=r"no way to compare rows; methods: .*random.* rds:"):
        select(store, ["python"], method="flags:top")
    with pytest.raises(UsageError, match="no coreset 'x'"):
        load_coreset(store, "x")


def test_memory_is_checked_before_the_scan(store):
    with pytest.raises(UsageError, match=r"iB of memory.*or raise the limit: --memory [0-9]+MiB"):
        select(store, ["python"], budget="100", memory_limit=1000)


def test_the_memory_limit_reaches_the_check(store):
    from coresetdb.database import Database

    database = Database(store)
    with pytest.raises(UsageError, match=r"above the limit of 1\.0 MiB"):
        database.select("python", budget=100, memory_limit="1MiB")
    chosen = database.select("python", budget=100, memory_limit="1 GiB", name="roomy")
    assert len(chosen.ids) == 100
    with pytest.raises(UsageError, match="above the limit"):
        database.replay("roomy", memory_limit="1MiB")
    assert database.replay("roomy").same


def test_features_made_otherwise_are_refused(tmp_path, toys):
    other = Recipe("rds", 1, {"scope": "response"}, {"name": "toy"}, toys.RECIPE.columns)
    store = toys.toy_store(tmp_path / "mixed", other)
    store.insert("pool", toys.pool_rows([toys.question("sums", 1)], ["sums"]))
    toys.add_target(store, "t", [toys.question("sums", 2)])
    catalog.put_recipe(store, other)
    catalog.put_recipe(store, toys.RECIPE)
    with pytest.raises(FingerprintError, match=r"target 't'.*options.scope: 'response', not 'all'"):
        select(store, ["t"], budget="1")


def test_examples_without_the_feature_do_not_ask(store, toys):
    toys.add_target(store, "half", [toys.question("sums", 7), toys.question("blank", 8)])
    coreset = select(store, ["half"], budget="4")
    assert any("target half: 1 of 2 examples" in note for note in coreset.notes)
    toys.add_target(store, "none", [toys.question("blank", 8)])
    with pytest.raises(MissingFeatureError, match="no example of target 'none'"):
        select(store, ["none"], budget="4")


def test_threads_change_no_bit(store):
    first = select(store, ["arithmetic"], budget="100").table()
    torch.set_num_threads(2)
    try:
        assert select(store, ["arithmetic"], budget="100").table() == first
    finally:
        torch.set_num_threads(1)

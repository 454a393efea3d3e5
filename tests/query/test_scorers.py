"""Methods that score rows by their columns: ranking, options, facts, refusals, replay."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from helpers.files import write_jsonl
from helpers.tiny_models import tiny_folder
from helpers.toy_representations import MOST, toy_representations

from coresetdb.database import Database
from coresetdb.ingest.jobs.target_artifacts import complete_target_artifacts, find_target_artifact
from coresetdb.query.methods import method_names
from coresetdb.query.snapshot import Snapshot
from coresetdb.schemas.errors import FingerprintError, MissingFeatureError, UsageError
from coresetdb.schemas.recipe import Recipe
from coresetdb.selectors.registry import selectors
from coresetdb.store import catalog

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("toy_representations")
_ = toy_representations

WORDS = "the sky is blue and two plus three make five while green trees grow by rivers".split()


def rows(generator, count, most=25):
    texts = (generator.choice(WORDS, generator.integers(1, most)).tolist() for _ in range(count))
    return [
        {"prompt": f"{number} {' '.join(words)}", "completion": words[0]}
        for number, words in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Where the first test makes the folder of which each has a copy."""
    return tmp_path_factory.mktemp("scorers") / "prepared"


@pytest.fixture
def database(prepared, tmp_path):
    """120 rows in two fragments, some too long for a feature, and three targets."""
    if not prepared.exists():
        make(prepared)
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return Database.open(str(tmp_path / "store"))


def make(folder):
    generator = np.random.default_rng(0)
    folder.mkdir()
    made = Database.create(
        str(folder / "store"),
        backbone=str(tiny_folder()),
        dtype="float32",
        features="rds,losses,mads,length,words",
    )
    pool = rows(generator, 120)
    made.ingest(write_jsonl(folder / "a.jsonl", pool[:70]))
    made.ingest(write_jsonl(folder / "b.jsonl", pool[70:]))
    made.add_target("few", write_jsonl(folder / "few.jsonl", rows(generator, 3, 5)))
    made.add_target("more", write_jsonl(folder / "more.jsonl", rows(generator, 6, 9)))
    added = made.add_target("one", write_jsonl(folder / "one.jsonl", rows(generator, 1, 4)))
    assert added.notes == ("words cannot use it: it takes 2 examples, this target has 1",)


def naive(database, target, power=1.0, odd=False, allowed=lambda row: True):
    """id -> score of every row that has the feature, in the order of the ranking."""
    read = database.store.dataset
    asked = read("targets").to_table(filter=f"target = '{target}'")["words"].to_pylist()
    known = {word for each in asked if each is not None for word in each}
    scores = {}
    for row in read("pool").to_table(columns=["id", "corpus", "words", "tokens"]).to_pylist():
        assert (row["words"] is None) == (row["tokens"] > MOST)
        if row["words"] is not None and allowed(row):
            hits = [word in known and (not odd or word % 2 == 1) for word in row["words"]]
            scores[row["id"]] = np.float32((sum(hits) / len(hits)) ** power)
    return dict(sorted(scores.items(), key=lambda each: (-each[1], each[0])))


def test_rows_rank_by_their_scores(database):
    expected = naive(database, "few")
    coreset = database.select("few", method="words", budget=30)
    table = coreset.table()
    assert coreset.ids == list(expected)[:30] and coreset.method == "words:top"
    np.testing.assert_allclose(table["score"], list(expected.values())[:30], rtol=1e-6)
    assert set(table["target"].to_pylist()) == {"few"}
    assert set(table["query"].to_pylist()) == {None}
    assert coreset.distance is None
    assert coreset.fingerprint == Snapshot(database.store).features["words"].recipe.fingerprint
    everything = database.select("few", method="words:round_robin", budget=1000)
    assert everything.ids == list(expected)
    missing = 120 - len(expected)
    assert missing and everything.parameters["missing"] == missing
    assert everything.notes[1].startswith(f"{missing} of 120 eligible rows lack words")


def test_targets_take_turns(database):
    orders = {target: list(naive(database, target)) for target in ("few", "more")}
    used: list[tuple[str, str]] = []
    for turn in range(20):
        target = ("few", "more")[turn % 2]
        taken = {row for row, _ in used}
        used.append((next(row for row in orders[target] if row not in taken), target))
    table = database.select("few", "more", method="words", budget=20).table()
    assert list(zip(table["id"].to_pylist(), table["target"].to_pylist(), strict=True)) == used


def test_filters_and_budgets(database):
    half = naive(database, "more", allowed=lambda row: row["corpus"] == "b")
    coreset = database.select("more", method="words", budget="50%", where="corpus = 'b'")
    assert coreset.ids == list(half)[: len(coreset)] and coreset.eligible == 50
    whole = list(naive(database, "more"))
    lengths = database.store.take(whole, ["response_tokens"])["response_tokens"].to_pylist()
    coreset = database.select("more", method="words", budget="40-tokens")
    count = len(coreset)
    assert coreset.ids == whole[:count]
    assert sum(lengths[:count]) <= 40 < sum(lengths[: count + 1])


def test_options_of_the_comparison(database):
    coreset = database.select("few", method="words(power=0.5,scope=odd)", budget=25)
    expected = naive(database, "few", 0.5, odd=True)
    assert coreset.ids == list(expected)[:25]
    assert coreset.method == "words:top(power=0.5,scope=odd)"
    assert coreset.parameters["asked"] == {"power": 0.5, "scope": "odd"}
    assert database.replay(coreset.name).same
    both = database.select("few", method="words:top(by=max,scope=odd)", budget=5)
    assert both.method == "words:top(by=max,scope=odd)"
    for method, says in {
        "words(size=3)": "no option 'size'; top has by, words has power, scope",
        "words(power=high)": "power=high: it must be a float",
        "words(scope=even)": "choose from all, odd",
        "length(fewest=maybe)": "fewest=maybe: it must be a bool",
        "rds(scope=odd)": "round_robin has none, rds has centre",
    }.items():
        with pytest.raises(UsageError, match=says.replace("(", r"\(")):
            database.select("few", method=method, budget=5)


def test_a_method_without_a_target(database):
    pool = database.store.dataset("pool").to_table(columns=["id", "tokens"]).to_pylist()
    ranked = sorted(
        (row for row in pool if row["tokens"] <= MOST), key=lambda row: (-row["tokens"], row["id"])
    )
    longest = database.select(method="length", budget=20)
    assert longest.ids == [row["id"] for row in ranked[:20]]
    assert longest.name == "length-top-1" and longest.targets == ()
    assert set(longest.table()["target"].to_pylist()) == {None}
    shortest = database.select(method="length(fewest=true)", budget=20)
    ranked.sort(key=lambda row: (row["tokens"], row["id"]))
    assert shortest.ids == [row["id"] for row in ranked[:20]]
    assert database.replay(shortest.name).same
    named = database.select("few", method="length", budget=20)
    assert named.ids == longest.ids and "the target does not change" in named.notes[-1]


def test_only_what_can_be_compared_is_a_method(database):
    features = Snapshot(database.store).features
    names = method_names({name: each.representation for name, each in features.items()})
    needing = {
        needs: {name for name, each in selectors().items() if each.inputs == (needs,)}
        for needs in ("query_similarity", "neuron_sets", "terms")
    }
    pairs = {
        first: {n[len(first) + 1 :] for n in names if n.startswith(f"{first}:")}
        for first in (*features, "")
    }
    assert pairs["length"] == pairs["losses"] == pairs["words"] == needing["query_similarity"]
    assert pairs["mads"] == needing["neuron_sets"] | needing["query_similarity"]
    assert pairs["rds"] == set(selectors()) - needing["neuron_sets"] - needing["terms"]
    assert {"random", "source_balanced", "length_matched"} <= set(names)
    for method in names:
        assert len(database.select("few", method=method, budget=4)) == 4
    with pytest.raises(UsageError, match="flags gives no way to compare rows; methods: "):
        database.select("few", method="flags:top")
    with pytest.raises(UsageError, match="name one or more"):
        database.select(method="words")


def test_a_target_that_the_facts_refuse(database):
    with pytest.raises(UsageError, match="target 'one': words: it takes 2 examples"):
        database.select("one", method="words", budget=5)
    assert len(database.select("one", method="rds", budget=5)) == 5


def test_replay_after_the_target_was_removed(database):
    made = database.select("few", "more", method="words", budget=30)
    database.remove_target("few")
    again = database.replay(made.name)
    assert again.same and again.same_queries
    database.compact()
    assert database.replay(made.name).same


def test_replay_after_the_feature_was_made_otherwise(database):
    """The columns bear the same names; each version of them says what made it."""
    made = database.select("few", method="words", budget=30)
    database.remove_feature("words", force=True)
    with pytest.raises(MissingFeatureError, match="no feature 'words'"):
        database.select("few", method="words", budget=5)
    assert database.replay(made.name).same
    database.featurize("words:first=1")
    other = database.select("few", method="words", budget=30)
    assert other.fingerprint != made.fingerprint and other.ids != made.ids
    again = database.replay(made.name)
    assert again.same and again.same_queries
    assert database.replay(other.name).same


def test_an_empty_pool(tmp_path):
    empty = Database.create(str(tmp_path / "empty"), backbone=str(tiny_folder()), features="words")
    empty.add_target("few", write_jsonl(tmp_path / "few.jsonl", rows(np.random.default_rng(0), 3)))
    coreset = empty.select("few", method="words", budget=5)
    assert len(coreset) == 0 and coreset.short_by == 5


def test_a_feature_that_came_after_the_target(tmp_path):
    """`featurize` makes the facts as well."""
    generator = np.random.default_rng(1)
    late = Database.create(str(tmp_path / "late"), backbone=str(tiny_folder()), features="rds")
    late.ingest(write_jsonl(tmp_path / "pool.jsonl", rows(generator, 40)))
    late.add_target("few", write_jsonl(tmp_path / "few.jsonl", rows(generator, 3, 5)))
    late.featurize("words")
    assert late.select("few", method="words", budget=20).ids == list(naive(late, "few"))[:20]


def test_a_target_from_before_the_feature(database):
    store = database.store
    store.delete("artifacts", "name LIKE 'target:%'")
    with pytest.raises(MissingFeatureError, match=r"added before the feature. Run .*featurize"):
        database.select("few", method="words", budget=5)
    featurizer = database._featurizer
    refusals = complete_target_artifacts(store, featurizer.recipes, lambda: featurizer)
    assert refusals == ("target one: words cannot use it: it takes 2 examples, this target has 1",)
    version = store.version("artifacts")
    assert (
        database.select("few", method="words", budget=30).ids == list(naive(database, "few"))[:30]
    )
    assert complete_target_artifacts(store, featurizer.recipes, _not_again) == ()
    assert store.version("artifacts") == version


def _not_again():
    raise AssertionError("the facts were there")


def test_facts_are_those_of_the_examples_in_their_order(database):
    table = database.store.dataset("targets").to_table(filter="target = 'more'")
    ids = table.sort_by("position")["id"].to_pylist()
    fingerprint = Snapshot(database.store).features["words"].recipe.fingerprint
    found = find_target_artifact(database.store, fingerprint, ids)
    words = {word for each in table["words"].to_pylist() for word in each}
    assert set(found.arrays["tokens"].tolist()) == words
    assert find_target_artifact(database.store, fingerprint, ids[::-1]) is None


def remade(store, **changes):
    """Let the targets' columns of `words` say that a recipe with these changes made them."""
    recipe = Snapshot(store).features["words"].recipe
    other = Recipe(**{**vars(recipe), **changes})
    table = store.dataset("targets")
    for column in recipe.columns:
        table.replace_field_metadata(column, {"coresetdb:fingerprint": other.fingerprint})
    return recipe, other


def test_features_made_otherwise_are_refused(database):
    store = database.store
    kept = catalog.recipes(store)
    backbone = {**kept["words"].backbone, "weights": "0" * 32}
    for changes, says in [
        ({"options": {"first": 1}}, r"options.first: 1, not 0"),
        ({"backbone": backbone}, r"backbone.weights: '0+', not '\w+'"),
        ({"version": 2}, "version: 2, not 1"),
        ({"artifacts": {"basis": "f" * 32}}, "artifacts.basis: 'f+', not None"),
    ]:
        recipe, other = remade(store, **changes)
        with pytest.raises(FingerprintError, match=r"words of target 'few' .* made as"):
            database.select("few", method="words", budget=5)
        catalog.put_recipe(store, Recipe(**{**vars(other), "columns": ("elsewhere",)}))
        with pytest.raises(FingerprintError, match=rf"words of target 'few' .*: {says}"):
            database.select("few", method="words", budget=5)
        assert len(database.select("few", method="rds", budget=5)) == 5
    table = store.dataset("targets")
    for column in recipe.columns:
        table.replace_field_metadata(column, {"coresetdb:fingerprint": recipe.fingerprint})
    assert len(database.select("few", method="words", budget=5)) == 5


def test_facts_of_another_recipe_are_refused(database):
    store = database.store
    recipe = Snapshot(store).features["words"].recipe
    other = Recipe(**{**vars(recipe), "options": {"first": 3}, "columns": ("elsewhere",)})
    catalog.put_recipe(store, other)
    artifacts = store.dataset("artifacts").to_table(filter="name LIKE 'target:%'").to_pylist()
    store.delete("artifacts", "name LIKE 'target:%'")
    for row in artifacts:
        catalog.put_artifact(store, other.fingerprint, row["name"], row["bytes"])
    with pytest.raises(
        FingerprintError, match=r"target 'few' was prepared for another .*first: 3, not 0"
    ):
        database.select("few", method="words", budget=5)


def test_a_pool_column_made_otherwise_is_refused(database):
    store = database.store
    store.dataset("pool").replace_field_metadata("words", {"coresetdb:fingerprint": "a" * 32})
    with pytest.raises(FingerprintError, match=r"words of pool cannot be compared .* made as aaa"):
        database.select("few", method="words", budget=5)


def test_a_representation_of_another_version_is_refused(database, monkeypatch, tmp_path):
    feature = Snapshot(database.store).features["words"]
    monkeypatch.setattr(type(feature.representation), "version", 2)
    with pytest.raises(FingerprintError, match=r"version 1 .* has version 2.*feature remove"):
        database.select("few", method="words", budget=5)
    file = write_jsonl(tmp_path / "new.jsonl", rows(np.random.default_rng(2), 3))
    opened = Database.open(database.store.uri)
    with pytest.raises(FingerprintError, match="words was made by version 1 of words"):
        opened.add_target("new", file)
    assert [target.name for target in opened.list_targets()] == ["few", "more", "one"]


def test_losses_rank_rows_by_a_column(database):
    names = ["nll", "ppl", "nll_alone", "ifd", "el2n"]
    rows = database.store.dataset("pool").to_table(columns=["id", *names]).to_pylist()
    for score, sign in ((name, sign) for name in names for sign in (-1, 1)):
        allowed = [row for row in rows if score != "ifd" or row["ifd"] < 1]
        allowed.sort(key=lambda row, by=score, sign=sign: (sign * row[by], row["id"]))
        expected = [row["id"] for row in allowed]
        order = "descending" if sign < 0 else "ascending"
        coreset = database.select(method=f"losses(score={score},order={order})", budget=len(rows))
        assert coreset.ids == expected, (score, order)
        assert coreset.parameters["missing"] == 0
        if score == "ifd":  # "keep below 1": more than that are not to be had, and it is said
            assert 0 < len(expected) < len(rows)
            said, left_out = str(coreset.notes), len(rows) - len(expected)
            assert f"{left_out} eligible rows were left out: their ifd is 1 or more" in said
            assert f"all {len(expected)} rows that can be chosen were chosen" in said
    assert database.replay(coreset.name).same
    with pytest.raises(UsageError, match=r"the scores nll, ppl, .* STORE losses:grad"):
        database.select(method="losses(score=grad_norm)")
    with pytest.raises(UsageError, match="order=up: choose from descending, ascending"):
        database.select(method="losses(order=up)")

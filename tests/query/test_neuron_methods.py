"""NAIT and MADS end to end: a store, targets, selections, all from the columns alone."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from helpers.files import write_jsonl
from helpers.tiny_models import tiny_folder

import coresetdb
from coresetdb.database import Database
from coresetdb.query.selection import select
from coresetdb.schemas.errors import MissingFeatureError, ReadOnlyStoreError, UsageError
from coresetdb.store import catalog

torch.set_num_threads(1)

WORDS = "the sky is blue and two plus three make five while green trees grow by rivers".split()


def rows(generator, count):
    texts = (generator.choice(WORDS, generator.integers(2, 12)).tolist() for _ in range(count))
    return [
        {"prompt": f"{number} {' '.join(words)}", "completion": " ".join(words[1:])}
        for number, words in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def neuron_store(tmp_path_factory):
    """A store of 80 rows in two fragments, two of them without an answer, and three targets."""
    place = tmp_path_factory.mktemp("neurons")
    generator = np.random.default_rng(0)
    database = Database.create(
        str(place / "store"), backbone=str(tiny_folder()), dtype="float32", features="nait,mads"
    )
    pool = rows(generator, 80)
    database.ingest(write_jsonl(place / "a.jsonl", pool[:50]))
    database.ingest(write_jsonl(place / "b.jsonl", pool[50:]))
    notes = {}
    for name, count in (("six", 6), ("four", 4), ("two", 2)):
        file = write_jsonl(place / f"{name}.jsonl", rows(generator, count))
        notes[name] = database.add_target(name, file).notes
    return database, notes


def stored(database, table, columns, where=None):
    found = database.store.dataset(table).to_table(columns=["id", *columns], filter=where)
    return {row["id"]: row for row in found.to_pylist()}


def plain_greedy(sets, k, counting=lambda unit: True):
    """Ids in the order of plain greedy with g = sqrt; ties to the lower id."""
    counts: dict[int, int] = {}
    left, picks = sorted(sets), []

    def gain(key):
        own = [counts.get(unit, 0) for unit in sets[key] if counting(unit)]
        return round(sum(np.sqrt(count + 1) - np.sqrt(count) for count in own), 9)

    while left and len(picks) < k:
        best = max(left, key=gain)  # the first of equals
        picks.append(best)
        left.remove(best)
        for unit in sets[best]:
            counts[unit] = counts.get(unit, 0) + 1
    return picks


def test_mads_alone_covers_neurons(neuron_store):
    database, _ = neuron_store
    sets = {key: row["mads"] for key, row in stored(database, "pool", ["mads"]).items()}
    coreset = database.select(method="mads", budget=30)
    assert coreset.method == "mads:coverage"
    assert coreset.ids == plain_greedy(sets, 30)
    assert database.select(method="mads", budget=12).ids == coreset.ids[:12]
    assert database.replay(coreset.name).same
    scores = coreset.table()["score"].to_pylist()
    assert scores == sorted(scores, reverse=True)


def test_a_filter_is_applied_first(neuron_store):
    database, _ = neuron_store
    sets = stored(database, "pool", ["mads"], "corpus = 'b'")
    coreset = database.select(method="mads", budget=10, where="corpus = 'b'")
    assert coreset.ids == plain_greedy({key: row["mads"] for key, row in sets.items()}, 10)


def test_coverage_of_what_targets_use(neuron_store):
    database, _ = neuron_store
    sets = {key: row["mads"] for key, row in stored(database, "pool", ["mads"]).items()}
    orders = []
    for name in ("six", "two"):
        examples = stored(database, "targets", ["mads"], f"target = '{name}'")
        units = {unit for row in examples.values() for unit in row["mads"]}
        orders.append(plain_greedy(sets, 20, units.__contains__))
    method = "mads(weights=target)"
    assert database.select("six", method=method, budget=20).ids == orders[0]
    both = database.select("six", "two", method=method, budget=10)
    assert both.ids[0] == orders[0][0] and len(set(both.ids)) == 10
    assert set(both.table()["target"].to_pylist()) == {"six", "two"}
    with pytest.raises(UsageError, match="name one or more"):
        database.select(method=method, budget=5)


def naive_overlaps(database, target, sample=None):
    """id -> how much of the examples' sets it has, by idf over the pool; best first."""
    pool = {key: set(row["mads"]) for key, row in stored(database, "pool", ["mads"]).items()}
    sampled = [pool[key] for key in sample or pool]
    examples = stored(database, "targets", ["mads"], f"target = '{target}'").values()

    def idf(units):
        return sum(
            np.log((len(sampled) + 1) / (sum(unit in each for each in sampled) + 1))
            for unit in units
        )

    scores = {
        key: np.mean([idf(own & set(row["mads"])) / idf(row["mads"]) for row in examples])
        for key, own in pool.items()
    }
    return sorted(scores, key=lambda key: (-scores[key], key)), scores


def test_overlap_with_what_a_target_uses(neuron_store):
    database, _ = neuron_store
    order, scores = naive_overlaps(database, "six")
    coreset = database.select("six", method="mads:top", budget=80)
    assert coreset.method == "mads:top"
    got = coreset.table()["score"].to_pylist()
    assert np.allclose(got, [scores[key] for key in coreset.ids], rtol=1e-6)
    assert np.allclose(got, [scores[key] for key in order], rtol=1e-6)
    assert database.replay(coreset.name).same and coreset.parameters["background"]
    kept = database.score("six", ["mads:top"]).to_polars()
    assert kept.sort("mads:top_rank")["id"].to_list() == coreset.ids
    assert np.array_equal(kept.sort("mads:top_rank")["mads:top"], got)
    b = database.select("six", method="mads:top", budget=10, where="corpus = 'b'")
    assert (
        b.ids
        == [key for key in coreset.ids if key in stored(database, "pool", [], "corpus = 'b'")][:10]
    )
    both = database.select("six", "two", method="mads:top", budget=10)
    assert set(both.table()["target"].to_pylist()) == {"six", "two"}
    plain = database.select("six", method="mads:top(idf=false)", budget=80)
    assert plain.ids != coreset.ids and "background" not in plain.parameters
    with pytest.raises(UsageError, match="name one or more"):
        database.select(method="mads:top", budget=5)
    with pytest.raises(UsageError, match="no option 'idf'; coverage has g, cap, weights"):
        database.select(method="mads(idf=false)", budget=5)


def test_the_neurons_that_made_a_row_overlap(neuron_store):
    database, _ = neuron_store
    coreset = database.select("six", method="mads:top", budget=20)
    explanation = database.explain(coreset, coreset.ids[3])
    frame = explanation.neurons
    assert frame.columns == ["neuron", "layer", "unit", "examples", "idf", "overlap"]
    assert frame["overlap"].sum() == pytest.approx(explanation.score, rel=1e-6)
    assert frame["overlap"].is_sorted(descending=True)
    sets = stored(database, "targets", ["mads"], "target = 'six'").values()
    for row in frame.iter_rows(named=True):
        assert row["examples"] == sum(row["neuron"] in each["mads"] for each in sets)
    assert "Neurons; overlap sums to" in str(explanation)


def test_counts_of_a_full_sample_are_frozen(own_copy, monkeypatch):
    monkeypatch.setattr("coresetdb.query.pool_statistics.background.SAMPLE_ROWS", 30)
    database, more = own_copy
    _, scores = naive_overlaps(database, "six", sorted(stored(database, "pool", []))[:30])
    before = database.select("six", method="mads:top", budget=20)
    got = before.table()["score"].to_pylist()
    assert np.allclose(got, [scores[key] for key in before.ids], rtol=1e-6)
    database.ingest(more)
    after = database.select("six", method="mads:top", budget=20)
    assert after.parameters["background"] == before.parameters["background"]
    kept = dict(zip(before.ids, got, strict=True))
    for row in after.table().to_pylist():
        assert row["score"] == kept.get(row["id"], row["score"])
    assert database.replay(before.name).same


def test_a_target_that_changes_nothing_is_said(neuron_store):
    database, _ = neuron_store
    coreset = database.select("six", method="mads", budget=5)
    assert coreset.ids == database.select(method="mads", budget=5).ids
    assert any("the target does not change" in note for note in coreset.notes)


def test_too_much_memory_is_refused(neuron_store):
    database, _ = neuron_store
    with pytest.raises(UsageError, match="above the limit"):
        select(database.store, method="mads", budget="5", memory_limit=1 << 20)


def test_options_and_unfit_features_are_refused(neuron_store):
    database, _ = neuron_store
    with pytest.raises(UsageError, match="choose from sqrt, log1p, capped, binary"):
        database.select(method="mads(g=cube)", budget=5)
    with pytest.raises(UsageError, match="nait keeps no sets"):
        database.select("six", method="nait:coverage", budget=5)
    with pytest.raises(UsageError, match="covers sets: name a representation, as in mads:coverage"):
        database.select(method="coverage", budget=5)


@pytest.mark.parametrize("activation", ["mean", "drift"])
def test_nait_ranks_along_the_targets_directions(neuron_store, activation):
    """From stored columns: numpy's principal component of the examples' stored drifts."""
    database, _ = neuron_store
    names = {"mean": ("nait", "nait_norms"), "drift": ("nait_drift", "nait_drift_norms")}

    def summaries(table, kind, where=None):
        found = stored(database, table, names[kind], where)
        blocks, norms = names[kind]
        return {
            key: np.array(row[blocks], np.float64).reshape(2, -1) * np.array(row[norms])[:, None]
            for key, row in found.items()
        }

    drifts = np.array(list(summaries("targets", "drift", "target = 'six'").values()))
    directions = []
    for layer in (0, 1):
        own = drifts[:, layer]
        direction = np.linalg.svd(own - own.mean(0))[2][0]
        directions.append(direction * np.sign(own.mean(0) @ direction))
    expected = {
        key: sum(row[layer] @ directions[layer] for layer in (0, 1))
        for key, row in summaries("pool", activation).items()
    }
    paper = f"nait(activation={activation},direction=pca,score=dot)"
    coreset = database.select("six", method=paper, budget=80)
    assert len(coreset.ids) == 80
    scores = np.array([expected[key] for key in coreset.ids])
    got = np.array(coreset.table()["score"].to_pylist())
    assert np.linalg.norm(got - scores) < 2e-3 * np.linalg.norm(scores)
    plain = database.select("six", method="nait(direction=pca,score=dot)", budget=80)
    assert (plain.ids == coreset.ids) == (activation == "mean")


def naive_contrast(database, sample=None):
    """Ids by the mean over layers of cos(A - pool mean, target mean - pool mean), best first."""

    def summaries(table, where=None):
        found = stored(database, table, ["nait", "nait_norms"], where)
        return {
            key: [
                np.array(row["nait"][layer * 32 : (layer + 1) * 32]) * row["nait_norms"][layer]
                for layer in (0, 1)
            ]
            for key, row in found.items()
            if row["nait"] is not None
        }

    pool, examples = summaries("pool"), summaries("targets", "target = 'six'")
    scores = dict.fromkeys(pool, 0.0)
    for layer in (0, 1):
        mean = np.mean([pool[key][layer] for key in sample or pool], axis=0)
        direction = np.mean([row[layer] for row in examples.values()], axis=0) - mean
        for key, row in pool.items():
            centred = row[layer] - mean
            lengths = np.linalg.norm(centred) * np.linalg.norm(direction)
            scores[key] += centred @ direction / lengths / 2
    return sorted(scores, key=lambda key: (-scores[key], key)), scores


def test_nait_contrasts_the_target_with_the_pool(neuron_store):
    database, _ = neuron_store
    coreset = database.select("six", method="nait", budget=80)
    order, scores = naive_contrast(database)
    got = coreset.table()["score"].to_pylist()
    assert np.allclose(got, [scores[key] for key in coreset.ids], atol=2e-3)
    assert len(set(coreset.ids[:20]) & set(order[:20])) >= 19
    for row, score in zip(coreset.ids[:3], got, strict=False):
        layers = database.layer_contributions("six", row, "nait")
        assert layers["contribution"].sum() == pytest.approx(score, abs=1e-5)


@pytest.fixture
def own_copy(neuron_store, tmp_path):
    """The store once more, to be changed."""
    database, _ = neuron_store
    shutil.copytree(database.store.uri, tmp_path / "store")
    more = write_jsonl(tmp_path / "more.jsonl", rows(np.random.default_rng(7), 40))
    return coresetdb.connect(str(tmp_path / "store")), more


def test_the_mean_of_a_small_pool_grows_with_it_and_replays_keep_theirs(own_copy):
    database, more = own_copy
    before = database.select("six", method="nait", budget=20, name="before")
    database.ingest(more)
    after = database.select("six", method="nait", budget=20, name="after")
    digests = [each.parameters["background"] for each in (before, after)]
    assert digests[0] != digests[1]
    assert database.replay("before").same and database.replay("after").same
    paper = database.select("six", method="nait(direction=pca,score=dot)", budget=5)
    assert "background" not in paper.parameters


def test_the_mean_of_a_full_sample_is_frozen(own_copy, monkeypatch):
    monkeypatch.setattr("coresetdb.query.pool_statistics.background.SAMPLE_ROWS", 30)
    database, more = own_copy
    lowest = sorted(row for row in stored(database, "pool", ["nait"]).items() if row[1]["nait"])
    _, scores = naive_contrast(database, [key for key, _ in lowest[:30]])
    dry = database.select("six", method="nait", budget=20, dry_run=True)
    assert catalog.find_artifact(database.store, dry.fingerprint, "background") is None
    before = database.select("six", method="nait", budget=20)
    assert before.parameters["background"] == dry.parameters["background"]
    got = before.table()["score"].to_pylist()
    assert np.allclose(got, [scores[key] for key in before.ids], atol=2e-3)
    database.ingest(more)
    after = database.select("six", method="nait", budget=20)
    assert after.parameters["background"] == before.parameters["background"]
    kept = dict(zip(before.ids, got, strict=True))
    for row in after.table().to_pylist():
        assert row["score"] == pytest.approx(kept.get(row["id"], row["score"]), abs=1e-6)
    assert database.replay(before.name).same


def test_a_store_that_cannot_be_written_to_is_contrasted_all_the_same(own_copy, monkeypatch):
    database, _ = own_copy

    def refused(*_):
        raise ReadOnlyStoreError("Read-only file system")

    monkeypatch.setattr(type(database.store), "insert", refused)
    coreset = database.select("six", method="nait", budget=20)
    assert not coreset.saved
    monkeypatch.undo()
    assert coreset.ids == database.select("six", method="nait", budget=20).ids


def test_without_a_pool_there_is_nothing_to_contrast_with(tmp_path):
    store = str(tmp_path / "store")
    database = Database.create(store, backbone=str(tiny_folder()), dtype="float32", features="nait")
    examples = rows(np.random.default_rng(3), 4)
    database.add_target("four", write_jsonl(tmp_path / "four.jsonl", examples))
    with pytest.raises(MissingFeatureError, match="no pool to compare with"):
        database.select("four", method="nait", budget=3)


def test_a_target_of_two_examples_is_added_and_refused_by_nait(neuron_store):
    database, notes = neuron_store
    assert len(notes["two"]) == 1 and "at least 3 examples" in notes["two"][0]
    assert "the target has 6 examples; the direction is stable from 16 on" in notes["six"][0]
    with pytest.raises(UsageError, match="at least 3 examples"):
        database.select("two", method="nait", budget=5)
    assert len(database.select("two", method="mads(weights=target)", budget=5)) == 5

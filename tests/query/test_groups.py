"""Groups of examples: LESS's mean within and maximum over groups, against a naive reference."""

import json
import math

import numpy as np
import pytest
from helpers import toy_stores
from helpers.files import write_jsonl

import coresetdb
from coresetdb.database import Database
from coresetdb.schemas.errors import UsageError

SUBJECTS = ["algebra", "law", "algebra", 7, "law", "algebra", 7, "history"]


@pytest.fixture
def school(store):
    """The store of four topics with a target whose eight examples have four subjects."""
    topics = ("sums", "facts", "sums", "code", "facts", "sums", "poems", "poems")
    examples = [toy_stores.question(topic, 5000 + n) for n, topic in enumerate(topics)]
    metadata = [
        json.dumps({"subject": subject, "part": n} | ({"rare": 1} if n else {}))
        for n, subject in enumerate(SUBJECTS)
    ]
    toy_stores.add_target(store, "school", examples, metadata)
    return Database(store)


def naive(database, subjects=SUBJECTS):
    """Rows and their mean similarity to every group: {subject: (n,)}, in the order of subjects."""
    pool = database.store.dataset("pool").to_table(columns=["id", "rds"]).to_pylist()
    rows = [row for row in pool if row["rds"] is not None]
    examples = database.store.dataset("targets").to_table(filter="target = 'school'").to_pylist()
    examples.sort(key=lambda row: row["position"])
    vectors = np.array([row["rds"] for row in rows], np.float64)
    means = {}
    for subject in dict.fromkeys(subjects):
        own = [row["rds"] for row, each in zip(examples, subjects, strict=True) if each == subject]
        similarities = [vectors @ np.array(example, np.float64) for example in own]
        means[str(subject)] = sum(similarities) / len(similarities)
    return [row["id"] for row in rows], means


@pytest.mark.parametrize("method", ["rds:top", "rds:top(by=max)"])
def test_top_is_the_mean_within_and_the_maximum_over_groups(school, method):
    ids, means = naive(school)
    names = list(means)
    matrix = np.stack([means[name] for name in names])
    scores = matrix.max(axis=0)
    order = sorted(range(len(ids)), key=lambda j: (-scores[j], ids[j]))[:40]
    coreset = school.select("school", method=method, group="subject", budget=40)
    assert coreset.ids == [ids[j] for j in order]
    np.testing.assert_allclose(coreset.table()["score"], scores[order], atol=1e-6)
    assert coreset.table()["query"].to_pylist() == [names[matrix[:, j].argmax()] for j in order]
    assert coreset.method == "rds:top(by=max)" and coreset.parameters["group"] == "subject"
    other = school.select("school", method=method, budget=40)
    assert other.ids != coreset.ids


def test_groups_take_turns_by_round_robin(school):
    ids, means = naive(school)
    used, expected = set(), []
    names = list(means)
    while len(expected) < 30:
        name = names[len(expected) % len(names)]
        order = sorted(range(len(ids)), key=lambda j: (-means[name][j], ids[j]))
        j = next(j for j in order if j not in used)
        used.add(j)
        expected.append((ids[j], name))
    coreset = school.select("school", group="subject", budget=30)
    assert list(zip(coreset.ids, coreset.table()["query"].to_pylist(), strict=True)) == expected


def test_one_group_of_everything_is_the_mean_and_one_each_is_the_maximum(school):
    ids, means = naive(school, [str(n) for n in range(8)])
    each = school.select("school", method="rds:top", group="part", budget=20)
    best = np.stack(list(means.values())).max(axis=0)
    order = sorted(range(len(ids)), key=lambda j: (-best[j], ids[j]))[:20]
    assert each.ids == [ids[j] for j in order]
    assert each.ids == school.select("school", method="rds:top(by=max)", budget=20).ids


def test_groups_are_recorded_replayed_explained_and_shared_by_weight(school):
    made = school.select(
        *("school", "arithmetic"), method="rds:top", budget=20, name="plain", dry_run=True
    )
    with pytest.raises(UsageError, match="'arithmetic' cannot be grouped by 'subject'"):
        school.select("school", "arithmetic", method="rds:top", budget=20, group="subject")
    assert made.parameters.get("group") is None
    school.select("school", method="rds:top", budget=20, group="subject", name="kept")
    assert school.replay("kept").same and school.replay("kept").same_queries
    why = school.explain("kept", 3, without=True)
    assert why.group in {str(subject) for subject in SUBJECTS} and why.pulled_by is None
    assert f"for school, group {why.group} by subject" in str(why)
    assert "group most similar to it" in str(why) and why.without is not None
    assert len(why.examples) == 3 and not any("Which example" in each for each in why.cannot)
    assert math.isfinite(school.open_coreset("kept").distance)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("random", {}, "by cosine"),
        ("rds:uot", {}, "choose by top or round_robin"),
        ("rds:knn_uniform", {}, "a target of its own"),
        ("rds", {"approximate": True}, "single examples"),
        ("rds", {"group": "topic"}, "8 of 8 examples lack it. Fields of its examples: part, rare"),
        ("rds", {"group": "rare"}, "1 of 8 examples lack it"),
    ],
)
def test_what_cannot_be_grouped_says_so(school, method, options, says):
    with pytest.raises(UsageError, match=says):
        school.select("school", method=method, budget=5, **{"group": "subject", **options})


def test_a_field_of_a_file_groups_a_target(tmp_path, tiny_llama):
    rows = [{"prompt": f"Say {n} {'ab'[n % 2]}", "completion": str(n)} for n in range(12)]
    database = coresetdb.create(tmp_path / "pool", backbone=tiny_llama, features="rds")
    database.ingest(write_jsonl(tmp_path / "rows.jsonl", rows))
    tagged = [row | {"subject": "ab"[n % 2]} for n, row in enumerate(rows[:4])]
    database.add_target("school", write_jsonl(tmp_path / "school.jsonl", tagged))
    coreset = database.select("school", method="rds:top", group="subject", budget=3, leakage="off")
    assert set(coreset.table()["query"].to_pylist()) <= {"a", "b"}

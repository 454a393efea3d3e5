"""Options of comparisons by cosine, against naive references on the stored vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.files import write_jsonl
from helpers.tiny_models import tiny_conversations, tiny_folder

from coresetdb.database import Database
from coresetdb.schemas.errors import UsageError

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """A store with gradients of a tiny model and a target of five of its rows."""
    place = tmp_path_factory.mktemp("gradients")
    rows = [
        {"messages": [message.as_dict() for message in row.messages]}
        for row in tiny_conversations()
    ]
    made = Database.create(
        str(place / "store"), backbone=str(tiny_folder()), dtype="float32", features="less:dims=64"
    )
    made.ingest(write_jsonl(place / "pool.jsonl", rows))
    made.add_target("sums", write_jsonl(place / "sums.jsonl", rows[:5]))
    return made


def vectors_of(database, column, target):
    """Ids and vectors (float64) of the pool's rows and of a target's examples that have one."""
    pool = database.store.dataset("pool").to_table(columns=["id", column]).to_pylist()
    pool = [row for row in pool if row[column] is not None]
    examples = database.store.dataset("targets").to_table(filter=f"target = '{target}'").to_pylist()
    examples = [row for row in examples if row[column] is not None]
    examples.sort(key=lambda row: row["position"])
    as_matrix = [np.array([row[column] for row in rows], np.float64) for rows in (pool, examples)]
    return [row["id"] for row in pool], *as_matrix


def naive_turns(ids, similarity, k):
    """Round-robin over the full matrix."""
    chosen = []
    while len(chosen) < k:
        own = similarity[len(chosen) % len(similarity)]
        left = [j for j in range(len(ids)) if j not in chosen]
        chosen.append(min(left, key=lambda j: (-own[j], ids[j])))
    return chosen


def by(scores, ids, k):
    return sorted(range(len(ids)), key=lambda j: (-scores[j], ids[j]))[:k]


def test_either_sign_is_the_squared_cosine(gradients):
    ids, rows, examples = vectors_of(gradients, "less", "sums")
    cosine = examples @ rows.T
    squares, k = cosine**2, len(ids) - 1
    expected = {
        "less(sign=any)": naive_turns(ids, squares, k),
        "less:top(sign=any)": by(squares.mean(axis=0), ids, k),
        "less:top(by=max,sign=any)": by(squares.max(axis=0), ids, k),
    }
    assert (cosine < 0).any() and expected["less(sign=any)"] != naive_turns(ids, cosine, k)
    for method, order in expected.items():
        coreset = gradients.select("sums", method=method, budget=k, leakage="off")
        assert coreset.ids == [ids[j] for j in order], method
        assert coreset.parameters["asked"] == {"sign": "any"} and "sign=any" in coreset.method
        scores = coreset.table()["score"].to_numpy()
        assert ((scores >= 0) & (scores <= 1.001)).all()
        assert gradients.replay(coreset.name).same
    signed = gradients.select("sums", method="less", budget=k, leakage="off")
    assert signed.ids == [ids[j] for j in naive_turns(ids, cosine, k)]
    assert signed.method == "less:round_robin"


def test_either_sign_counts_among_the_nearest(gradients):
    ids, rows, examples = vectors_of(gradients, "less", "sums")
    squares = (examples @ rows.T) ** 2
    mass = np.zeros(len(ids))
    for own in squares:
        mass[by(own, ids, 3)] += 1 / (3 * len(examples))
    coreset = gradients.select(
        "sums", method="less:knn_uniform(Lmax=3,sign=any)", budget=len(ids), leakage="off"
    )
    order = sorted(range(len(ids)), key=lambda j: (-mass[j].round(6), -squares[:, j].mean()))
    assert coreset.ids == [ids[j] for j in order]


def test_either_sign_is_refused_where_it_means_nothing(gradients):
    for method in ("less:uot", "less:knn_kde", "less:k_center"):
        with pytest.raises(UsageError, match="sign=any is for round_robin, top and knn_uniform"):
            gradients.select("sums", method=f"{method}(sign=any)", budget=2)
    with pytest.raises(UsageError, match="sign=both: choose from same, any"):
        gradients.select("sums", method="less(sign=both)", budget=2)
    with pytest.raises(UsageError, match="leave sign=any or --group out"):
        gradients.select("sums", method="less(sign=any)", budget=2, group="subject")
    with pytest.raises(UsageError, match="leave --approximate or sign=any out"):
        gradients.select("sums", method="less(sign=any)", budget=2, approximate=True)


def test_a_fitted_sigma_is_recorded_and_comes_out_again(store):
    database = Database(store)
    method = "rds:knn_kde(sigma=auto,ties=mean)"
    coreset = database.select("arithmetic", method=method, budget=40)
    assert coreset.method == method
    sigma = coreset.parameters["fitted"]["sigma"]
    assert any(f"sigma={sigma:g}, fitted to 240 rows" in note for note in coreset.notes)
    # The sample is of the whole pool: a filter and quotas change nothing of it.
    some = database.select("arithmetic", method=method, budget=40, where="corpus <> 'code'")
    shared = database.select("arithmetic", method=method, budget=40, quota=["sums=50%"])
    assert some.parameters["fitted"] == shared.parameters["fitted"] == {"sigma": sigma}
    named = f"rds:knn_kde(sigma={sigma},ties=mean)"
    assert database.select("arithmetic", method=named, budget=40).ids == coreset.ids
    assert all(database.replay(made.name).same for made in (coreset, some, shared))
    with pytest.raises(UsageError, match="sigma=some: it must be a float or auto"):
        database.select("arithmetic", method="rds:knn_kde(sigma=some)", budget=4)


def without_mean(vectors, mean):
    moved = vectors - mean
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


@pytest.fixture
def centred(store):
    """The toy store, and naive centred vectors: database, ids, rows, examples, mean."""
    database = Database(store)
    ids, rows, examples = vectors_of(database, "rds", "arithmetic")
    mean = rows.mean(axis=0).astype(np.float32).astype(np.float64)  # all: fewer than the sample
    return database, ids, without_mean(rows, mean), without_mean(examples, mean)


def test_without_the_mean_equals_naive(centred):
    database, ids, rows, examples = centred
    cosine = (examples @ rows.T).astype(np.float32)
    plain = database.select("arithmetic", method="rds", budget=60, leakage="off")
    for method, order, scores in (
        ("rds:top(centre=pool)", by(cosine.mean(axis=0), ids, 60), cosine.mean(axis=0)),
        ("rds:top(by=max,centre=pool)", by(cosine.max(axis=0), ids, 60), cosine.max(axis=0)),
        ("rds:round_robin(centre=pool)", naive_turns(ids, cosine, 60), None),
    ):
        coreset = database.select("arithmetic", method=method, budget=60, leakage="off")
        place = {id: j for j, id in enumerate(ids)}
        chosen = [place[id] for id in coreset.ids]
        assert coreset.ids == [ids[j] for j in order], method
        assert coreset.method == method and coreset.ids != plain.ids
        if scores is not None:
            np.testing.assert_allclose(coreset.table()["score"], scores[chosen], atol=1e-6)
        assert database.replay(coreset.name).same
    assert "centre" not in plain.parameters and plain.method == "rds:round_robin"
    scored = database.score("arithmetic", "rds(centre=pool)")
    assert scored.methods == ["rds(centre=pool)"]


def test_a_selector_of_vectors_sees_them_without_the_mean(centred):
    database, ids, rows, _ = centred
    coreset = database.select(method="rds:k_center(centre=pool)", budget=20)
    assert coreset.ids != database.select(method="rds:k_center", budget=20).ids
    rows = rows.astype(np.float16).astype(np.float64)
    first = max(range(len(ids)), key=lambda j: rows[j] @ rows.mean(axis=0))
    chosen = [first]
    while len(chosen) < 20:
        nearest = (rows @ rows[chosen].T).max(axis=1)
        nearest[chosen] = np.inf
        chosen.append(min(range(len(ids)), key=lambda j: (nearest[j].round(6), ids[j])))
    assert coreset.ids == [ids[j] for j in chosen]


def test_the_mean_is_frozen(store, toys, monkeypatch):
    monkeypatch.setattr("coresetdb.query.pool_statistics.centring.CENTRE_ROWS", 50)
    database, method = Database(store), "rds(centre=pool)"
    coreset = database.select("arithmetic", method=method, budget=30)
    recorded = coreset.parameters["centre"]
    assert recorded["rows"] == 50
    late = [toys.question("poems", number) for number in range(900, 1000)]
    store.insert("pool", toys.pool_rows(late, ["late"] * len(late)))
    later = database.select("arithmetic", method=method, budget=30, where="corpus <> 'late'")
    assert later.parameters["centre"]["artifact"] != recorded["artifact"]
    # A replay reads the artifact, not the rows: with another sample it would use another mean.
    monkeypatch.setattr("coresetdb.query.pool_statistics.centring.CENTRE_ROWS", 5)
    assert database.replay(coreset.name).same and database.replay(later.name).same
    dry = database.select("arithmetic", method=method, budget=30, dry_run=True)
    kept = store.dataset("artifacts").to_table(columns=["name"], filter="name = 'centre'")
    assert dry.parameters["centre"]["rows"] == 5 and kept.num_rows == 2


def test_a_centre_is_refused_where_there_is_none(store, gradients):
    database = Database(store)
    with pytest.raises(UsageError, match="leave --approximate or centre=pool out"):
        database.select("arithmetic", method="rds(centre=pool)", budget=5, approximate=True)
    with pytest.raises(UsageError, match="centre=mean: choose from none, pool"):
        database.select("arithmetic", method="rds(centre=mean)", budget=5)
    with pytest.raises(UsageError, match="no option 'centre'"):
        gradients.select("sums", method="less(centre=pool)", budget=2)

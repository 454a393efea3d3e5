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
